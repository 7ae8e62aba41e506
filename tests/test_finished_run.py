"""A finished run read from its folder: the very answers that were counted, and a sentence for each damaged file."""

import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.runs.results import write_metrics
from clipreid_lib.scores import assessment
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.finished_run import FinishedRun, find_runs, open_runs, read_table
from clipreid_lib.scores.score_names import FLOOR, format_score, format_share


@pytest.fixture
def scored(open_run, tmp_path):
    """A run whose results were written, and what they were."""
    run = open_run(fresh=tmp_path, variant="frozen")
    paths = run.manifest.in_tests["path"].drop_duplicates().tolist()
    noise = torch.randn(len(paths), 8, generator=torch.Generator().manual_seed(0))
    found = assessment.assess(
        {"image": Embeddings(paths, noise), FLOOR: Embeddings(paths, noise)}, run.manifest, run.params
    )
    encoder = SimpleNamespace(sha="sha", backbone=SimpleNamespace(assumed="activation gelu"))
    write_metrics(run, {"own": found}, encoder, {}, {"given": "there is no such split"})
    return run, found


def test_it_holds_what_was_counted(scored):
    run, found = scored
    finished = FinishedRun.open(run.folder)
    wanted = found.own.per_query["path identity weight rank1 rank5 rank10 map map_trapezoid minp".split()]
    pd.testing.assert_frame_equal(finished.queries, wanted)
    assert np.array_equal(finished.cmc, found.own.cmc)
    assert finished.own["rank1"] == found.numbers["rank1"] and list(finished.protocols) == ["own"]
    pd.testing.assert_frame_equal(finished.groups, found.groups, check_dtype=False)
    said = finished.describe()
    assert said["rank-1, all galleries"] == f"{format_score(found.numbers, 'rank1').split(' [')[0]} %"


def test_runs_without_scores_share_one_line_and_a_damaged_one_has_its_own(tmp_path, open_run):
    folders = [open_run(fresh=tmp_path, variant="frozen", seed=seed).folder for seed in range(3)]
    (folders[0] / "metrics.json").write_text("{")
    runs, told = open_runs(folders)
    assert runs == [] and len(told) == 2
    assert told[0].startswith(f"left out: {folders[0]}: has no scores to report (metrics.json is damaged")
    assert told[1] == "left out: 2 runs that have no scores yet; `clipreid status` says what they lack"
    assert open_runs(folders[1:2])[1][0].startswith(f"left out: {folders[1]}: has no scores to report")


@pytest.mark.parametrize(
    "change",
    [
        lambda metrics: metrics | {"protocols": {"own": "none"}},
        lambda metrics: metrics | {"protocols": {"mba": metrics["protocols"]["own"]}},
        lambda metrics: metrics | {"left_out": ["given"]},
        lambda metrics: {"rank1": 1},
    ],
)
def test_metrics_of_another_kind_are_refused_where_they_are_read(scored, change):
    path = scored[0].folder / "metrics.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=r"has no scores to report \(metrics.json is damaged or of an older version\)"):
        FinishedRun.open(scored[0].folder)


def test_scores_that_are_means_of_draws_alone_are_refused_with_what_to_do(scored):
    run, found = scored
    metrics = json.loads((run.folder / "metrics.json").read_text())
    for scores in metrics["protocols"].values():
        del scores["over"]
    (run.folder / "metrics.json").write_text(json.dumps(metrics))
    with pytest.raises(UserError) as error:
        FinishedRun.open(run.folder)
    told = "its scores are means of draws, of an older version; `clipreid run` with its params does notebook 04 again"
    assert str(error.value) == f"{run.folder}: {told}"
    assert find_runs([run.folder]) == []


def test_answers_that_do_not_add_up_to_the_scores_are_refused(scored):
    run, found = scored
    path = run.folder / "per_query.csv"
    table = pd.read_csv(path)
    assert np.average(table["rank1"], weights=table["weight"]) == pytest.approx(found.numbers["rank1"])
    table.assign(weight=table["weight"] * np.arange(1, len(table) + 1)).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"per_query.csv has other answers than metrics.json has scores"):
        FinishedRun.open(run.folder).queries  # noqa: B018
    table.assign(weight=0.0).to_csv(path, index=False)
    with pytest.raises(UserError, match="per_query.csv holds no answer under the run's own protocol"):
        FinishedRun.open(run.folder).queries  # noqa: B018


def test_a_table_says_what_it_lacks(tmp_path):
    path = tmp_path / "log.csv"
    with pytest.raises(UserError, match="^log.csv is not there$"):
        read_table(path, {})
    path.write_text("epoch,loss\n1,NaN\n")
    with pytest.raises(UserError, match="log.csv cannot be read .it has no column seconds"):
        read_table(path, {"epoch": int, "seconds": float})
    with pytest.raises(UserError, match="log.csv cannot be read"):
        read_table(path, {"epoch": int, "loss": int})
    assert read_table(path, {"loss": str})["loss"].tolist() == ["NaN"]  # a person may be called so


def test_one_way_to_write_a_share():
    assert format_share(0.5) == "50.0" and format_share(0.5, 0.0123) == "50.0 ± 1.2"
    assert format_share(0.5, None, (0.4, 0.61)) == "50.0 [40.0, 61.0]"
    assert format_share(0.5, float("nan"), (None, None)) == "50.0 [one person]"
    assert format_share(0.01, ends=(-0.02, 0.03), sign="+") == "+1.0 [-2.0, +3.0]"
    assert format_share(float("nan"), 0.1, (0, 1)) == ""
    assert format_score({"tpr": "not measurable"}, "tpr") == "not measurable" and format_score({}, "map") == "–"
