"""Choosing a combination by validation people, and testing it alone."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from small_runs import TINY, finetune

from clipreid_lib.__main__ import main
from clipreid_lib.base.errors import UserError
from clipreid_lib.params.read import expand
from clipreid_lib.runs import choose
from clipreid_lib.runs.loading import load_trained_encoder
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import evaluation

GRID = {"variant": "classifier", "validation": "identity_disjoint", "encoder_lr": [1e-4, 1e-3, 1e-5], "seed": [0, 1]}


def runs_of(outputs, **more):
    return expand({**TINY, **GRID, "outputs_root": str(outputs), "experiment": "choose", **more})


def log(run, scores, column="validation_map"):
    path = Run.open(run).logs / "encoder.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    other = ({"validation_map", "validation_rank1"} - {column}).pop()
    pd.DataFrame({"epoch": range(1, len(scores) + 1), column: scores, other: 0.5}).to_csv(path, index=False)


@pytest.mark.parametrize(
    ("more", "score", "told"),
    [
        ({}, "rank1_test", "--choose: 'rank1_test' is no score of validation people; use map or rank1"),
        ({"validation": "none"}, "map", "validation: --choose ranks by people nobody trains on; set identity_disjoint"),
        ({"validation": "published"}, "map", "set identity_disjoint, not published"),
        ({"variant": ["classifier", "frozen"]}, "map", "variant: frozen, mode full, trains no image encoder to choose"),
        ({"exclude": [{"seed": 1, "encoder_lr": 1e-3}]}, "map", "give every combination the same seeds"),
        ({"aspect": ["dorsal_r", "palmar_r"]}, "map", "the grid spans 2 data sets, aspects or protocols"),
    ],
)
def test_what_cannot_be_chosen_is_told(more, score, told, tmp_path):
    with pytest.raises(UserError, match=told):
        choose.check(runs_of(tmp_path, **more), score)


def test_the_best_mean_over_seeds_of_the_last_epoch_comes_first(tmp_path):
    runs = runs_of(tmp_path)
    last = {(1e-4, 0): 0.9, (1e-4, 1): 0.5, (1e-3, 0): 0.8, (1e-3, 1): 0.7, (1e-5, 0): 0.75, (1e-5, 1): 0.75}
    for run in runs:
        log(run, [0.99, last[run.encoder_lr, run.seed]])  # an epoch before the last counts for nothing
    table, chosen = choose.rank(runs, "map")
    assert table.columns.tolist() == ["encoder_lr", "validation mAP", "deviation", "seeds"]
    assert table["encoder_lr"].tolist() == [1e-3, 1e-5, 1e-4]  # of two equal ones, the grid's first
    assert table["validation mAP"].tolist() == pytest.approx([0.75, 0.75, 0.7])
    assert table["deviation"].tolist() == pytest.approx([np.std([0.8, 0.7], ddof=1), 0, np.std([0.9, 0.5], ddof=1)])
    assert {(run.encoder_lr, run.seed) for run in chosen} == {(1e-3, 0), (1e-3, 1)}
    for run in runs:
        log(run, [1.0 - last[run.encoder_lr, run.seed]], "validation_rank1")
    assert choose.rank(runs, "rank1")[0]["encoder_lr"].iloc[0] == 1e-4
    log(runs[0], [np.nan])
    with pytest.raises(UserError, match="encoder.csv: has no validation_map; was 03_encoder_finetune finished"):
        choose.rank(runs, "map")


@pytest.mark.heavy
def test_only_the_chosen_runs_are_tested(tmp_path, capsys):
    grid = {**TINY, **GRID, "encoder_lr": "[1.0e-4,1.0e-7]", "seed": 0, "outputs_root": tmp_path, "experiment": "c"}
    arguments = ["run", "params/base.yaml", "--choose", "map"]
    arguments += [part for key, value in grid.items() for part in ("--set", f"{key}={value}")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "The first is tested now." in said and "validation mAP" in said
    folders = sorted((tmp_path / "runs").iterdir())
    tested = [folder for folder in folders if (folder / "metrics.json").exists()]
    assert len(folders) == 2 and len(tested) == 1
    assert all((folder / "saved_models" / "encoder.safetensors").exists() for folder in folders)
    last = [pd.read_csv(folder / "train_logs" / "encoder.csv")["validation_map"].iloc[-1] for folder in folders]
    assert (tested[0] / "choice.csv").exists() and last[folders.index(tested[0])] == max(last)
    page = (tested[0] / "report.html").read_text()
    assert "validation people, last epoch" in page and "The choice itself tested none of the others." in page
    shown = json.loads((tested[0] / "metrics.json").read_text())
    assert shown["seed"] == 0
    assert main(arguments) == 0 and "nothing to do" in capsys.readouterr().out
    scored = (tested[0] / "metrics.json").stat().st_mtime_ns
    assert main([*arguments, "--force", "03"]) == 0  # trained anew: the old scores do not stand
    assert sum((folder / "metrics.json").exists() for folder in folders) == 1
    assert (tested[0] / "metrics.json").stat().st_mtime_ns > scored
    assert main([*arguments, "--backend", "slurm"]) == 2
    assert "--choose: waits for a whole grid" in capsys.readouterr().err


def test_validation_scores_what_the_test_will_compare(open_run, tmp_path, monkeypatch):
    run = open_run(fresh=tmp_path, variant="classifier", validation="identity_disjoint", test_features="after_neck")
    scored, evaluate = [], evaluation.evaluate
    monkeypatch.setattr(evaluation, "evaluate", lambda given, *more: scored.append(given) or evaluate(given, *more))
    finetune(run)
    encoder = load_trained_encoder(run)
    tested = encoder.embed(run.manifest.validation)
    torch.testing.assert_close(scored[-1].of(run.manifest.validation), tested.of(run.manifest.validation))
    before = replace(encoder, neck=None).embed(run.manifest.validation)
    assert (before.values - tested.values).abs().max() > 1e-3  # it matters
