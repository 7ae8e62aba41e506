"""Comparison: two methods on the same queries, with interval and p-value, within a run and between runs."""

from pathlib import Path

import pandas as pd

from clipreid_lib import uncertainty
from clipreid_lib.errors import UserError
from clipreid_lib.evaluation import Evaluation
from clipreid_lib.leaderboard import read_metrics
from clipreid_lib.runs import Run

SAME = ["draw", "path"]


def against(own: Evaluation, others: dict[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Compare the run's own embedding with others, query by query.

    Args:
        own: of the run.
        others: by name, ``per_query`` tables of the same draws.
        seed: of the resampling.

    Returns:
        One row per other method: ours minus theirs in points, with 95 % interval and p-value, for rank-1 and mAP.

    Raises:
        UserError: another method was asked other queries.
    """
    rows = {}
    for name, theirs in others.items():
        both = own.per_query.merge(theirs, on=SAME, suffixes=("", "_theirs"), how="inner")
        if not len(both) == len(own.per_query) == len(theirs):
            raise UserError(f"{name}: answers other queries; compare runs under one manifest")
        row = {}
        for shown, one, other in (
            ("rank-1", both["first_hit_theirs"] == 1, both["first_hit"] == 1),
            ("mAP", both["average_precision_theirs"], both["average_precision"]),
        ):
            found = uncertainty.compare(one, other, both["identity"], seed)
            row[shown] = f"{100 * found.mean:+.1f} {uncertainty.in_words((found.low, found.high), '+')}"
            row[f"p ({shown})"] = f"{found.p:.4f}"
        rows[f"over {name}"] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def other_runs(run: Run) -> dict[str, pd.DataFrame]:
    """Find evaluated runs in the same outputs folder that answer the very same queries (one manifest hash).

    Returns:
        ``per_query`` tables of their own protocol by a name that says variant, stage and seed; this run is left out.
    """
    found = {}
    for folder in sorted(run.folder.parent.glob("*")):
        metrics = read_metrics(folder) if folder != run.folder else None
        if metrics and metrics["manifest_sha"] == run.manifest.sha:
            table = _per_query(folder / "per_query.csv")
            if table is not None:
                name = f"{metrics['variant']} ({metrics['stage']}), seed {metrics['seed']}"
                taken = name in found
                found[f"{name}, {folder.name[-8:]}" if taken else name] = table[
                    table["protocol"] == metrics["protocol"]
                ]
    return found


def _per_query(path: Path) -> pd.DataFrame | None:
    try:
        return pd.read_csv(path)
    except (OSError, ValueError):  # not there yet, or cut short
        return None
