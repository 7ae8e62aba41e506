"""Comparison: two methods on the same queries, with interval and p-value, within a run and between runs."""

import contextlib
from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.scores import uncertainty
from clipreid_lib.scores.finished_run import find_runs
from clipreid_lib.scores.score_names import format_share, name_method

SAME = ["draw", "path"]


def compare(mine: pd.DataFrame, others: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Compare one method with others, query by query.

    Args:
        mine: its ``per_query`` table of some draws.
        others: those of the others, of the same draws, by name.

    Returns:
        One row per other method: ours minus theirs in points, with 95 % interval and p-value, for rank-1 and mAP.

    Raises:
        UserError: another method was asked other queries.
    """
    rows = {}
    for name, theirs in others.items():
        both = mine.merge(theirs, on=SAME, suffixes=("", "_theirs"), how="inner")
        if not len(both) == len(mine) == len(theirs):
            raise UserError(f"{name}: was tested on other queries; compare runs of one manifest")
        row: dict[str, str] = {}
        for score, theirs_each, ours_each in (
            ("rank-1", both["first_hit_theirs"] == 1, both["first_hit"] == 1),
            ("mAP", both["average_precision_theirs"], both["average_precision"]),
        ):
            mean, ends, p = uncertainty.compare(theirs_each, ours_each, both["identity"])
            row |= {score: format_share(mean, ends=ends, sign="+"), f"p ({score})": f"{p:.4f}"}
        rows[f"over {name}"] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def find_comparable(folder: Path, compared_sha: str) -> dict[str, pd.DataFrame]:
    """Find evaluated runs beside one that answer the very same questions, however they were trained.

    Args:
        folder: of the run, which is left out.
        compared_sha: of its manifest: what its own protocol compares.

    Returns:
        ``per_query`` tables by a name that says variant, stage and seed; runs with damaged files are left out.
    """
    found: dict[str, pd.DataFrame] = {}
    for run in find_runs(sorted(path for path in folder.parent.glob("*") if path != folder)):
        if run.own["compared_sha"] != compared_sha:
            continue
        name = f"{name_method(run.params.variant, run.params.stage)}, seed {run.params.seed}"
        with contextlib.suppress(UserError):  # cut short, or not there yet
            queries = run.queries[[*SAME, "first_hit", "average_precision"]]
            found[f"{name}, {run.name[-8:]}" if name in found else name] = queries
    return found
