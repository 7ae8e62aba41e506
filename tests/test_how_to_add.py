"""What the library's README says of adding a data set, a backbone, a loss and a variant is done here as written there.

Its diffs are applied to a copy of the library, and what they add is used by a Python that knows the copy alone. The
commands, links and names of all pages are checked too.
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

PAGES = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "clipreid_lib/README.md"),
    *("params/README.md", "notebooks/README.md", "outputs/README.md"),
)
LIBRARY = (ROOT / "clipreid_lib" / "README.md").read_text(encoding="utf-8")


def part(title: str, page: str = LIBRARY) -> str:
    """A page's text below one heading."""
    return re.split(rf"^#+ {re.escape(title)}$", page, maxsplit=1, flags=re.M)[1].split("\n##", 1)[0]


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
    assert "clipreid_lib/data/lab.py" in applied("A data set", copy)
    (tmp_path / "palms").mkdir()
    for person in range(6):
        for shot in range(6):
            pixels = np.random.default_rng([person, shot]).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "palms" / f"{person:04d}_{shot // 3}_{shot}.png")
    told = python(copy, "-m", "clipreid_lib", "data", "check", "--dataset", "lab", "--root", str(tmp_path))
    assert "our laboratory's palms" in told and told.splitlines()[-1] == "OK"
    data = {"dataset": "lab", "aspect": "palm", "data_root": str(tmp_path)}
    script = f"""
from clipreid_lib.data import datasets
from clipreid_lib.pages import model_card
from clipreid_lib.params import check, schema
from clipreid_lib.runs.run import Run
assert set(schema.ASPECTS) == set(datasets.MODULES)
for protocol in ("own", "common", "cross_session"):
    run = Run.open(check.validate_params({data} | {{"protocol": protocol, "outputs_root": {str(tmp_path)!r}}}))
    print(protocol, len(run.manifest.train), len(run.manifest.test), run.manifest.test["session"].nunique())
    model_card.fill_card(run.params, {{"protocols": {{}}}}, {{"train": (9, 3)}}, (0, 0))
"""
    assert python(copy, "-c", script).splitlines() == [
        f"{protocol} 18 18 2" for protocol in ("own", "common", "cross_session")
    ]


@pytest.mark.heavy
def test_a_backbone(copy):
    assert applied("A backbone", copy) == {"clipreid_lib/params/recipes.py"}
    commands = re.findall(r"^    clipreid run (.*)$", part("A backbone"), flags=re.M)
    script = """
import sys
from clipreid_lib.__main__ import parser
from clipreid_lib.clip import backbone
from clipreid_lib.params import read, recipes
from clipreid_lib.runs import preflight
given = parser().parse_args(sys.argv[1:])
runs = read.expand(*read.compose(given.files, given.set))
preflight.check(runs + read.expand({"model": "rn101"}))
assert not runs[0].model.startswith("timm/") or sys.exit(print("ok"))
known = backbone.open_clip
assert runs[0].pretrained in known.list_pretrained_tags_by_model(runs[0].model)
assert "openai" in known.list_pretrained_tags_by_model(recipes.ALIASES["rn101"])
assert recipes.recipe_of(runs[0].model) is recipes.VIT
print(read.expand({"model": "rn101"})[0].resolved().batch_size, recipes.RESNET.batch_size)
"""
    said = [python(copy, "-c", script, "run", *shlex.split(command)).split() for command in commands]
    assert said == [["32", "64"], ["ok"]]


@pytest.mark.heavy
def test_a_loss_and_a_variant(copy, tmp_path):
    """Training with the loss in plain Python and by the variant gives the same log."""
    assert applied("A loss", copy) == {"clipreid_lib/method/mean_loss.py"}
    assert len(applied("A variant", copy)) == 4
    values = {**TINY, "variant": "mean", "encoder_epochs": 1, "outputs_root": str(tmp_path)}
    script = f"""
from clipreid_lib.method.encoder_finetune import finetune
from clipreid_lib.method.loss_terms import IdentityLoss, Term
from clipreid_lib.method.mean_loss import pull_to_mean
from clipreid_lib.pages import model_card
from clipreid_lib.params.check import validate_params
from clipreid_lib.runs import loading, training
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import ladder
run = Run.open(validate_params({values}))
def train(terms):
    clip = loading.load_backbone(run)
    data = training.load_training_set(run, clip)
    return clip, *finetune(clip, data.images, data.labels, terms, training.encoder_settings(run))
terms = training.loss_terms(run, None)
clip, model, log = train(terms)
training.save_encoder(run, clip, model, terms)
loading.load_trained_encoder(run)
assert (log["loss"] - log["identity"] - log["mean"]).abs().max() < 1e-4 and log["mean"].min() > 0
*_, plain = train({{"identity": Term(run.params.id_weight, IdentityLoss()), "mean": Term(1.0, pull_to_mean)}})
assert plain["mean"].equals(log["mean"])
parts = {{"train": (9, 3)}}
assert "pull to the mean" in model_card.fill_card(run.params, {{"protocols": {{}}}}, parts, (0, 0))["Model"]
assert "mean" in ladder.LADDER
print(*run.params.notebooks)
"""
    last = python(copy, "-c", script).splitlines()[-1]
    assert last.split() == ["03_encoder_finetune", "04_evaluation", "05_retrieval_visualisation"]


def without_diffs(page: str) -> str:
    return re.sub(r"^```diff\n.*?^```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.M | re.S)


def commands() -> list[str]:
    """Every `clipreid` command of the pages, continued lines joined."""
    lines = re.sub(r"\\\n", " ", "\n".join(map(without_diffs, PAGES))).splitlines()
    found = [re.match(r" {4,}(?:\S*/)?clipreid ([a-z].*)", line) for line in lines]
    return list(dict.fromkeys(match[1] for match in found if match))


@pytest.mark.parametrize("command", commands())
def test_every_command_on_the_pages_is_understood(command):
    words = shlex.split(re.sub(r"\[(RUN|FILE) \.\.\.\]", "", command), comments=True)
    given = parser().parse_args(words)
    if getattr(given, "files", ["FILES"]) != ["FILES"]:
        assert read.expand(*read.compose([ROOT / file for file in given.files], given.set))


def anchors(page: Path) -> set[str]:
    """The headings of a page as links write them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_what_the_pages_point_at_is_there(page):
    text, folder = without_diffs(page), (ROOT / page).parent
    for link, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([\w-]*)\)", text):
        target = folder / link if link else ROOT / page
        assert target.exists(), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}#{anchor}"
    now = text if page != "CHANGELOG.md" else ""  # which also names what is gone
    for name in re.findall(r"`((?:clipreid_lib|params|tests|notebooks)/[\w./]*)`", now):
        assert (ROOT / name).exists(), f"{page}: {name}"


def results(page: str, title: str) -> dict[str, list[str]]:
    """Rank-1 of the first table below a heading, by its row's name without `variant=`."""
    rows = re.findall(r"^\| (.+) \|$", part(title, (ROOT / page).read_text(encoding="utf-8")), flags=re.M)
    cells = [row.replace("variant=", "").split(" | ") for row in rows]
    return {name: [value.split(" / ")[0] for value in values] for name, *values in cells}


def test_the_first_page_is_short_and_its_results_are_those_of_the_outputs_page():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
    short, long = results("README.md", "Results"), results("outputs/README.md", "What was measured")
    assert short["32x32 grey pixels"] == long["(32x32 grey pixels, reported by each run)"]
    for name in ("`frozen`", "`classifier`", "`clipid`", "`clipid_no_text`"):
        assert short[name] == long[name], name


def test_the_library_page_names_every_room_and_only_modules_that_exist():
    room, rooms = "", set()
    for line in re.findall(r"^    ( *\S.*)$", part("The rooms"), flags=re.M):
        if not line.startswith(" "):
            room = line.split("/")[0]
            rooms.add(room)
            continue
        for module in re.split(r" {2,}", line.strip())[0].split(", "):  # one line may name several
            assert (ROOT / "clipreid_lib" / room / f"{module}.py").is_file(), f"{room}/{module}.py"
    there = {path.parent.name for path in (ROOT / "clipreid_lib").glob("*/__init__.py")}
    assert rooms == there
    diagram = part("The library", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert there <= set(re.findall(r"\w+", diagram))
