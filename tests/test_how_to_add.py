"""What the README says of adding a data set, a backbone and a variant is done here as it is written there.

Its diffs are applied to a copy of the library, and what they add is used by a Python that knows the copy alone.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import TINY

from clipreid_lib.__main__ import parser
from clipreid_lib.params import read
from clipreid_lib.params.schema import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def part(title: str) -> str:
    """The README's text below one heading."""
    return re.split(rf"^#+ {re.escape(title)}$", README, maxsplit=1, flags=re.M)[1].split("\n##", 1)[0]


def applied(title: str, root: Path) -> set[str]:
    """Apply the diff below a heading to a copy, and return the files it touches. No hunk tells its line numbers."""
    (diff,) = re.findall(r"^```diff\n(.*?)^```$", part(title), flags=re.M | re.S)
    touched = set()
    for old_name, name, hunks in re.findall(r"^--- (\S+)\n\+\+\+ b/(\S+)\n(.*?)(?=^--- |\Z)", diff, flags=re.M | re.S):
        assert old_name in ("/dev/null", f"a/{name}")
        file = root / name
        text = "" if old_name == "/dev/null" else file.read_text(encoding="utf-8")
        for hunk in re.split(r"^@@\n", hunks, flags=re.M):
            lines = hunk.splitlines(keepends=True)
            assert all(line[0] in " +-" for line in lines), hunk
            before = "".join(line[1:] for line in lines if line[0] != "+")
            after = "".join(line[1:] for line in lines if line[0] != "-")
            assert not before or f"\n{text}".count(f"\n{before}") == 1, (
                f"the README's {name} is not the library's: {before}"
            )
            text = f"\n{text}".replace(f"\n{before}", f"\n{after}", 1)[1:] if before else after
        file.write_text(text, encoding="utf-8")
        touched.add(name)
    return touched


@pytest.fixture
def copy(tmp_path):
    """A copy of the library with what a run reads beside it."""
    root = tmp_path / "copy"
    shutil.copytree(ROOT / "clipreid_lib", root / "clipreid_lib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("params", "notebooks"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("pictures", ".ipynb_checkpoints"))
    return root


def python(root: Path, *arguments: str) -> str:
    """What a Python says that imports the copy."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_data_set(copy, tmp_path):
    assert "clipreid_lib/datasets/lab.py" in applied("A data set", copy)
    (tmp_path / "palms").mkdir()
    for person in range(6):
        for shot in range(6):
            pixels = np.random.default_rng([person, shot]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "palms" / f"{person:04d}_{shot // 3}_{shot}.png")
    told = python(copy, "-m", "clipreid_lib", "data", "check", "--dataset", "lab", "--root", str(tmp_path))
    assert "our laboratory's palms" in told and told.splitlines()[-1] == "OK"
    data = {"dataset": "lab", "aspect": "palm", "data_root": str(tmp_path)}
    script = f"""
from clipreid_lib import datasets, params
from clipreid_lib.report import model_card
from clipreid_lib.runs import Run
assert params.ASPECTS == {{name: module.SUMMARY.aspects for name, module in datasets.MODULES.items()}}
for protocol in ("own", "common", "cross_session"):
    run = Run.open(params.validated({data} | {{"protocol": protocol, "outputs_root": {str(tmp_path)!r}}}))
    print(protocol, len(run.manifest.train), len(run.manifest.test), run.manifest.test["session"].nunique())
    model_card.facts(run.params, {{"protocols": {{}}}}, {{}}, None)
"""
    assert python(copy, "-c", script).splitlines() == [
        f"{protocol} 18 18 2" for protocol in ("own", "common", "cross_session")
    ]


def test_a_backbone(copy):
    assert applied("A backbone", copy) == {"clipreid_lib/params/recipes.py"}
    (command,) = re.findall(r"^    clipreid run (.*)$", part("A backbone"), flags=re.M)
    script = """
import sys
from clipreid_lib import compose, recipes
from clipreid_lib.batch import preflight
from clipreid_lib.__main__ import parser
from clipreid_lib.clip import backbone
given = parser().parse_args(sys.argv[1:])
runs = read.expand(*read.compose(given.files, given.set))
preflight.check(runs + read.expand({"model": "rn101"}))
known = backbone.open_clip
assert runs[0].pretrained in known.list_pretrained_tags_by_model(runs[0].model)
assert "openai" in known.list_pretrained_tags_by_model(recipes.ALIASES["rn101"])
assert recipes.recipe_of(runs[0].model) is recipes.VIT
print(read.expand({"model": "rn101"})[0].resolved().batch_size, recipes.RESNET.batch_size)
"""
    assert python(copy, "-c", script, "run", *shlex.split(command)).split() == ["32", "64"]


def test_a_variant(copy, tmp_path):
    assert len(applied("A variant", copy)) == 4
    values = {**TINY, "variant": "means", "encoder_epochs": 1, "outputs_root": str(tmp_path)}
    script = f"""
from clipreid_lib import encoder_finetune, stages
from clipreid_lib.params import validated
from clipreid_lib.report import grid_page, model_card
from clipreid_lib.runs import Run
run = Run.open(validated({values}))
_, log = encoder_finetune.finetune_encoder(run, stages.load_backbone(run))
stages.load_trained(run)
assert (log["loss"] - log["identity"] - log["means"]).abs().max() < 1e-4 and log["means"].min() > 0
assert "pull to the mean" in model_card.facts(run.params, {{"protocols": {{}}}}, {{}}, None)["Model"]
assert "means" in grid_page.LADDER
print(*run.params.notebooks)
"""
    last = python(copy, "-c", script).splitlines()[-1]
    assert last.split() == ["03_encoder_finetune", "04_evaluation", "05_retrieval_visualisation"]


def commands() -> list[str]:
    """Every `clipreid` command of the pages, continued lines joined."""
    pages = README + (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    lines = re.sub(r"\\\n", " ", pages).splitlines()
    found = [re.match(r" {4,}(?:\S*/)?clipreid ([a-z].*)", line) for line in lines]
    return [match[1] for match in found if match]


@pytest.mark.parametrize("command", commands())
def test_every_command_on_the_pages_is_understood(command):
    words = shlex.split(re.sub(r"\[(RUN|FILE) \.\.\.\]", "", command), comments=True)
    given = parser().parse_args(words)
    if getattr(given, "files", ["FILES"]) != ["FILES"]:
        assert read.expand(*read.compose([ROOT / file for file in given.files], given.set))


def test_what_the_pages_point_at_is_there():
    for page in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "outputs/README.md"):
        text = re.sub(r"^```diff\n.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", text):
            assert ((ROOT / page).parent / link).exists(), f"{page}: {link}"
        for name in re.findall(r"`((?:clipreid_lib|params|tests|notebooks)/[\w./]*)`", text):
            assert (ROOT / name).exists(), f"{page}: {name}"
    for anchor in re.findall(r"\]\(#([\w-]+)\)", README):
        titles = re.findall(r"^## (.+)$", README, flags=re.M)
        assert anchor in {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


def test_the_readme_names_every_part_of_the_library():
    named = set(re.findall(r"`([\w/]+)`", part("The library")))
    there = {
        p.stem if p.is_file() else f"{p.name}/" for p in (ROOT / "clipreid_lib").iterdir() if p.suffix in ("", ".py")
    }
    assert there - {"__init__", "__pycache__/"} <= named
