"""Runs on a real SLURM: a controller and a node of this machine's own, started and stopped here."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import slurm_cluster
from safetensors.numpy import load_file
from slurm_cluster import ask
from small_runs import TINY, finetune

from clipreid_lib.__main__ import main
from clipreid_lib.base.errors import UserError
from clipreid_lib.params import read, run_params
from clipreid_lib.runs import embeddings, loading, slurm
from clipreid_lib.runs.run import Run
from clipreid_lib.scores.evaluation import evaluate

SMALL = slurm.Settings(gpus=0, memory=1, cpus=1, time=30)
EPOCHS = 80  # a few seconds, long enough to be caught in the middle


@pytest.fixture(scope="module")
def cluster():
    if reason := slurm_cluster.missing():
        pytest.skip(reason)
    pytest.importorskip("submitit", reason="submitit is not installed")
    with slurm_cluster.cluster() as place:
        yield place


def grid(outputs: Path, **more) -> list[run_params.Params]:
    return read.expand({**TINY, "variant": "classifier", "outputs_root": str(outputs), **more})


def wait_for(what, seconds: float = 150) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, ask("squeue", "--states=all", "--array")
        time.sleep(0.1)


def state(run: Run) -> str:
    return slurm.queue_states([run.folder])[run.folder.name].partition(" ")[0]


def trained(run: Run) -> int:
    """Epochs the log has."""
    try:
        return len(pd.read_csv(run.logs / "encoder.csv"))
    except (OSError, pd.errors.EmptyDataError):
        return 0


def gone_on(run: Run) -> int:
    log = run.folder / "log.txt"
    return log.read_text().count("going on after epoch") if log.exists() else 0


def train_here(run: Run) -> dict[str, float]:
    """Train a run in this process, where nothing disturbs it; return its scores."""
    finetune(run)
    images, encoder = run.manifest.in_tests, loading.load_trained_encoder(run)
    return evaluate(embeddings.embed_own(run, encoder, images), run.manifest).summary()


@pytest.mark.heavy
def test_a_grid_is_cancelled_preempted_and_out_of_time_and_ends_with_the_undisturbed_numbers(
    cluster, tmp_path, drawn_hands, capsys
):
    drawn_hands(tmp_path / "slurm")
    drawn_hands(tmp_path / "here")
    wanted = grid(tmp_path / "slurm", seed=[0, 1], encoder_epochs=EPOCHS)
    first, second = runs = [Run.open(each) for each in wanted]
    seen = []

    def note(what: str) -> None:
        seen.append(f"{what}\n{ask('squeue', '--states=all', '--array')}")

    ids = slurm.submit(wanted, slurm.Settings(**{**vars(SMALL), "max_running": 1}))
    assert len(ids) == 2
    wait_for(lambda: state(first) == "RUNNING")
    # max_running: there are two cores, and yet the second waits
    assert slurm.queue_states([run.folder for run in runs])[second.folder.name] == "PENDING (JobArrayTaskLimit)"
    note("submitted, at most one at once")
    capsys.readouterr()
    assert slurm.submit(wanted, SMALL) == []  # both are in the queue
    said = capsys.readouterr().out
    assert f"{first.folder.name}: job {ids[0]} has it, RUNNING" in said and f"job {ids[1]} has it, PENDING" in said

    wait_for(lambda: trained(first) > 2)
    ask("scancel", ids[0])
    wait_for(lambda: state(first) == "CANCELLED")
    note("the first is cancelled in mid-training")
    assert 2 < trained(first) < EPOCHS and not first.is_done("03_encoder_finetune")

    wait_for(lambda: trained(second) > 2)
    done = ask("sbatch", "--partition=urgent", "--cpus-per-task=2", "--output=/dev/null", "--wrap", "sleep 2")
    assert "Submitted" in done
    wait_for(lambda: state(second) == "PENDING")
    note("the second is preempted in mid-training and waits again")
    assert trained(second) < EPOCHS

    again = slurm.submit(wanted, SMALL)
    assert len(again) == 1 and again != ids[:1]  # the cancelled one; the preempted one comes back by itself
    wait_for(lambda: gone_on(first) == 1)
    ask("scancel", "--signal=USR2", again[0])  # what SLURM sends before a job's time is out
    wait_for(lambda: state(first) in ("PENDING", "COMPLETING"))
    assert trained(first) < EPOCHS
    note("the first, sent again, is out of time")
    wait_for(lambda: {state(run) for run in runs} == {"COMPLETED"}, seconds=400)  # on a busy machine
    note("done")
    assert gone_on(first) == 2 and gone_on(second) == 1
    capsys.readouterr()
    assert slurm.submit(wanted, SMALL) == [] and capsys.readouterr().out.count("nothing to do") == 2
    print("\n".join(seen))

    for run, params in zip(runs, grid(tmp_path / "here", seed=[0, 1], encoder_epochs=EPOCHS), strict=True):
        other = Run.open(params)
        scores, metrics = train_here(other), json.loads((run.folder / "metrics.json").read_text())
        assert scores == pytest.approx({name: metrics[name] for name in scores})
        mine, theirs = (load_file(each.models / "encoder.safetensors") for each in (run, other))
        assert mine.keys() == theirs.keys() and all((mine[name] == theirs[name]).all() for name in mine)
        logs = [pd.read_csv(each.logs / "encoder.csv").drop(columns="seconds") for each in (run, other)]
        pd.testing.assert_frame_equal(*logs, check_exact=True)


def test_a_run_that_fails_has_failed_in_the_queue_too(cluster, tmp_path):
    (wanted,) = grid(tmp_path, dataset="11k", data_root=str(tmp_path / "nothing"))
    (job,) = slurm.submit([wanted], SMALL)
    run = Run.open(wanted)
    wait_for(lambda: state(run) == "FAILED")
    assert "nothing" in (tmp_path / "slurm" / f"{job}_0_log.err").read_text()


def test_what_sbatch_refuses_is_told_in_one_line(cluster, tmp_path, capsys):
    settings = slurm.Settings(**{**vars(SMALL), "partition": "nowhere"})
    with pytest.raises(UserError, match=r"^--backend slurm: sbatch refuses: .*invalid partition.*: nowhere") as told:
        slurm.submit(grid(tmp_path), settings)
    assert "\n" not in str(told.value) and capsys.readouterr().err == ""
    assert not list((tmp_path / "runs").glob("*/slurm.json"))


def test_of_a_job_that_is_long_over_the_queue_says_nothing(cluster, tmp_path):
    (tmp_path / "slurm.json").write_text('{"job": "4711_0"}')
    (tmp_path / "never sent").mkdir()
    assert slurm.queue_states([tmp_path, tmp_path / "never sent"]) == {tmp_path.name: ""}


def test_without_slurm_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="sbatch is not on this machine's PATH.*--backend local"):
        slurm.submit(grid(tmp_path / "outputs"), SMALL)
    (tmp_path / "slurm.json").write_text('{"job": "1_0"}')
    assert slurm.queue_states([tmp_path]) == {}


def test_what_no_cluster_grants_is_refused(capsys):
    for option, value, least in (
        ("--time", "1", 2),
        ("--max-running", "0", 1),
        ("--gpus", "-1", 0),
        ("--cpus", "x", 1),
    ):
        assert main(["run", "demo.yaml", "--backend", "slurm", f"{option}={value}"]) == 2
        err = capsys.readouterr().err
        assert err.startswith(f"clipreid: argument {option}: {value}: give at least {least}") and err.count("\n") == 1


def test_asking_the_queue_is_light():
    code = "import sys, clipreid_lib.runs.slurm; print({'torch', 'pandas', 'submitit'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "set()", done.stderr
