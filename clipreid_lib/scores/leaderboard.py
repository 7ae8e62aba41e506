"""The leaderboard: one row per run and protocol, and per fusion of runs, made from every ``metrics.json``."""

from pathlib import Path

import pandas as pd

from clipreid_lib.base.files import locked, write_csv
from clipreid_lib.scores.finished_run import FinishedRun, read_metrics
from clipreid_lib.scores.ladder import group_methods
from clipreid_lib.scores.score_names import FLOOR, IN_DRAWS, SCORES, SHOWN, VOTES, format_share, name_score

FUSED = "fused"  # folder of the fusions, and their variant
COLUMNS = (
    "experiment dataset aspect model variant stage protocol seed over queries gallery distractors identities "
    "rank1 rank1_low rank1_high rank1_per_person rank5 rank10 map map_low map_high map_per_person map_trapezoid minp "
    "eer eer_low eer_high"
).split()
COLUMNS += [f"{score}{IN_DRAWS}{end}" for score in SCORES for end in ("", "_std")]
COLUMNS += ["checkpoint_sha", "manifest_sha", "run"]
SUMMARISED = ("rank1", "rank5", "map", *VOTES)
DRAWN = tuple(f"rank1{IN_DRAWS}{end}" for end in ("", "_std"))


def list_rows(*runs: dict) -> pd.DataFrame:
    """Return the leaderboard's rows of runs' metrics, one per run and protocol; a run's own protocol first.

    An EER that is not measurable is left empty. Of an older version's runs, which have means of draws alone, there are
    the columns that say so. A test of one aspect of several has that aspect.
    """
    found = []
    for metrics in runs:
        for name, scores in metrics["protocols"].items():
            aspect = name.partition(", ")[2] or metrics.get("aspect")
            found.append({**metrics, **_read_scores(scores), "aspect": aspect})
    return pd.DataFrame(found, columns=COLUMNS).astype({"seed": "Int64"})  # a fusion over seeds has none


def _read_scores(scores: dict) -> dict:
    if "over" not in scores:
        ends = ("", "_std", "_low", "_high")
        drawn = {f"{score}{IN_DRAWS}{end}": scores.get(f"{score}{end}") for score in SCORES for end in ends}
        counted_anew = [f"{score}{end}" for score in (*SCORES, "eer") for end in ends]
        return dict(scores) | drawn | dict.fromkeys(counted_anew)
    return scores | ({"eer": None} if isinstance(scores.get("eer"), str) else {})


def refresh_leaderboard(outputs: Path) -> pd.DataFrame:
    """Write ``leaderboard.csv`` anew from every ``metrics.json`` of runs and fusions, so it never disagrees with them.

    A lock makes two runs that finish together take turns, so neither writes a leaderboard without the other.
    """
    with locked(outputs / ".leaderboard.lock"):
        paths = [path for kind in ("runs", FUSED) for path in sorted((outputs / kind).glob("*/metrics.json"))]
        found = [read_metrics(path.parent) for path in paths]
        board = list_rows(*filter(None, found))
        write_csv(outputs / "leaderboard.csv", board)
    return board


def summarise(runs: list[FinishedRun]) -> tuple[pd.DataFrame, str]:
    """Summarise evaluated runs in per cent, one row per variant and whatever else they differ in, averaged over seeds.

    Returns:
        The table, and a sentence with the pixel floor.
    """
    if not runs:
        return pd.DataFrame(), ""
    metrics = pd.DataFrame(
        [dict.fromkeys((*SUMMARISED, *DRAWN, "pixels", "manifest_sha")) | run.metrics for run in runs]
    )
    metrics[[*SUMMARISED, *DRAWN]] = metrics[[*SUMMARISED, *DRAWN]].astype(float)
    keys, groups = group_methods(runs)
    rows, place = {}, {run.name: number for number, run in enumerate(runs)}
    for values, mine in groups.items():
        group, row = metrics.iloc[[place[run.name] for run in mine]], {}
        for score in SUMMARISED:
            row[name_score(score)] = format_share(group[score].mean())
            if len(group) > 1:
                row[name_score(score)] += f" ({format_share(group[score].std(ddof=1))})"
        row[name_score(DRAWN[0])] = format_share(*group[list(DRAWN)].mean())
        rows[values if len(keys) > 1 else values[0]] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.names = keys if len(keys) > 1 else [None]
    seeds = "; in brackets the deviation over seeds" if len({run.params.seed for run in runs}) > 1 else ""
    over = ", ".join(sorted({run.own["over"] for run in runs}))
    notes = [
        f"Per cent, mean over {over}{seeds}; per person: every person has one vote;\n"
        "draws: mean ± standard deviation over draws, as papers print."
    ]
    for _, run in metrics.dropna(subset=["pixels"]).drop_duplicates("manifest_sha").iterrows():
        floor = ", ".join(f"{SHOWN[score]} {format_share(run['pixels'][score])}" for score in ("rank1", "rank5", "map"))
        where = f"{run['dataset']} {run['aspect']} ({run['protocol']})"
        notes.append(f"Floor, {FLOOR.replace(' ', ' grey ')} on {where}: {floor}.")
    return table, "\n".join(notes)
