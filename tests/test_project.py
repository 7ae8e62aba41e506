"""What holds the project's own files together."""

import re
import subprocess
import sys
import tomllib

import yaml

from clipreid_lib import __version__
from clipreid_lib.params.schema import ROOT

CONDA_NAMES = {  # pip's name -> conda-forge's, where they differ
    "torch": "pytorch",
    "open-clip-torch": "open-clip-torch",
    "matplotlib": "matplotlib-base",
    "seaborn": "seaborn-base",
}


def test_environment_yml_spells_pyprojects_dependencies():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    conda = {line for line in environment["dependencies"] if isinstance(line, str)}
    wanted = {f"python{project['requires-python']}", "pip", "setuptools>=68"}
    for line in project["dependencies"]:
        name, bounds = re.fullmatch(r"([\w.-]+)(.*)", line).groups()
        name = name.replace("_", "-")
        wanted.add(CONDA_NAMES.get(name, name) + bounds)
    assert conda == wanted
    assert environment["dependencies"][-1] == {"pip": ["-e ."]}


def test_the_top_level_is_the_one_agreed():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    if not any(listed):
        return  # a source archive has no git
    top = {name.partition("/")[0] for name in listed if name}
    assert top <= {
        *("notebooks", "clipreid_lib", "params", "outputs", "environment.yml", "README.md", "pyproject.toml"),
        *("Makefile", "tests", "LICENSE", ".ci", ".gitignore", "CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md"),
    }
    assert [name for name in listed if name.startswith("outputs/")] == ["outputs/README.md"]


def test_the_citation_is_of_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0" and citation["message"] and citation["title"]
    assert citation["version"] == project["version"] == __version__
    assert citation["authors"] == [{"name": "The clipreid-hands authors"}]
    assert f"Copyright (c) 2026 {citation['authors'][0]['name']}" in (ROOT / "LICENSE").read_text()
    for work in citation["references"]:
        assert work["type"] and work["title"] and work["authors"]
    assert f"[{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()


def test_shipped_files_stay_small():
    shipped = list((ROOT / "clipreid_lib" / "embedded" / "weights").iterdir())
    assert sum(path.stat().st_size for path in shipped) < 10_000_000
    others = [path for path in (ROOT / "clipreid_lib").rglob("*.py")]
    assert max(path.stat().st_size for path in others) < 30_000


def test_ruff_finds_nothing_in_code_and_notebooks():
    for arguments in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *arguments, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
