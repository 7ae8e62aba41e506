"""Comparison: two methods on the same queries, with interval and p-value, within a run and between runs."""

from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import uncertainty
from clipreid_lib.scores.assessment import Assessment
from clipreid_lib.scores.evaluation import Evaluation
from clipreid_lib.scores.leaderboard import read_metrics
from clipreid_lib.scores.score_names import method

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
            raise UserError(f"{name}: was tested on other queries; compare runs of one manifest")
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


def other_runs(run: Run, mine: Assessment) -> dict[str, pd.DataFrame]:
    """Find evaluated runs in the same outputs folder that answer the very same questions, however they were trained.

    Args:
        run: this run, which is left out.
        mine: its scores under its own protocol.

    Returns:
        ``per_query`` tables of that protocol by a name that says variant, stage and seed; damaged ones are left out.
    """
    found = {}
    for folder in sorted(run.folder.parent.glob("*")):
        metrics = read_metrics(folder) if folder != run.folder else None
        if metrics and metrics["compared_sha"] == mine.manifest.compared_sha:
            table = _per_query(folder / "per_query.csv", metrics["protocol"])
            if table is not None and len(table) == len(mine.own.per_query):
                name = f"{method(metrics['variant'], metrics['stage'])}, seed {metrics['seed']}"
                found[f"{name}, {folder.name[-8:]}" if name in found else name] = table
    return found


def _per_query(path: Path, protocol: str) -> pd.DataFrame | None:
    try:
        table = pd.read_csv(path)
        return table.loc[table["protocol"] == protocol, [*SAME, "first_hit", "average_precision"]]
    except (OSError, ValueError, KeyError):  # not there yet, cut short, or an older version's
        return None
