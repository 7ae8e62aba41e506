"""The library from its folder alone, as on a machine that has the packages and where nobody installed it."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from clipreid_lib.base.files import write_yaml

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_a_run_from_the_projects_folder_needs_no_installation(tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    (site,) = (tmp_path / "env").glob("lib/python*/site-packages")
    (site / "packages.pth").write_text(sysconfig.get_path("purelib") + "\n")  # without what was installed editable
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["JUPYTER_PATH"] = str(Path(sys.prefix, "share", "jupyter"))
    alone = [python, "-c", "import clipreid_lib"]
    elsewhere = subprocess.run(alone, cwd=tmp_path, env=environment, capture_output=True)
    assert b"ModuleNotFoundError" in elsewhere.stderr
    settings = {"dataset": "demo", "variant": "frozen", "demo_people": 12, "demo_images": 6}
    write_yaml(tmp_path / "frozen.yaml", settings | {"outputs_root": str(tmp_path / "outputs")})
    command = [python, "-m", "clipreid_lib", "run", tmp_path / "frozen.yaml"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
