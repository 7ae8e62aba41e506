"""The leaderboard: one row per run and protocol, made from every run's ``metrics.json``."""

from pathlib import Path

import pandas as pd

from clipreid_lib.base.files import locked, read_json, write_csv
from clipreid_lib.params.read import read_yaml
from clipreid_lib.scores.score_names import SHOWN, in_words

COLUMNS = (
    "experiment dataset aspect model variant stage protocol seed queries gallery distractors identities "
    "rank1 rank1_std rank1_low rank1_high rank5 rank5_std rank10 map map_std map_low map_high map_trapezoid minp "
    "eer eer_low eer_high checkpoint_sha manifest_sha run"
).split()


def read_metrics(folder: Path) -> dict | None:
    """Read one run's metrics; None where there are none yet, or the file is damaged or older."""
    metrics = read_json(folder / "metrics.json") or {}
    return metrics if {"protocols", "compared_sha"} <= set(metrics) else None


def rows(*runs: dict) -> pd.DataFrame:
    """Return the leaderboard's rows of runs' metrics, one per run and protocol; a run's own protocol first."""
    found = [{**metrics, **scores} for metrics in runs for scores in metrics["protocols"].values()]
    return pd.DataFrame(found, columns=COLUMNS)


def refresh_leaderboard(outputs: Path) -> pd.DataFrame:
    """Write ``leaderboard.csv`` anew from every run's ``metrics.json``, so it never disagrees with them.

    A lock makes two runs that finish together take turns, so neither writes a leaderboard without the other.
    """
    with locked(outputs / ".leaderboard.lock"):
        found = [read_metrics(path.parent) for path in sorted((outputs / "runs").glob("*/metrics.json"))]
        board = rows(*filter(None, found))
        write_csv(outputs / "leaderboard.csv", board)
    return board


def table(folders: list[Path]) -> tuple[pd.DataFrame, str]:
    """Summarise runs in per cent, one row per variant and whatever else they differ in, averaged over seeds.

    Args:
        folders: of evaluated runs; those without metrics are left out.

    Returns:
        The table, and a sentence with the pixel floor.
    """
    found = [(folder, row) for folder in folders if (row := read_metrics(folder))]
    if not found:
        return pd.DataFrame(), ""
    metrics = pd.DataFrame([row for _, row in found])
    settings = pd.DataFrame([read_yaml(folder / "params.yaml") for folder, _ in found])
    one_stage = settings["mode"] != "full"  # say so: after prompt_learn the image encoder is still the frozen one
    settings.loc[one_stage, "variant"] += ", " + settings.loc[one_stage, "mode"]
    varying = [
        key for key in settings if key not in ("variant", "mode", "seed") and settings[key].nunique(dropna=False) > 1
    ]
    keys = [*varying, "variant"]  # whatever the runs differ in names a row; only seeds are averaged
    rows = {}
    for name, group in metrics.groupby([settings[key] for key in keys], sort=False, dropna=False):
        row = {}
        for score in ("rank1", "rank5", "map"):
            row[SHOWN[score]] = in_words(group[score].mean(), group[f"{score}_std"].astype(float).mean())
            if len(group) > 1:
                row[SHOWN[score]] += f" ({100 * group[score].std(ddof=1):.1f})"
        rows[name if varying else name[0]] = row
    shown = pd.DataFrame.from_dict(rows, orient="index")
    shown.index.names = keys if varying else [None]
    note = "Per cent, mean ± standard deviation over draws"
    note += "; in brackets the deviation over seeds.\n" if settings["seed"].nunique() > 1 else ".\n"
    floors = metrics.drop_duplicates("manifest_sha")
    for _, run in floors.iterrows():
        floor = {score: f"{100 * run['pixels'][score]:.1f}" for score in ("rank1", "rank5", "map")}
        note += (
            f"Floor, 32x32 grey pixels on {run['dataset']} {run['aspect']} ({run['protocol']}): "
            f"rank-1 {floor['rank1']}, rank-5 {floor['rank5']}, mAP {floor['map']}.\n"
        )
    return shown, note.rstrip()
