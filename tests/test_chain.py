"""Chains and how they take turns: forced notebooks, notebooks at work elsewhere, what is told before anything starts.

Notebooks are replaced by their records here; the real ones run in test_notebooks and test_survives.
"""

import errno
import fcntl
import os
import shutil
import threading
import time

import pytest
from small_runs import TINY, finish

from clipreid_lib.__main__ import main
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import locked, read_json, write_json
from clipreid_lib.params import check, schema
from clipreid_lib.runs import chain, local, plan, records
from clipreid_lib.runs.records import notebook_key
from clipreid_lib.runs.run import Run
from clipreid_lib.scores.leaderboard import read_metrics, refresh_leaderboard

PROMPTS, ENCODER, SCORES = "02_prompt_learning", "03_encoder_finetune", "04_evaluation"


@pytest.fixture
def executed(monkeypatch):
    """Replace every notebook by its record and its files; return (run, notebook) as they are executed."""
    begun = []

    def execute(self, name, locks):
        begun.append((self.run.folder.name, name))
        assert len(locks) == 2
        time.sleep(0.05)
        finish(self.run.params, self.run.folder, name, manifest_sha=self.run.manifest.sha)

    monkeypatch.setattr(chain.Chain, "_execute", execute)
    return begun


@pytest.fixture
def two(tmp_path, drawn_hands):
    """Two runs that learn the same prompts, in an outputs folder of their own."""
    drawn_hands(tmp_path)
    values = TINY | {"outputs_root": str(tmp_path), "variant": "clipid"}
    return [check.validate_params(values | {"encoder_lr": rate}) for rate in (1e-4, 2e-4)]


def out_of_memory(*_):
    raise UserError("out of memory")


def notebooks(begun, run) -> list[str]:
    return [name[:2] for folder, name in begun if folder == run.run_id]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_shared_notebook_is_done_once_also_when_it_is_forced(two, executed, jobs):
    first, second = two
    assert local.Local(two, jobs).do() == {}
    done = sorted(notebooks(executed, first) + notebooks(executed, second))
    assert done == ["02", "03", "03", "04", "04", "05", "05"]
    executed.clear()
    again = local.Local(two, jobs)
    assert again.do() == {} and executed == [] and not again.worked
    forced = local.Local(two, jobs, frozenset({PROMPTS}))
    assert forced.do() == {} and forced.worked
    assert [name for _, name in executed].count(PROMPTS) == 1 and len(executed) == 7
    executed.clear()
    assert forced.do() == {} and executed == []  # asked once, done once


def test_scores_counted_in_another_way_are_done_again_and_one_line_says_so(two, executed, tmp_path, capsys):
    first, second = two
    local.Local(two).do()
    path = first.folder / "done" / f"{SCORES}.json"
    write_json(path, {key: value for key, value in read_json(path).items() if key != "scores"})
    executed.clear()
    told = f"the scores of {first.run_id} are means of draws, of an older version; 04 and 05 are done again"
    capsys.readouterr()
    plan.print_plan(two)
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if "means of draws" in line] == [f"{told} for means over all galleries"]
    assert [line.split()[1:] for line in out if line.startswith(first.run_id)] == [["04,", "05"]]
    assert executed == []
    assert local.Local(two).do() == {}
    assert notebooks(executed, first) == ["04", "05"] and notebooks(executed, second) == []
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if "means of draws" in line] == [f"{told} for means over all galleries"]
    assert local.Local(two).do() == {} and "means of draws" not in capsys.readouterr().out  # once


def test_a_run_that_would_wait_lets_others_go_first(two, executed, capsys):
    first, second = two
    other = first.model_copy(update={"variant": "frozen"})
    locks = first.folder.parent.parent / ".locks"
    locks.mkdir()
    with open(locks / f"{PROMPTS}-{notebook_key(first, PROMPTS)}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a runner elsewhere that learns these prompts
        working = threading.Thread(target=local.Local([first, second, other]).do)
        working.start()
        deadline = time.monotonic() + 60
        while not records.is_done(other.resolved(), other.folder, "05_retrieval_visualisation"):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert notebooks(executed, first) == notebooks(executed, second) == []
        time.sleep(1.0)
    working.join(60)
    assert {"03", "04", "05"} <= set(notebooks(executed, first)) & set(notebooks(executed, second))
    assert capsys.readouterr().out.count("is running elsewhere; waiting for it") == 2  # said once per run


@pytest.mark.parametrize(("jobs", "wanted"), [(1, ["frozen", "classifier"]), (2, ["classifier", "clipid"])])
def test_several_jobs_begin_with_the_longest_runs(two, executed, jobs, wanted):
    runs = [two[0].model_copy(update={"variant": variant}) for variant in ("frozen", "classifier", "clipid")]
    assert local.Local(runs, jobs).do() == {}
    begun = dict.fromkeys(folder for folder, name in executed if name != schema.SURVEY)
    first = [run.variant for folder in list(begun)[:2] for run in runs if run.run_id == folder]
    assert sorted(first) == sorted(wanted)


def test_two_notebooks_of_one_run_are_never_at_work_at_once(two, executed):
    run = Run.open(two[0])
    locks = run.folder.parent.parent / ".locks"
    locks.mkdir()
    with open(locks / f"{run.folder.name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # as a runner elsewhere that fine-tunes this run's encoder
        forced = chain.Chain(run, (PROMPTS,), force=frozenset({PROMPTS}))
        with pytest.raises(chain.Busy):
            forced.do()
        assert executed == []
    assert forced.do() is None and notebooks(executed, two[0]) == ["02"]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_told_once_and_worked_on(two, executed, monkeypatch, capsys, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert local.Local(two[:1]).do() == {} and notebooks(executed, two[0]) == ["02", "03", "04", "05"]
    outputs = Run.open(two[0]).folder.parent.parent
    refresh_leaderboard(outputs)
    told = capsys.readouterr().err.splitlines()
    without = f"this file system has no locks ({os.strerror(number)}); start no run twice"
    assert told == [f"{outputs / '.locks'}: {without}", f"{outputs}: {without}"]
    full = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(fcntl, "flock", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(OSError, match="Input/output error"), locked(outputs / ".lock"):
        pass


def test_scores_of_an_encoder_that_is_no_more_leave_the_leaderboard(two, executed, monkeypatch):
    run = Run.open(two[0])
    assert chain.Chain(run, run.params.notebooks).do() is None
    write_json(run.folder / "metrics.json", {"protocols": {"own": {"rank1": 0.5}}, "compared_sha": "x"})
    run.finish(SCORES)
    outputs = run.folder.parent.parent
    assert len(refresh_leaderboard(outputs)) == 1
    monkeypatch.setattr(chain.Chain, "_execute", out_of_memory)
    failure = chain.Chain(run, run.params.notebooks, force=frozenset({ENCODER}), asked=2e9).do()
    assert failure == f"{ENCODER} FAILED: out of memory"
    assert read_metrics(run.folder) is None and len(refresh_leaderboard(outputs)) == 0
    assert records.is_done(run.params, run.folder, PROMPTS)  # what stands before the forced notebook stays
    assert read_json(run.folder / "metrics.before.json")["compared_sha"] == "x"  # and nothing is lost


def test_scores_stay_where_the_data_to_do_them_again_is_gone(two, executed, hands, tmp_path):
    root = shutil.copytree(hands, tmp_path / "hands")
    values = {"dataset": "11k", "data_root": str(root), "protocol": "common", "variant": "frozen", "draws": 2}
    run = Run.open(check.validate_params(values | {"outputs_root": str(tmp_path)}))
    assert chain.Chain(run, run.params.notebooks).do() is None
    scored = {"protocols": {}, "compared_sha": "x", "manifest_sha": run.manifest.sha}
    write_json(run.folder / "metrics.json", scored)
    run.finish(SCORES)
    shutil.rmtree(root)
    again = Run.open(run.params)
    failure = chain.Chain(again, again.params.notebooks, force=frozenset({SCORES})).do()
    assert failure.startswith(f"{SCORES} FAILED: ") and "is not a folder" in failure
    assert read_metrics(run.folder) == scored and again.is_done(SCORES)


def test_what_stands_on_a_forced_notebook_is_forced_with_it(two):
    run = Run.open(two[0])
    finish(run.params, run.folder, *run.params.notebooks)
    forced = chain.Chain(run, run.params.notebooks, force=frozenset({ENCODER}), asked=2e9)
    assert [forced._find(run.folder, name) is not None for name in forced.names] == [True, False, False, False]


def test_a_deleted_record_has_its_notebook_and_all_later_ones_done_again(two, executed):
    run = Run.open(two[0])
    finish(run.params, run.folder, *run.params.notebooks, manifest_sha=run.manifest.sha)
    (run.folder / "done" / f"{ENCODER}.json").unlink()
    assert chain.Chain(run, run.params.notebooks).do() is None
    assert notebooks(executed, two[0]) == ["03", "04", "05"]


def test_changed_data_is_described_anew_where_a_run_is_to_come(two, executed):
    local.Local(two[:1]).do()
    survey = Run.open_data(two[0])
    assert [folder for folder, name in executed if name.startswith("01")] == [survey.folder.name]
    kept = survey.folder / "manifest.csv"
    before = kept.read_bytes()
    kept.write_bytes(before[: len(before) // 2])  # stands for a manifest of the images there were then
    local.Local(two[:1]).do()  # nothing to do: nothing is read
    assert len([name for _, name in executed if name.startswith("01")]) == 1
    local.Local(two).do()
    assert len([name for _, name in executed if name.startswith("01")]) == 2 and kept.read_bytes() == before


@pytest.fixture
def execute(two, tmp_path, monkeypatch):
    """Execute a notebook of one cell in the place of notebook 04; return the failure, and the run's folder."""

    def make(source: str):
        place = tmp_path / "project" / "notebooks"
        place.mkdir(parents=True)
        cell = {
            "cell_type": "code",
            "source": source,
            "id": "a",
            "metadata": {},
            "outputs": [],
            "execution_count": None,
        }
        kernel = {"kernelspec": {"name": "python3", "display_name": "x", "language": "python"}}
        notebook = {"cells": [cell], "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
        write_json(place / f"{SCORES}.ipynb", notebook)
        monkeypatch.setattr(chain, "ROOT", tmp_path / "project")
        run = Run.open(two[0])
        return chain.Chain(run, (SCORES,)).do(), run.folder

    return make


def test_a_notebook_may_print_that_something_failed(execute):
    failure, folder = execute("print('failed: two of 9 images')")
    assert failure == f"{SCORES} FAILED: ended without its record; was the kernel killed (memory)?"
    assert "failed: two of 9 images" in (folder / "log.txt").read_text()


@pytest.mark.heavy
def test_the_epochs_of_a_training_are_one_output_and_are_printed_as_they_end(execute, capsys, monkeypatch):
    monkeypatch.setattr(chain, "QUIET", 0.0)
    said = (
        "import time\nfor n in range(9):\n    print(f'stage 1: epoch {n}/9  loss 1.0', flush=True)\n    time.sleep(0.3)"
    )
    _, folder = execute(said)
    (_, cell) = read_json(folder / "notebooks" / f"{SCORES}.ipynb")["cells"]  # the first holds the parameters
    (output,) = cell["outputs"]
    assert "".join(output["text"]).count(": epoch ") == 9
    assert (folder / "log.txt").read_text().count(": epoch ") == 9
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines() if ": epoch " in line]
    assert len(printed) == 9 and printed[0] < printed[-1]  # the time: not all at the end


def test_the_traceback_of_a_failed_cell_is_in_the_log_and_with_debug_on_the_terminal(execute, capsys, monkeypatch):
    monkeypatch.setenv("CLIPREID_DEBUG", "1")
    failure, folder = execute("print('half a line', end='')\nodd = 1 / 0")
    assert failure == f"{SCORES} FAILED: ZeroDivisionError: division by zero (cell 2)"
    log, err = (folder / "log.txt").read_text(), capsys.readouterr().err
    for told in (log, err):
        assert "Traceback (most recent call last)" in told and "odd = 1 / 0" in told and "\x1b" not in told
    assert log.startswith("half a line")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["model=vitb17"], "model: 'vitb17' is unknown; did you mean vitb16?"),
        (["dataset=11k", "data_root=/nowhere"], "data_root: /nowhere is not a folder; 11k Hands is one download"),
        (["model=ViT-B-32-256"], "pretrained: the open_clip model 'ViT-B-32-256' needs a weights tag or file"),
        (["model=vitb16", "pretrained=/nowhere.pt"], "pretrained: /nowhere.pt is not there"),
        (["model=vitb16", "pretrained=w.pt"], f"pretrained: {schema.ROOT / 'w.pt'} is not there; a relative"),
        (["model=vitb16", "pretrained=models/w"], f"pretrained: {schema.ROOT / 'models' / 'w'} is not there"),
        (["model=vitb16", "pretrained=laion9b"], "open_clip has no weights 'laion9b' of vitb16; known tags: openai"),
        (["device=cuda:99"], "device: cuda:99 is not available here; use auto or cpu"),
        (["device=cpu", "precision=fp16"], "precision: fp16 needs a GPU; use float32 (or bf16) on device: cpu"),
    ],
)
def test_what_would_end_every_run_is_told_before_any_starts(tmp_path, capsys, given, message):
    base = str(schema.ROOT / "params" / "base.yaml")
    chosen = [part for each in [*given, f"outputs_root={tmp_path / 'out'}"] for part in ("--set", each)]
    assert main(["run", base, *chosen]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == "" and not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", ["a wrong folder", "a partial set"])
def test_a_data_set_that_cannot_be_read_is_told_once_and_before_any_run_starts(tmp_path, hands, capsys, fault):
    root = shutil.copytree(hands, tmp_path / "above" / "hands")
    gone = min((root / "Hands").glob("*.jpg"))
    gone.unlink()
    root = root.parent if fault == "a wrong folder" else root
    values = ["dataset=11k", f"data_root={root}", f"outputs_root={tmp_path / 'out'}", "aspect=[dorsal_r, palmar_r]"]
    chosen = [part for each in [*values, "variant=frozen"] for part in ("--set", each)]
    assert main(["run", str(schema.ROOT / "params" / "base.yaml"), *chosen]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and not (tmp_path / "out").exists()
    assert str(root) in err and (fault == "a wrong folder" or gone.name in err)


def test_a_missing_kernel_is_told_before_anything_starts(tmp_path, capsys, monkeypatch):
    from clipreid_lib.runs import preflight

    found = preflight.importlib.util.find_spec
    monkeypatch.setattr(
        preflight.importlib.util, "find_spec", lambda name: None if name == "ipykernel" else found(name)
    )
    assert main(["run", str(schema.ROOT / "params" / "base.yaml"), "--set", f"outputs_root={tmp_path / 'out'}"]) == 2
    assert "no Jupyter kernel to run notebooks in" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_finished_run_needs_no_data_any_more(tmp_path):
    from clipreid_lib.runs import preflight

    gone = tmp_path / "gone"
    run = check.validate_params(
        {"dataset": "folder", "data_root": str(gone), "variant": "frozen", "outputs_root": str(tmp_path)}
    )
    with pytest.raises(UserError, match="gone is not a folder"):
        preflight.check_here([run])
    finish(run, run.folder, *run.notebooks)
    preflight.check_here([run])
    with pytest.raises(UserError, match="gone is not a folder"):  # to do it again takes the data
        preflight.check_here([run], frozenset({SCORES}))
