import os
import subprocess
import sys

import pytest

from clipreid_lib.__main__ import main
from clipreid_lib.params import ROOT

BASE = str(ROOT / "params" / "base.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "epohcs=3"], "--set epohcs=3: unknown key 'epohcs'; did you mean 'epochs'?"),
        (["--set", "encoder_lr=fast"], "--set encoder_lr=fast: encoder_lr: "),
        (["--set", "aspect=[]"], "the list is empty"),
        (["--set", "aspect=thumb"], "'dorsal_r', 'dorsal_l', 'palmar_r' or 'palmar_l'"),
        (["--jobs", "0"], "--jobs 0: give at least 1"),
    ],
)
def test_mistakes_cost_one_line_and_status_2(capsys, arguments, message):
    assert main(["run", BASE, *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("clipreid: ") and message in err and err.count("\n") == 1


def test_a_missing_file_and_an_unwritable_folder(capsys, tmp_path):
    assert main(["run", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml: cannot be read" in capsys.readouterr().err
    (tmp_path / "file").write_text("in the way")
    assert main(["run", BASE, "--set", f"outputs_root={tmp_path}/file/out"]) == 2
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data_root=/nowhere", "data_root: /nowhere is not a folder"),
        ("aspect=dorsal_l", "no usable image of 'dorsal_l'"),
    ],
)
def test_mistakes_about_data_are_one_line_too(real_hands, tmp_path, override, message):
    command = [sys.executable, "-m", "clipreid_lib", "run", BASE]
    for item in ("dataset=11k", "model=embedded", f"data_root={real_hands}", "allow_missing=true", override):
        command += ["--set", item]
    command += ["--set", f"outputs_root={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1 and "Traceback" not in done.stdout + done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "FAILED" in line]
    assert message in line


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys, clipreid_lib.__main__; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
