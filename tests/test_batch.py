"""Grids, and what is said of them: plan, status, clean. Runs themselves are in test_notebooks and test_survives."""

import os
import re
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from small_runs import TINY, finish

from clipreid_lib.__main__ import main
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_json, write_yaml
from clipreid_lib.pages import report
from clipreid_lib.params import check, read, schema
from clipreid_lib.params.schema import project_path
from clipreid_lib.runs import chain, clean, local, plan, records, status
from clipreid_lib.runs.records import notebook_key
from clipreid_lib.runs.run import Run

GRID = "aspect: [dorsal_r, palmar_r]\nvariant: [frozen, clipid]\nseed: [0, 1]\n"


@pytest.fixture
def grid(tmp_path):
    """A grid of four runs, and their folders as Run.open would make them."""
    file = tmp_path / "grid.yaml"
    file.write_text(GRID + "exclude:\n  - {variant: frozen, seed: 1}\n  - {aspect: palmar_r, seed: [1, 2]}\n")
    runs = read.expand(*read.compose([file], [f"outputs_root={tmp_path / 'out'}"]))
    for run in runs:
        write_yaml(run.folder / "params.yaml", run.resolved().model_dump())
    return file, runs


def finished(run, *names):
    """Write the records of notebooks, as if they had been done."""
    finish(run, run.folder, *names)


def test_exclude_leaves_combinations_out(grid, tmp_path):
    file, runs = grid
    found = [(run.aspect, run.variant, run.seed) for run in runs]
    assert found == [
        *(("dorsal_r", "frozen", 0), ("dorsal_r", "clipid", 0), ("dorsal_r", "clipid", 1)),
        *(("palmar_r", "frozen", 0), ("palmar_r", "clipid", 0)),
    ]
    more = tmp_path / "more.yaml"
    more.write_text("exclude: [{aspect: dorsal_r}]\n")  # of several files, all rules count
    both = read.expand(*read.compose([file, more]))
    assert [(run.aspect, run.variant, run.seed) for run in both] == found[3:]
    more.write_text("exclude: [{num_prompts: 4}]\n")  # a key that no file sets has its default
    with pytest.raises(UserError, match=r"more.yaml: exclude: leaves none of 8 combinations"):
        read.expand(*read.compose([file, more]))
    more.write_text("exclude: [{varient: clipid}]\n")
    with pytest.raises(UserError, match=r"more.yaml: exclude: unknown key 'varient'; did you mean 'variant'"):
        read.expand(*read.compose([file, more]))
    more.write_text("exclude: frozen\n")
    with pytest.raises(UserError, match="more.yaml: exclude: write a list of combinations"):
        read.compose([more])


def test_a_huge_grid_is_counted_and_refused(capsys):
    base = str(schema.ROOT / "params" / "base.yaml")
    asked = ["--set", f"seed={list(range(100))}", "--set", f"draw_seed={list(range(100))}"]
    assert main(["run", base, *asked]) == 2
    assert "the grid has 10,000 combinations; --yes says that more than 100 are meant" in capsys.readouterr().err
    assert main(["plan", base, *asked[:2], "--set", "num_prompts=[1,2]", "--yes"]) == 0
    assert "200 runs, 0 done" in capsys.readouterr().out


def test_the_shipped_grids_expand():
    sizes = {}
    for file in (schema.ROOT / "params" / "grids").glob("*.yaml"):
        runs, _ = read.drop_repeats(read.expand(*read.compose([schema.ROOT / "params" / "demo.yaml", file])))
        sizes[file.stem] = len(runs)
        assert len({run.run_id for run in runs}) == len(runs)
    # six encoders: one frozen, two variants of three seeds; the two with a text tower have two variants more
    assert sizes == {"aspects": 20, "encoders": 6 * (1 + 2 * 3) + 2 * 2 * 3}


def test_a_plan_counts_what_is_left_and_what_is_copied(grid, capsys):
    _, runs = grid
    finished(runs[1], "02_prompt_learning", "03_encoder_finetune")
    finished(runs[0], *runs[0].notebooks)
    rows = plan.plan_runs([*runs, runs[1].model_copy(update={"encoder_lr": 1e-5})])
    assert [todo for _, todo, _ in rows[:3]] == [(), ("04_evaluation", "05_retrieval_visualisation"), runs[2].notebooks]
    assert rows[-1][2] == {"02_prompt_learning": runs[1].run_id}
    plan.print_plan(runs)
    out = capsys.readouterr().out
    assert "5 runs, 1 done; 14 notebooks to execute, 0 to copy" in out
    assert out.startswith(f"{runs[0].data_id:<{max(len(run.run_id) for run in runs)}}  01\n")  # once per data set


def test_two_runs_that_learn_the_same_prompts_share_them_in_the_plan(tmp_path):
    values = {**TINY, "outputs_root": str(tmp_path), "variant": "clipid"}
    runs = [check.validate_params(values | {"encoder_lr": lr}) for lr in (1e-4, 2e-4)]
    first, second = plan.plan_runs(runs)
    assert first[2] == {} and second[2] == {"02_prompt_learning": first[0]}


def test_status_reads_the_truth_from_the_folders(grid, capsys):
    _, runs = grid
    done, failing, working, killed, begun = runs
    finished(done, *done.notebooks)
    records.begin(failing.folder, "03_encoder_finetune")
    records.clear_running(failing.folder, "03_encoder_finetune", "the loss is nan (cell 7)")
    records.begin(working.folder, "02_prompt_learning")
    records.begin(killed.folder, "04_evaluation")
    old = time.time() - 600
    os.utime(killed.folder / "running.json", (old, old))
    finished(begun, "02_prompt_learning")
    outputs = project_path(done.outputs_root)
    found = {name: (state, notebook) for name, state, notebook, _ in status.states(outputs)}
    assert found == {
        done.run_id: ("done", ""),
        failing.run_id: ("failed", "03_encoder_finetune"),
        working.run_id: ("running", "02_prompt_learning"),
        killed.run_id: ("killed", "04_evaluation"),
        begun.run_id: ("started", "03_encoder_finetune"),
    }
    assert main(["status", "--outputs", str(outputs)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("failed ") and "the loss is nan (cell 7)" in out
    assert out.rstrip().endswith("5 runs: 1 failed, 1 killed, 1 running, 1 started, 1 done")
    (done.folder / "params.yaml").write_text("colour: red\n")
    assert main(["status", "--outputs", str(outputs)]) == 0
    assert re.search(r"unreadable +\S+ +: \S+params.yaml: unknown key 'colour'", capsys.readouterr().out)
    assert main(["status", "--outputs", str(outputs / "none")]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_status_and_plan_import_nothing_heavy():
    for verb in ("status", "plan", "clean"):
        code = f"import sys, clipreid_lib.runs.{verb}; sys.exit(bool({{'torch', 'pandas'}} & set(sys.modules)))"
        assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


def test_a_batch_with_nothing_to_do_loads_no_torch():
    code = "import sys, clipreid_lib.runs.local; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


def test_clean_deletes_what_can_be_made_again_and_only_when_told(grid, capsys, tmp_path):
    _, (done, failing, killed, *_) = grid
    outputs = project_path(done.outputs_root)
    finished(done, *done.notebooks)
    records.clear_running(failing.folder, "03_encoder_finetune", "the loss is nan")
    records.begin(killed.folder, "03_encoder_finetune")
    for name in ("features/x.safetensors", f"runs/{killed.run_id}/saved_models/encoder.resume.pt"):
        (outputs / name).parent.mkdir(parents=True, exist_ok=True)
        (outputs / name).write_text("x" * 1000)
    cut = done.folder / "saved_models" / ".encoder.safetensors.abcd1234.safetensors"  # as a killed writer leaves it
    cut.parent.mkdir(exist_ok=True)
    cut.write_text("half")
    (outputs / ".hidden.yaml").write_text("not ours")
    with pytest.raises(UserError, match=f"{killed.run_id} is running; clean when nothing is"):
        clean.clean(outputs, really=True)
    old = time.time() - 600
    os.utime(killed.folder / "running.json", (old, old))
    gone = {outputs / "features" / "x.safetensors", killed.folder / "saved_models" / "encoder.resume.pt", cut}
    before = {path for path in outputs.rglob("*") if path.is_file()}
    clean.clean(outputs, really=False)
    assert "could go; --yes deletes it" in capsys.readouterr().out
    assert {path for path in outputs.rglob("*") if path.is_file()} == before
    clean.clean(outputs, really=True)
    assert {path for path in outputs.rglob("*") if path.is_file()} == before - gone
    with pytest.raises(UserError, match="holds no run"):
        clean.clean(tmp_path, really=True)


def test_a_param_outside_the_id_is_kept_with_the_run_it_changed(tmp_path):
    values = {**TINY, "variant": "frozen", "outputs_root": str(tmp_path)}
    first = Run.open(check.validate_params(values))
    second = Run.open(check.validate_params(values | {"top_k": 3}))
    assert first.folder == second.folder and Run.at(first.folder).params.top_k == 3
    assert second.params.top_k == 3 and notebook_key(first.params, "04_evaluation") == notebook_key(
        second.params, "04_evaluation"
    )


def test_notebook_01_speaks_for_the_runs_that_wait_for_it(grid, capsys):
    _, runs = grid
    outputs = project_path(runs[0].outputs_root)
    survey = outputs / "data" / runs[0].data_id
    records.begin(survey, "01_data_exploration")
    records.clear_running(survey, "01_data_exploration", "no such folder")
    found = {name: (state, notebook) for name, state, notebook, _ in status.states(outputs)}
    assert found[runs[0].run_id] == ("failed", "01_data_exploration") and found[runs[3].run_id][0] == "waiting"


def test_an_unforeseen_exception_costs_one_run_alone(tmp_path, drawn_hands, monkeypatch, capsys):
    drawn_hands(tmp_path)
    runs = [
        check.validate_params({**TINY, "variant": "frozen", "seed": s, "outputs_root": str(tmp_path)}) for s in (0, 1)
    ]

    def execute(self, name, lock):
        if name.startswith("01"):
            return records.write_record(self.run.params, self.run.folder, name, {})
        raise ValueError("odd\nthings")

    monkeypatch.setattr(chain.Chain, "_execute", execute)
    batch = local.Local(runs)
    failed = batch.do()
    assert set(failed.values()) == {"04_evaluation FAILED: ValueError: odd things"} and len(failed) == 2
    err = capsys.readouterr().err
    assert err == ""
    for run in runs:
        log = (run.folder / "log.txt").read_text()
        assert "Traceback" in log and 'raise ValueError("odd\\nthings")' in log
    local.print_summary(batch, failed, 1.0)
    names = ", ".join(run.run_id for run in runs)
    assert capsys.readouterr().out.endswith(f"  04_evaluation FAILED: ValueError: odd things ({names})\n")  # told once
    monkeypatch.setenv("CLIPREID_DEBUG", "1")
    local.Local(runs).do()
    assert capsys.readouterr().err.count("Traceback") == 2
    assert [state for _, state, *_ in status.states(tmp_path)] == ["failed", "failed"]


def test_a_runs_page_is_written_when_it_ends_and_a_page_that_fails_stops_no_run(tmp_path, drawn_hands, monkeypatch):
    drawn_hands(tmp_path)
    runs = [
        check.validate_params({**TINY, "variant": "frozen", "seed": s, "outputs_root": str(tmp_path)}) for s in (0, 1)
    ]
    happened = []

    def execute(self, name, locks):
        happened.append(name[:2])
        finish(self.run.params, self.run.folder, name)

    def write_run(run):
        happened.append("page")
        raise ValueError("a fault of ours")

    monkeypatch.setattr(chain.Chain, "_execute", execute)
    monkeypatch.setattr(report, "write_run", write_run)
    monkeypatch.setattr(local, "find_runs", lambda folders: [f for f in folders if (f / "metrics.json").is_file()])
    assert local.Local(runs).do() == {}
    assert happened == ["01", "04", "05", "page", "04", "05", "page"]


def test_a_page_older_than_a_notebooks_record_is_no_page_of_the_run(tmp_path):
    run = SimpleNamespace(folder=tmp_path)
    page, record = tmp_path / "report.html", tmp_path / "done" / "04_evaluation.json"
    record.parent.mkdir()
    record.write_text("{}")
    assert not local._has_report(run)
    page.write_text("page")
    os.utime(record, (1000, 1000))
    os.utime(page, (1000, 1000))
    assert local._has_report(run)
    os.utime(record, (2000, 2000))
    assert not local._has_report(run)


def test_a_notebook_edited_since_it_was_done_is_told(grid):
    _, runs = grid
    run, folder = runs[1].resolved(), runs[1].folder
    finished(run, "02_prompt_learning")
    record = records.read(folder, "02_prompt_learning")
    assert plan.list_edited(runs) == []
    write_json(folder / "done" / "02_prompt_learning.json", record | {"code": "older"})
    assert plan.list_edited(runs) == [
        f"02_prompt_learning was edited after it was done in {run.run_id}; --force 02_prompt_learning does it again"
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["exclude=5"], "--set exclude=5: exclude: write a list of combinations"),
        (["exclude=[{variant: frozne}]"], "exclude: variant: input should be 'frozen'"),
        (["encoder_epochs=[null,16]"], "encoder_epochs: some of its values make the same run; keep one"),
        (["top_k=[4,8]"], "--set top_k=[4,8]: top_k: a list is not allowed for this key; give one value"),
        (["data_root=[a, b]"], "--set data_root=[a, b]: data_root: a list is not allowed for this key"),
        (["exclude=[{seed: 1:30}]"], "exclude: seed: write a plain decimal number"),
        (["variant=clipid", "mode=img_encoder_finetune", "resume_prompt=none.safetensors"], "none.safetensors is not"),
    ],
)
def test_mistakes_in_a_grid_cost_one_line(capsys, given, message):
    base = str(schema.ROOT / "params" / "base.yaml")
    assert main(["plan", base, *(part for each in given for part in ("--set", each))]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_variants_that_train_nothing_run_once_whatever_the_seeds(tmp_path, capsys):
    file = tmp_path / "grid.yaml"
    file.write_text(GRID + f"outputs_root: {tmp_path / 'out'}\n")
    every = read.expand(*read.compose([file]))
    runs, told = read.drop_repeats(every)
    assert runs == [run for run in every if (run.variant, run.seed) != ("frozen", 1)]  # their ids are as they were
    assert told == ["frozen trains nothing, so that every seed gives the same scores: 2 runs left out"]
    assert read.drop_repeats(runs) == (runs, [])
    assert main(["plan", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(told[0] + "\n") and "6 runs, 0 done" in out and "frozen-s1" not in out


def test_exclude_reads_numbers_as_params_do():
    values = {"encoder_lr": ["1e-4", 2e-4], "exclude": [{"encoder_lr": 1e-4}]}
    assert [run.encoder_lr for run in read.expand(values)] == [2e-4]


def test_each_job_has_an_accelerator_and_its_share_of_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    given = local.Local([], jobs=3)._slots()
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in given] == ["2", "5", "2"]
    assert {slot["OMP_NUM_THREADS"] for slot in given} == {str(max(1, len(os.sched_getaffinity(0)) // 3))}
    assert "CUDA_VISIBLE_DEVICES" not in local.Local([], jobs=1)._slots()[0]  # a single job sees them all
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES" not in local.Local([], jobs=2)._slots()[0]
