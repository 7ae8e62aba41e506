"""The leaderboard: one row per run and protocol, made from every run's ``metrics.json``."""

from pathlib import Path

import pandas as pd

from clipreid_lib.base.files import locked, write_csv
from clipreid_lib.scores.finished_run import FinishedRun, read_metrics
from clipreid_lib.scores.score_names import FLOOR, SHOWN, format_share

COLUMNS = (
    "experiment dataset aspect model variant stage protocol seed queries gallery distractors identities "
    "rank1 rank1_std rank1_low rank1_high rank5 rank5_std rank10 map map_std map_low map_high map_trapezoid minp "
    "eer eer_low eer_high checkpoint_sha manifest_sha run"
).split()
SUMMARISED = ("rank1", "rank5", "map")


def list_rows(*runs: dict) -> pd.DataFrame:
    """Return the leaderboard's rows of runs' metrics, one per run and protocol; a run's own protocol first."""
    found = [{**metrics, **scores} for metrics in runs for scores in metrics["protocols"].values()]
    return pd.DataFrame(found, columns=COLUMNS)


def refresh_leaderboard(outputs: Path) -> pd.DataFrame:
    """Write ``leaderboard.csv`` anew from every run's ``metrics.json``, so it never disagrees with them.

    A lock makes two runs that finish together take turns, so neither writes a leaderboard without the other.
    """
    with locked(outputs / ".leaderboard.lock"):
        found = [read_metrics(path.parent) for path in sorted((outputs / "runs").glob("*/metrics.json"))]
        board = list_rows(*filter(None, found))
        write_csv(outputs / "leaderboard.csv", board)
    return board


def summarise(runs: list[FinishedRun]) -> tuple[pd.DataFrame, str]:
    """Summarise runs in per cent, one row per variant and whatever else they differ in, averaged over seeds.

    Args:
        runs: evaluated ones.

    Returns:
        The table, and a sentence with the pixel floor.
    """
    if not runs:
        return pd.DataFrame(), ""
    scores = [f"{score}{end}" for score in SUMMARISED for end in ("", "_std")]
    metrics = pd.DataFrame([dict.fromkeys((*scores, "pixels", "manifest_sha")) | run.metrics for run in runs])
    metrics[scores] = metrics[scores].astype(float)  # NaN where a run of an older version lacks one
    settings = pd.DataFrame([run.params.model_dump() for run in runs])
    one_stage = settings["mode"] != "full"  # say so: after prompt_learn the image encoder is still the frozen one
    settings.loc[one_stage, "variant"] += ", " + settings.loc[one_stage, "mode"]
    # whatever else the runs differ in names a row; only seeds are averaged
    trained = settings[[run.params.trains_encoder for run in runs]]  # no others have a precision
    counted = {key: (trained if key == "precision" else settings)[key].nunique(False) for key in settings}
    varying = [key for key, values in counted.items() if values > 1 and key not in ("variant", "mode", "seed")]
    keys = [*varying, "variant"]
    rows = {}
    for name, group in metrics.groupby([settings[key] for key in keys], sort=False, dropna=False):
        row = {}
        for score in SUMMARISED:
            row[SHOWN[score]] = format_share(group[score].mean(), group[f"{score}_std"].mean())
            if len(group) > 1:
                row[SHOWN[score]] += f" ({format_share(group[score].std(ddof=1))})"
        rows[name if varying else name[0]] = row
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index.names = keys if varying else [None]
    seeds = "; in brackets the deviation over seeds" if settings["seed"].nunique() > 1 else ""
    notes = [f"Per cent, mean ± standard deviation over draws{seeds}."]
    for _, run in metrics.dropna(subset=["pixels"]).drop_duplicates("manifest_sha").iterrows():
        floor = ", ".join(f"{SHOWN[score]} {format_share(run['pixels'][score])}" for score in SUMMARISED)
        where = f"{run['dataset']} {run['aspect']} ({run['protocol']})"
        notes.append(f"Floor, {FLOOR.replace(' ', ' grey ')} on {where}: {floor}.")
    return table, "\n".join(notes)
