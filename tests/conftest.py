"""Fixtures: hands and runs as small as they can be while everything still happens (tiny, for speed)."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from small_rankings import draw_pictures, table
from small_runs import JOBS, LADDER, TINY, run

from clipreid_lib.base.files import locked, write_json
from clipreid_lib.embedded import synthetic_hands
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.params import check  # noqa: F401  before any test imports open_clip
from clipreid_lib.runs.run import Run

os.environ["CLIPREID_SAVE_EVERY"] = "0"  # tests kill trainings, here and in children, within their first minute
torch.set_num_threads(1)  # tiny tensors gain nothing from more, and lose much on a busy machine

REAL = Path(__file__).resolve().parents[2] / "shared" / "real_hands"


# Fixtures that make a test one of these kinds, whatever it is marked by itself.
BY_FIXTURE = {
    **{"ladder": "training", "made_ladder": "training", "cluster": "training"},
    **{"chromium": "browser", "demo": "slow", "execute": "slow", "finished": "slow"},
}
# The files whose tests add to the ladder share a worker.
OF_LADDER = ("test_jupyterlab", "test_notebooks", "test_report")
# The longest first, so that two workers end together. While one makes the ladder, the other waits for SLURM.
LONGEST = (*OF_LADDER, "test_slurm", "test_survives", "test_demo_numbers", "test_chain")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark tests by the fixtures they use, put the longest files first, leave what takes many minutes to `-m long`."""
    if config.option.markexpr != "long":
        items[:] = [item for item in items if "long" not in item.keywords]
    for item in items:
        for fixture in set(BY_FIXTURE) & set(item.fixturenames):
            item.add_marker(BY_FIXTURE[fixture])
        assert "ladder" not in item.fixturenames or item.path.stem in OF_LADDER, f"OF_LADDER lacks {item.path.stem}"
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Give each worker whole files with `--dist loadfile`, and one worker all files of the ladder."""
    # Marks of groups would say it too; xdist 3.8 loses them with pytest 9.2.
    from xdist.scheduler import LoadFileScheduling

    class LadderTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ladder" if Path(file).stem in OF_LADDER else file

    return LadderTogether(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def real_hands() -> Path:
    """The real piece of 11k Hands, where this machine has it."""
    if not (REAL / "HandInfo.csv").is_file():
        pytest.skip("the real photographs are not on this machine")
    return REAL


@pytest.fixture(scope="session")
def hands(tmp_path_factory) -> Path:
    """A tiny synthetic data set in 11k Hands' layout."""
    root = tmp_path_factory.mktemp("hands") / "set"
    return synthetic_hands.write_dataset(root, people=8, images_per_aspect=4, sessions=2, seed=5)


@pytest.fixture(scope="session")
def shared_outputs(tmp_path_factory) -> Path:
    """One outputs folder for a whole test session, so that the demo hands are drawn once."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def drawn_hands(shared_outputs):
    """Let an outputs folder of a test's own share the demo hands that are drawn once."""

    def share(outputs: Path) -> None:
        outputs.mkdir(parents=True, exist_ok=True)
        (shared_outputs / "demo_hands").mkdir(exist_ok=True)
        (outputs / "demo_hands").symlink_to(shared_outputs / "demo_hands")

    return share


@pytest.fixture
def open_run(shared_outputs, drawn_hands):
    """Make a tiny run; keyword arguments override its params, ``fresh`` gives it outputs of its own."""

    def make(fresh: Path | None = None, **overrides) -> Run:
        values = {**TINY, "outputs_root": str(fresh or shared_outputs), **overrides}
        if fresh is not None and not (fresh / "demo_hands").exists():
            drawn_hands(fresh)
        return Run.open(check.validate_params(values))

    return make


@pytest.fixture(scope="session")
def made_ladder(tmp_path_factory) -> Path:
    """The folder of one tiny clipid run and one frozen run, by the command line, from an unrelated folder.

    All workers share it: the first that asks makes it, and others wait. In it, `said.json` has what was said, and
    `as made` a copy of the outputs that no test may change.
    """
    base = tmp_path_factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "a place with spaces, ü and {braces}"
    place.mkdir(exist_ok=True)
    with locked(place / ".lock"):
        if not (place / "said.json").exists():
            mine = {"variant": ["frozen", "clipid"], **LADDER, "outputs_root": str(place / "out")}
            (place / "mine.yaml").write_text(json.dumps(mine))  # JSON is YAML
            done = run(place, str(place / "mine.yaml"), *JOBS)
            if done.returncode == 0:
                shutil.copytree(place / "out", place / "as made", ignore=shutil.ignore_patterns(".locks"))
            write_json(place / "said.json", [done.returncode, done.stdout, done.stderr])
    return place


@pytest.fixture(scope="session")
def ladder(made_ladder):
    """The ladder, and how its command ended. The tests of the files that share a worker may add to its outputs."""
    return made_ladder, subprocess.CompletedProcess([], *json.loads((made_ladder / "said.json").read_text()))


@pytest.fixture
def small(tmp_path):
    """Three queries: right at rank 1; right at rank 3; right only at rank 4, behind a distractor."""
    query = table([1, 2, 3], "q", subject=[1, 2, 3], role="test")
    shelf = table([1, 2, 3, 11000003], "g", subject=[1, 2, 3, 3], role=["test"] * 3 + ["distractor"])
    shelf.loc[3, "aspect"] = "dorsal_l"
    scores = np.array([[0.9, 0.5, 0.1, 0.0], [0.8, 0.2, 0.3, 0.1], [0.7, 0.6, -0.4, 0.95]])
    draw_pictures(tmp_path, query, shelf)
    query.index, shelf.index = [7, 5, 5], [9, 3, 3, 0]  # cut from a larger table, so labels are no positions
    return Ranking(query, shelf, scores), tmp_path


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, driven by Playwright; the tests that need it are skipped where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    with playwright.sync_playwright() as driver:
        # --no-sandbox: in a container Chromium's own sandbox is not to be had, and it opens our own files alone
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def look(chromium):
    """Open a file in Chromium; at the end of the test nothing may have been complained of or asked for elsewhere."""
    opened, complaints, asked = [], [], []

    def open_file(path: Path, width: int = 1200, height: int = 900, **more):
        page = chromium.new_page(viewport={"width": width, "height": height}, **more)
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        opened.append(page)
        return page

    yield open_file
    for page in opened:
        page.close()
    assert complaints == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
