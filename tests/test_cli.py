import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

from clipreid_lib.__main__ import main
from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_json, write_yaml
from clipreid_lib.data import datasets
from clipreid_lib.data import photographs as images
from clipreid_lib.params import check, schema
from clipreid_lib.params.schema import ROOT
from clipreid_lib.runs import machine, status
from clipreid_lib.runs.machine import provenance
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import leaderboard
from clipreid_lib.scores.finished_run import find_runs

BASE = str(ROOT / "params" / "base.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "epohcs=3"], "--set epohcs=3: unknown key 'epohcs'; did you mean 'epochs'?"),
        (["--set", "encoder_lr=fast"], "--set encoder_lr=fast: encoder_lr: "),
        (["--set", "aspect=[]"], "the list is empty"),
        (["--set", "aspect=thumb"], "allowed: dorsal_r, dorsal_l, palmar_r, palmar_l"),
        (["--jobs", "0"], "--jobs: 0: give at least 1"),
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
    ("facts", "told"),
    [
        ({"kind": "prompts", "params": {"dataset": "demo", "aspect": "palmar_r"}}, "its aspect is 'palmar_r', "),
        ({"kind": "encoder"}, "holds encoder, not prompts"),
    ],
)
def test_prompts_that_do_not_fit_are_refused_before_anything_begins(capsys, tmp_path, facts, told):
    theirs = tmp_path / "prompts.safetensors"
    checkpoints.save(theirs, {"codes": torch.zeros(1)}, facts)
    given = ["variant=clipid", "mode=img_encoder_finetune", f"resume_prompt={theirs}", f"outputs_root={tmp_path}/out"]
    given = [word for each in given for word in ("--set", each)]
    for verb in ("plan", "run"):
        assert main([verb, BASE, *given]) == 2
        err = capsys.readouterr().err
        assert f"{theirs}: {told}" in err and err.count("\n") == 1
    assert not (tmp_path / "out" / "runs").exists()


def test_mistakes_about_data_are_one_line_too(capsys, hands, tmp_path):
    root = tmp_path / "hands"
    shutil.copytree(hands, root)
    (root / "Hands" / "Hand_0000001.jpg").unlink()
    arguments = ["run", BASE, "--set", "dataset=11k", "--set", f"outputs_root={tmp_path}/out"]
    arguments += ["--set", f"data_root={root}"]
    assert main(arguments) == 2  # nothing is begun
    out, err = capsys.readouterr()
    assert "1 of 128 images named in HandInfo.csv are absent" in err and err.count("\n") == 1 and out == ""
    assert main([*arguments, "--set", "allow_missing=true"]) == 1
    out, err = capsys.readouterr()
    assert "too few people of 'dorsal_r'" in out and out.count("FAILED") == 2  # when it happens, and at the end
    assert "starts" not in out  # no kernel was started; 11k's threshold is person 1050
    assert err.count("\n") == 1


def test_an_image_that_is_none_is_named(hands, tmp_path):
    root = tmp_path / "hands"
    shutil.copytree(hands, root)
    table = datasets.load_images("demo", root)
    with pytest.raises(UserError, match="is not an image that can be read"):
        (root / table["path"].iloc[5]).write_text("text")
        images.Photographs(root).load(table, 8)


def test_changed_data_never_mixes_with_a_finished_run(open_run, hands, tmp_path):
    run = open_run(fresh=tmp_path)
    kept = run.folder / "manifest.csv"
    whole = run.manifest.save(kept) or kept.read_text()
    kept.write_text(whole[:-100])  # cut short; nothing finished stands on it yet, so it is written anew
    assert Run.open(run.params).manifest.sha == run.manifest.sha and kept.read_text() == whole
    write_json(run.folder / "done" / "02_prompt_learning.json", {"manifest_sha": run.manifest.sha})
    kept.write_text(whole[:-100])  # now one does, and the data is still what it was made from
    assert Run.open(run.params).manifest.sha == run.manifest.sha and kept.read_text() == whole
    write_json(run.folder / "done" / "02_prompt_learning.json", {"manifest_sha": "of other data"})
    kept.write_text(whole.replace("male", "fe_male", 1))
    with pytest.raises(UserError, match="has changed since this run began"):
        Run.open(run.params).manifest  # noqa: B018
    survey = Run.open_data(run.params)
    survey.manifest  # noqa: B018
    survey.finish("01_data_exploration")
    (survey.folder / "manifest.csv").write_text("path,identity,role\n")
    again = Run.open_data(run.params)
    again.manifest  # noqa: B018  a survey is drawn anew instead
    assert not again.is_done("01_data_exploration")


@pytest.mark.parametrize("where", [["--debug", "status"], ["status", "--debug"]])
def test_a_fault_of_ours_is_one_line_and_with_debug_a_traceback(capsys, monkeypatch, where):
    def broken(outputs):
        raise ValueError("odd\nthings")

    monkeypatch.setattr(status, "print_status", broken)
    monkeypatch.delenv("CLIPREID_DEBUG", raising=False)
    assert main(["status"]) == 1
    told = capsys.readouterr().err
    assert told == "clipreid: a fault of this program (ValueError: odd things); --debug shows the traceback\n"
    monkeypatch.setenv("CLIPREID_DEBUG", "")  # so that what main sets is undone after the test
    assert main(where) == 1
    assert 'raise ValueError("odd\\nthings")' in capsys.readouterr().err


def test_a_machine_without_git_is_no_obstacle(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance()["git"] == "no git"


def test_the_commit_of_another_users_checkout_is_told_or_why_not(monkeypatch, tmp_path):
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    if not (schema.ROOT / ".git").exists():
        pytest.skip("this copy is no checkout")
    assert re.fullmatch(r"[\w.-]+", provenance()["git"])
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert provenance()["git"] == "no commit (not a git repository (or any of the parent directories): .git)"
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("damaged")
    assert str(tmp_path) not in provenance()["git"]


def test_rows_are_averaged_over_seeds_and_nothing_else(tmp_path):
    folders = []
    for number, (seed, lr, rank1) in enumerate([(0, 1e-3, 0.2), (1, 1e-3, 0.4), (0, 1e-4, 0.9)]):
        folder = tmp_path / str(number)
        values = check.validate_params({"seed": seed, "encoder_lr": lr}).resolved().model_dump()
        write_yaml(folder / "params.yaml", values)
        scores = {"rank1": rank1, "rank5": rank1, "map": rank1, "rank1_per_person": rank1 / 2, "over": "all galleries"}
        scores |= {"rank1_draws": rank1 + 0.01, "rank1_draws_std": rank1 / 10}
        facts = {"manifest_sha": "x", "pixels": scores, "dataset": "demo", "aspect": "dorsal_r", "protocol": "own"}
        own = scores | facts | {"compared_sha": "y"}
        write_json(folder / "metrics.json", own | {"protocols": {"own": own}})
        folders.append(folder)
    table, note = leaderboard.summarise(find_runs([*folders, tmp_path]))
    assert table["rank-1"].tolist() == ["30.0 (14.1)", "90.0"]
    assert table["rank-1 per person"].tolist() == ["15.0 (7.1)", "45.0"]
    assert table["rank-1, draws"].tolist() == ["31.0 ± 3.0", "91.0 ± 9.0"]
    assert note.count("Floor") == 1 and "mean over all galleries; in brackets the deviation over seeds" in note


@pytest.mark.parametrize("encoding", ["ascii", "utf-8", "cp437"])
def test_a_terminal_that_speaks_ascii_gets_plain_characters(encoding):
    code = "from clipreid_lib import __main__ as m; m._do = lambda given: print('50.4 ± 2.1 – zoë'); m.main(['status'])"
    environment = os.environ | {"PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    told = {"ascii": r"50.4 +- 2.1 - zo\xeb", "utf-8": "50.4 ± 2.1 – zoë", "cp437": "50.4 ± 2.1 - zoë"}
    assert done.stdout.decode(encoding).strip() == told[encoding] and not done.stderr


@pytest.mark.heavy
def test_a_reader_who_leaves_early_gets_no_traceback(tmp_path):
    grid = f"--set 'seed={list(range(1000))}' --set experiment={'x' * 60} --yes"  # more than a pipe holds
    plan = f"{sys.executable} -m clipreid_lib plan {BASE} {grid}"
    done = subprocess.run(["bash", "-c", f"{plan} | head -n 1"], capture_output=True, text=True, timeout=120)
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys, clipreid_lib.__main__; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0


@pytest.mark.slow
def test_the_garbage_collector_is_on_after_the_heavy_imports_and_leaves_them_alone():
    code = "import gc, sys, clipreid_lib.base.import_fixes; "
    code += "sys.exit(not gc.isenabled() or gc.get_freeze_count() < 10_000)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ).returncode == 0
