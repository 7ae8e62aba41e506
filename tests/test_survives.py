"""Runs that are killed, starved of disk, cut short or started twice: `run` again ends as if nothing had happened.

Real runs, as small as they can be. One chain is killed again and again, each time further on, until it ends.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
import pytest
import safetensors.torch
import torch
from small_runs import JOBS, LADDER

from clipreid_lib.base.files import read_json
from clipreid_lib.params import check, schema
from clipreid_lib.params.read import read_yaml
from clipreid_lib.runs import records
from clipreid_lib.runs.chain import Chain
from clipreid_lib.runs.run import Run

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals and process groups"),
]

AWKWARD = 'it\'s a "place" with {braces} and ü 手'
SURVEY, PROMPTS, ENCODER, SCORES, GALLERY = schema.NOTEBOOKS
GONE_WITHIN = 20  # seconds for the processes of a run that is killed to end by themselves; about 1 on an idle machine
TRIED, SURVIVED = Counter(), Counter()  # (what was done, where)


@dataclass
class Place:
    """A folder with a params file and its outputs, and the runs that are started there.

    Attributes:
        folder: where `clipreid run` is called.
        started: every notebook that any of the runs began, in order.
        expected: those that ought to be, where that is kept count of.
        harms: what was done to it, and where.
    """

    folder: Path
    settings: dict = field(default_factory=lambda: dict(LADDER))
    started: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)
    harms: list[tuple[str, str]] = field(default_factory=list)

    def harm(self, what: str, where: str) -> None:
        """Note what is being done to it."""
        self.harms.append((what, where))
        TRIED[what, where] += 1

    @property
    def outputs(self) -> Path:
        return self.folder / "out {puts}"

    def run_folder(self) -> Path:
        (found,) = (self.outputs / "runs").iterdir()
        return found

    def path_of(self, notebook: str) -> Path:
        """The folder of the run, or of the data, that a notebook works for."""
        data = notebook == SURVEY
        return next((self.outputs / ("data" if data else "runs")).glob("*"), self.outputs / "not yet")

    def start(self, name: str = "said") -> subprocess.Popen:
        """Begin `clipreid run` in a session of its own, as a terminal would."""
        self.folder.mkdir(parents=True, exist_ok=True)
        mine = self.folder / "mine.yaml"
        mine.write_text(json.dumps(self.settings | {"outputs_root": str(self.outputs)}))  # JSON is YAML
        with open(self.folder / f"{name}.out", "w") as out, open(self.folder / f"{name}.err", "w") as err:
            command = [sys.executable, "-m", "clipreid_lib", "run", "mine.yaml", *JOBS]
            return subprocess.Popen(
                command,
                cwd=self.folder,
                stdout=out,
                stderr=err,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                # a test run that was itself put into the background ignores Ctrl-C, and its children would too
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )

    def end(self, runner: subprocess.Popen, name: str = "said") -> tuple[int, str, str]:
        """Wait for a run; return its status and what it said, having noted what it began."""
        status = runner.wait(timeout=400)
        out, err = ((self.folder / f"{name}.{stream}").read_text() for stream in ("out", "err"))
        self.started += re.findall(r": (\d\d_\w+) starts$", out, re.M)
        return status, out, err

    def said(self) -> str:
        return (self.folder / "said.out").read_text()

    def run(self) -> tuple[int, str, str]:
        return self.end(self.start())

    def run_well(self) -> list[str]:
        """Run to the end; return the notebooks that were begun."""
        before = len(self.started)
        status, out, err = self.run()
        assert status == 0, out + err
        return self.started[before:]

    def cells(self, notebook: str, since: float) -> int:
        """How many cells of a notebook a run has completed that was started then; -1 before it is at work on it."""
        folder = self.path_of(notebook)
        running = read_json(folder / "running.json")
        path = folder / "notebooks" / f"{notebook}.ipynb"
        if running is None or running["notebook"] != notebook or running["began"] < since:
            return -1
        try:
            if path.stat().st_mtime < running["began"]:  # an earlier run's
                return -1
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        except (OSError, ValueError):  # papermill is writing it
            return -1
        return sum(cell["metadata"].get("papermill", {}).get("status") == "completed" for cell in cells)

    def epochs(self, notebook: str) -> int:
        name = "prompts.csv" if notebook == PROMPTS else "encoder.csv"
        path = self.path_of(notebook) / "train_logs" / name
        return len(pd.read_csv(path)) if path.exists() else 0


@pytest.fixture(scope="module")
def reference(made_ladder) -> Path:
    """The outputs folder of a clipid run and a frozen run that nothing disturbed."""
    return made_ladder / "as made"


def undisturbed(reference: Path, variant: str = "clipid") -> Path:
    (folder,) = (reference / "runs").glob(f"*-{variant}-*")
    return folder


def beside(reference: Path, tmp_path: Path, with_run: bool = False) -> Place:
    """Make another place with the same demo hands, and a copy of the finished clipid run where it is wanted."""
    place = Place(tmp_path / AWKWARD)
    place.outputs.mkdir(parents=True)
    fill(place, reference, with_run)
    return place


def fill(place: Place, reference: Path, with_run: bool) -> None:
    (place.outputs / "demo_hands").symlink_to(reference / "demo_hands")
    if with_run:
        for folder in (reference / "data", reference / "features", undisturbed(reference)):
            shutil.copytree(folder, place.outputs / folder.relative_to(reference))


def assert_same(mine: Path, theirs: Path) -> None:
    """Compare everything two runs found, to the last digit."""
    for name in ("manifest.csv", "per_query.csv", "per_draw.csv", "subgroups.csv"):
        assert (mine / name).read_bytes() == (theirs / name).read_bytes(), name
    left, right = (json.loads((f / "metrics.json").read_text()) for f in (mine, theirs))
    assert left.keys() == right.keys()
    apart = ("seconds", "checkpoint_sha", "git")  # time taken; facts in the weights' file tell the outputs folder
    assert {k: v for k, v in left.items() if k not in apart} == {k: v for k, v in right.items() if k not in apart}
    assert_trained_alike(mine, theirs)
    assert {path.stem for path in (mine / "done").iterdir()} == {path.stem for path in (theirs / "done").iterdir()}
    assert not (mine / "running.json").exists() and not (mine / "failed.json").exists()


def assert_trained_alike(mine: Path, theirs: Path) -> None:
    weights, others = (sorted(path.name for path in (f / "saved_models").glob("*")) for f in (mine, theirs))
    assert weights == others
    for name in (weight.removesuffix(".safetensors") for weight in weights):
        ours, its = (safetensors.torch.load_file(f / "saved_models" / f"{name}.safetensors") for f in (mine, theirs))
        assert ours.keys() == its.keys() and all(torch.equal(ours[key], its[key]) for key in its), name
        logs = [pd.read_csv(f / "train_logs" / f"{name}.csv").drop(columns="seconds") for f in (mine, theirs)]
        pd.testing.assert_frame_equal(*logs, check_exact=True)


def cut(path: Path) -> None:
    """Leave the first half of a file, as a full disk or a pulled plug may."""
    os.truncate(path, path.stat().st_size // 2)


def no_traceback(*said: str) -> bool:
    return not any("Traceback" in text for text in said)


# ------------------------------------------------------------------------------------------------ kills


# Every notebook is killed, and every way to die is tried: three of them in mid-training.
# Last, what is cut in half after the kill, as one in mid-write on a lesser disk might leave it.
KILLS = [
    (SURVEY, "group", None),
    (PROMPTS, "newborn's runner", None),
    (PROMPTS, "SIGTERM", None),
    (ENCODER, "runner", "saved_models/prompts.safetensors"),
    (ENCODER, "kernel", "saved_models/encoder.resume.pt"),
    (ENCODER, "SIGINT", "manifest.csv"),
    (SCORES, "group", None),
    (GALLERY, "runner", "metrics.json"),
]
# Which finished notebook has to be done again after that; in the others nothing finished is lost.
LOST = {"prompts.safetensors": PROMPTS, "metrics.json": SCORES}
IN_TRAINING = 2  # further epochs before an encoder's training is killed


@pytest.fixture(scope="module")
def chain(reference, tmp_path_factory) -> Place:
    """The run that is killed."""
    place = beside(reference, tmp_path_factory.mktemp("killed"))
    place.expected = list(schema.NOTEBOOKS)
    return place


@pytest.mark.parametrize(
    ("notebook", "how", "then_cut"), KILLS, ids=[f"{notebook[:2]}-{how}" for notebook, how, _ in KILLS]
)
def test_killed(chain, notebook, how, then_cut):
    chain.harm(f"SIGKILL of the {how}" if how.islower() else how, notebook)
    newborn = how == "newborn's runner"  # killed while the process it has started is not yet up
    trained, cells = chain.epochs(notebook), 1 + TRIED.total() % 5  # each time somewhere else
    resumable = (chain.path_of(notebook) / "saved_models" / "encoder.resume.pt").exists()
    if notebook == ENCODER and not resumable:
        trained = 0
    since, runner = time.time(), chain.start()

    def there() -> bool:
        done = chain.cells(notebook, since)
        if newborn:
            return bool(psutil.Process(runner.pid).children()) and f"{notebook} starts" in chain.said()
        if notebook == ENCODER:
            return done >= 0 and chain.epochs(notebook) >= trained + IN_TRAINING
        return done >= cells

    deadline = time.monotonic() + 200
    while not there():
        assert runner.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    family = psutil.Process(runner.pid).children(recursive=True)
    if how in ("runner", "newborn's runner"):
        runner.kill()
    elif how == "kernel":
        (kernel,) = [process for process in family if "ipykernel_launcher" in " ".join(process.cmdline())]
        kernel.kill()
    elif how == "group":
        for group in {os.getpgid(process.pid) for process in (psutil.Process(runner.pid), *family)}:
            os.killpg(group, signal.SIGKILL)
    else:
        runner.send_signal(signal.Signals[how])
    _, alive = psutil.wait_procs(family, timeout=GONE_WITHIN)
    assert not alive
    status, out, err = chain.end(runner)  # of a killed kernel's runner after the summary and the reports
    assert no_traceback(out, err)
    folder = chain.path_of(notebook)
    if how == "kernel":
        assert status == 1 and "the kernel died" in out
        assert read_json(folder / "failed.json")["notebook"] == notebook
    elif how.islower():
        assert status == -signal.SIGKILL
    else:
        assert status == 130 and "stopped; the same command goes on" in err
        assert not (folder / "running.json").exists()
    assert not (folder / "done" / f"{notebook}.json").exists()
    if notebook == ENCODER:
        assert 0 < chain.epochs(notebook) < LADDER["encoder_epochs"]
    chain.expected.append(notebook)
    if then_cut is not None:
        cut(folder / then_cut)
        lost = LOST.get(Path(then_cut).name)
        chain.expected += [lost] if lost else []
        chain.harm("cut short", then_cut)


def test_what_was_killed_ends_as_if_nothing_had_happened(chain, reference):
    """Every notebook was begun once, and once more for each time it was killed or its outcome was cut short."""
    (chain.run_folder() / "saved_models" / ".encoder.safetensors.half.safetensors").write_text("killed in mid-write")
    chain.run_well()
    assert_same(chain.run_folder(), undisturbed(reference))
    assert Counter(chain.started) == Counter(chain.expected)
    log = (chain.run_folder() / "log.txt").read_text()
    assert "going on after epoch" in log
    SURVIVED.update(chain.harms)


# ------------------------------------------------------------------------------------------------ two at once


def test_two_at_once_share_the_work(reference, tmp_path):
    """The frozen run is enough: a training is shared under the same locks."""
    place = Place(tmp_path / AWKWARD)
    place.settings["variant"] = "frozen"
    runners = {name: place.start(name) for name in ("one", "other")}
    for name, runner in runners.items():
        status, out, err = place.end(runner, name)
        assert status == 0 and no_traceback(out, err), out + err
    assert Counter(place.started) == Counter([SURVEY, SCORES, GALLERY])
    assert_same(place.run_folder(), undisturbed(reference, "frozen"))
    board = pd.read_csv(place.outputs / "leaderboard.csv")
    assert not board.duplicated(["run", "protocol"]).any() and board["run"].nunique() == 1
    assert place.run_well() == []
    TRIED["two at once", "a run"] += 1
    SURVIVED["two at once", "a run"] += 1


# ------------------------------------------------------------------------------------------------ files


def test_cut_short_after_the_end_and_the_clock_set_back(reference, tmp_path):
    place = beside(reference, tmp_path, with_run=True)
    folder = place.run_folder()
    records.begin(folder, GALLERY)
    tomorrow = time.time() + 24 * 3600
    for path in place.outputs.rglob("*"):
        if not path.is_symlink() and "demo_hands" not in path.parts:
            os.utime(path, (tomorrow, tomorrow))
    notebook = folder / "notebooks" / f"{SCORES}.ipynb"
    cut(notebook)  # a log of what was done, on which nothing stands
    assert place.run_well() == []
    for path in (folder / "manifest.csv", folder / "done" / f"{GALLERY}.json"):
        cut(path)
    mine = check.validate_params(read_yaml(folder / "params.yaml"))
    assert records.state(mine, folder) == ("killed", GALLERY, "no sign of life for more than 60 s")
    stored = sorted((place.outputs / "features").glob("*.safetensors"))
    for path in stored:
        cut(path)
    assert place.run_well() == [GALLERY]
    assert_same(folder, undisturbed(reference))
    whole = 0
    for path in stored:
        try:
            rows = safetensors.torch.load_file(path)["embeddings"].tolist()
        except safetensors.SafetensorError:  # nobody asked for it
            continue
        theirs = safetensors.torch.load_file(reference / "features" / path.name)["embeddings"].tolist()
        assert all(row in theirs for row in rows)
        whole += 1
    assert whole
    harms = [("cut short", what) for what in ("an executed notebook", "manifest.csv", "a record", "the feature store")]
    for count in (TRIED, SURVIVED):
        count.update([*harms, ("the clock set back", "a day")])


# ------------------------------------------------------------------------------------------------ disks


@pytest.fixture
def disk(reference, tmp_path):
    """A place whose outputs are a disk of their own, with the finished run on it; and how to change that disk."""
    place = Place(tmp_path / AWKWARD)
    place.outputs.mkdir(parents=True)

    def mount(*options: str) -> int:
        return subprocess.run(["mount", "-o", ",".join(options), *what], capture_output=True).returncode

    what = ["-t", "tmpfs", "tmpfs", str(place.outputs)]
    if os.geteuid() != 0 or mount("size=200m"):
        pytest.skip("this machine does not let us mount a small disk")
    what = [str(place.outputs)]
    try:
        fill(place, reference, with_run=True)
        yield place, lambda *options: mount("remount", *options)
    finally:
        subprocess.run(["umount", "--lazy", str(place.outputs)], check=True)


def test_a_read_only_and_then_a_full_disk(disk, reference):
    place, remount = disk
    folder = place.run_folder()
    assert remount("ro") == 0
    status, out, err = place.run()  # finished, and to be looked at
    assert "nothing to do" in out and no_traceback(out, err), out + err
    assert remount("rw") == 0
    cut(folder / "saved_models" / "encoder.safetensors")
    (folder / "report.html").unlink()
    used = shutil.disk_usage(place.outputs).used

    def fails_with(words: str, what: str, harm: str) -> None:
        status, out, err = place.run()
        assert status in (1, 2) and no_traceback(out, err), out + err
        assert any(words in line and str(place.outputs) in line for line in (out + err).splitlines()), out + err
        assert not (folder / "done" / f"{ENCODER}.json").exists() or harm == "read-only"
        TRIED[harm, what] += 1

    assert remount("ro") == 0
    fails_with("Read-only file system", "a run begun earlier", "read-only")
    place.settings["variant"] = "frozen"
    fails_with("Read-only file system", "a new run", "read-only")
    place.settings = dict(LADDER)
    assert remount("rw", f"size={used + 8192}") == 0
    fails_with("No space left on device", "before the first notebook", "disk full")
    assert remount(f"size={used + (4 << 20)}") == 0
    fails_with("No space left on device", "in mid-training", "disk full")
    assert remount("size=200m") == 0
    threads = {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // 2))}  # as of each of two jobs
    mine = Run.open(check.validate_params(read_yaml(place.folder / "mine.yaml")))
    assert Chain(mine, (ENCODER,), threads).do() is None
    assert_trained_alike(folder, undisturbed(reference))
    SURVIVED.update({key: times for key, times in TRIED.items() if key[0] in ("disk full", "read-only")})


def test_the_count(capsys):
    """Print what was tried and survived."""
    with capsys.disabled():
        print()
        for (what, where), times in TRIED.items():
            print(f"{what:24} {where:45} tried {times}  survived {SURVIVED[what, where]}")
        kills = [key for key in TRIED if key[0].startswith("SIG")]
        print(f"{sum(TRIED[k] for k in kills)} kills tried, {sum(SURVIVED[k] for k in kills)} survived; ", end="")
        print(f"{TRIED.total() - sum(TRIED[k] for k in kills)} other harms, ", end="")
        print(f"{SURVIVED.total() - sum(SURVIVED[k] for k in kills)} survived")
    assert SURVIVED == TRIED
