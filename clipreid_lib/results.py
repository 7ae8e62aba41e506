"""Results that travel: each run's ``metrics.json``, the leaderboard made of them, and the table to read."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from clipreid_lib.compose import read_yaml
from clipreid_lib.errors import UserError
from clipreid_lib.evaluation import Evaluation
from clipreid_lib.files import write_json, write_text
from clipreid_lib.params import project_path
from clipreid_lib.runs import Run

COLUMNS = (
    "experiment dataset aspect model variant stage protocol seed queries gallery distractors identities "
    "rank1 rank1_std rank5 rank5_std rank10 map map_std minp manifest_sha checkpoint_sha run"
).split()
SHOWN = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "map": "mAP", "minp": "mINP"}
FLOOR = "32x32 pixels"
DEFINITIONS = {
    "rank1": "share of queries whose best-ranked gallery image is a true match; mean over draws",
    "map": "mean average precision, standard definition; mean over draws",
    "minp": "mean inverse negative penalty: matches / rank of the last match; mean over draws",
    "_std": "standard deviation over draws",
    "closed_set": "share of held-out images of training people (validation: published) given to the right person",
}


def write_metrics(run: Run, evaluations: dict[str, Evaluation], checkpoint_sha: str, closed_set: dict) -> dict:
    """Write a run's ``metrics.json``, ``per_draw.csv`` and ``per_query.csv`` and refresh the leaderboard.

    Args:
        run: the run.
        evaluations: by embedding. The first is the run's own; :data:`FLOOR` is the pixels'; others are kept beside.
        checkpoint_sha: of the weights that made the embeddings.
        closed_set: shares of held-out images of training people identified, by way of identifying them.

    Returns:
        What ``metrics.json`` holds.
    """
    params, manifest = run.params, run.manifest
    own, scores = next(iter(evaluations.items()))
    metrics = {
        **{key: getattr(params, key) for key in ("experiment", "dataset", "aspect", "model", "variant")},
        "stage": params.stage,
        "protocol": params.protocol,
        "seed": params.seed,
        "queries": int(scores.per_draw["queries"].iloc[0]),
        "gallery": int(scores.per_draw["gallery"].iloc[0]),
        "distractors": int((manifest.draw(0)[1]["role"] == "distractor").sum()),
        "identities": int(manifest.test["identity"].nunique()),
        **scores.summary(),
        "embedding": own,
        "embeddings": {name: each.summary() for name, each in evaluations.items() if name not in (own, FLOOR)},
        "pixels": evaluations[FLOOR].summary(),
        "closed_set": closed_set,
        "manifest_sha": manifest.sha,
        "checkpoint_sha": checkpoint_sha,
        "run": params.run_id,
        "definitions": DEFINITIONS,
    }
    write_text(run.folder / "per_draw.csv", scores.per_draw.to_csv())
    write_text(run.folder / "per_query.csv", scores.per_query.to_csv(index=False))
    write_json(run.folder / "metrics.json", metrics)
    refresh_leaderboard(project_path(params.outputs_root))
    return metrics


def refresh_leaderboard(outputs: Path) -> pd.DataFrame:
    """Write ``leaderboard.csv`` anew from every run's ``metrics.json``, so it never disagrees with them."""
    with _locked(outputs / ".leaderboard.lock"):
        rows = [read_metrics(path.parent) for path in sorted((outputs / "runs").glob("*/metrics.json"))]
        board = pd.DataFrame([row for row in rows if row], columns=COLUMNS)
        write_text(outputs / "leaderboard.csv", board.to_csv(index=False))
    return board


def read_metrics(folder: Path) -> dict | None:
    """Read one run's metrics; None where there are none yet or the file is damaged."""
    try:
        return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def side_by_side(named: dict[str, Evaluation]) -> pd.DataFrame:
    """Return the scores of several evaluations in per cent, one row each, as mean ± deviation over draws."""
    rows = {}
    for name, scores in named.items():
        summary = scores.summary()
        rows[name] = {
            shown: f"{100 * summary[score]:.1f} ± {100 * summary[f'{score}_std']:.1f}" for score, shown in SHOWN.items()
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def facts(run: Run) -> dict[str, str]:
    """Return what a reader of the run's pictures needs to know about it, ready to print.

    Raises:
        UserError: the run has not been evaluated.
    """
    metrics = read_metrics(run.folder)
    if metrics is None:
        raise UserError(f"{run.folder / 'metrics.json'}: not there; run notebook 04 with the same params first")
    draws = "1 draw" if run.manifest.draws == 1 else f"{run.manifest.draws} draws"
    scores = {
        f"{shown}, {draws}": f"{100 * metrics[score]:.1f} ± {100 * metrics[f'{score}_std']:.1f} %"
        for score, shown in SHOWN.items()
    }
    return {
        "data": f"{run.params.dataset}, {run.params.aspect}, protocol {run.params.protocol}",
        "model": f"{run.params.model}, variant {run.params.variant}, stage {run.params.stage}",
        "shown": f"draw 0: {metrics['queries']} queries, {metrics['gallery']} gallery images",
        **scores,
        "floor (32x32 pixels)": f"rank-1 {100 * metrics['pixels']['rank1']:.1f} %",
        "manifest": metrics["manifest_sha"][:12],
    }


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
            row[SHOWN[score]] = f"{100 * group[score].mean():5.1f} ± {100 * group[f'{score}_std'].mean():.1f}"
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


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    # Two runs that finish together must not each write a leaderboard without the other.
    try:
        import fcntl
    except ImportError:  # Windows: `clipreid run` refreshes the leaderboard once more when all is done
        yield
        return
    try:
        file = open(path, "w")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
