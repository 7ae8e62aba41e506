"""Results that travel: each run's ``metrics.json`` and CSV files, and the tables to read."""

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_csv, write_json
from clipreid_lib.params.schema import project_path
from clipreid_lib.runs.machine import choose_device, provenance
from clipreid_lib.runs.run import Run
from clipreid_lib.scores.assessment import Assessment
from clipreid_lib.scores.evaluation import Evaluation
from clipreid_lib.scores.leaderboard import read_metrics, refresh_leaderboard
from clipreid_lib.scores.score_names import SHOWN, in_words

FLOOR = "32x32 pixels"
DEFINITIONS = {
    "rank1": "share of queries whose best-ranked gallery image is a true match (rank5, rank10: among the first 5, 10); "
    "mean over draws; ties count against the model",
    "map": "mean average precision, standard definition; mean over draws",
    "map_trapezoid": "mean average precision of MBA-Net and CLIP-HandID: precision just before and at each match, "
    "averaged; with one match per query it equals (map + rank1) / 2",
    "minp": "mean inverse negative penalty: matches / rank of the last match; mean over draws",
    "_std": "standard deviation over draws; null where there is one",
    "_low, _high": "ends of the 95 % interval, percentile bootstrap over identities who ask, all draws together (too "
    "narrow near 0 and 1 and with few people; where all people agree, the exact binomial bound); eer: people resampled "
    "on both sides of a pair, distractors held; fnir: the threshold held; null with one person",
    "unmatched": "queries without a match in their gallery; they take no part in any mean",
    "eer": "equal error rate over all distinct pairs that the draws compare; pairs of one person under two numbers "
    "(the other hand of protocol mba) are left out",
    "tpr_at_fpr_x": "share of genuine pairs accepted at the threshold where at most x of the impostor pairs are",
    "fnir_at_fpir_x": "share of mated searches whose mate is not at rank 1 above the threshold that at most x of the "
    "non-mated searches exceed; half of the people enrolled at a time, all "
    "images of the others out of the gallery, all draws together",
    "rows": "identification scores of other embeddings, and of the run's own compared in other ways",
    "closed_set": "share of held-out images of training people (validation: published) given to the right person",
    "seconds": "spent on scoring (encoding apart), and on training as the logs say",
}


def write_metrics(
    run: Run, assessments: dict[str, Assessment], checkpoint_sha: str, closed_set: dict, left_out: dict[str, str]
) -> dict:
    """Write a run's ``metrics.json`` and its CSV files, and refresh the leaderboard.

    Args:
        run: the run.
        assessments: by protocol. The first is the run's own.
        checkpoint_sha: of the weights that made the embeddings.
        closed_set: shares of held-out images of training people identified, by way of identifying them.
        left_out: protocols that could not test this run, and why.

    Returns:
        What ``metrics.json`` holds: the run's own protocol at the top, every protocol under ``protocols``.
    """
    params = run.params
    protocols = {name: each.numbers() for name, each in assessments.items()}
    own = protocols[params.protocol]
    facts = provenance()
    metrics = {
        **{key: getattr(params, key) for key in ("experiment", "dataset", "aspect", "model", "variant")},
        "stage": params.stage,
        "seed": params.seed,
        **{key: value for key, value in own.items() if key != "rows"},
        "pixels": own["rows"].get(FLOOR),
        "closed_set": closed_set,
        "protocols": protocols,
        "left_out": left_out,
        "checkpoint_sha": checkpoint_sha,
        "run": params.run_id,
        "definitions": DEFINITIONS,
        "seconds": {"scoring": sum(each.seconds for each in assessments.values()), "training": _trained_for(run)},
        "device": choose_device(params.device),
        **{key: facts[key] for key in ("git", "python", "system", "versions")},
    }
    for name in ("per_draw", "per_query"):
        parts = [getattr(each.own, name).reset_index().assign(protocol=p) for p, each in assessments.items()]
        table = pd.concat(parts, ignore_index=True)
        columns = ["protocol", "draw"] + [c for c in table if c not in ("protocol", "draw", "index")]
        write_csv(run.folder / f"{name}.csv", table[columns])
    write_csv(run.folder / "subgroups.csv", assessments[params.protocol].groups, index=True)
    write_json(run.folder / "metrics.json", metrics)
    refresh_leaderboard(project_path(params.outputs_root))
    return metrics


def closed_set(metrics: dict) -> pd.DataFrame:
    """Return the shares of held-out images of training people given to the right person, in per cent, or why not."""
    shown = {how: f"{100 * share:.1f} %" for how, share in metrics["closed_set"].items()}
    shown = shown or {"": "No image of a training person was held out."}
    return pd.DataFrame.from_dict(shown, orient="index", columns=[""])


def side_by_side(named: dict[str, Evaluation]) -> pd.DataFrame:
    """Return the scores of several evaluations in per cent, one row each, as mean ± deviation over draws."""
    rows = {}
    for name, scores in named.items():
        summary = scores.summary()
        rows[name] = {shown: in_words(summary[score], summary[f"{score}_std"]) for score, shown in SHOWN.items()}
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
        f"{shown}, {draws}": f"{in_words(metrics[score], metrics[f'{score}_std'])} %" for score, shown in SHOWN.items()
    }
    return {
        "data": f"{run.params.dataset}, {run.params.aspect}, protocol {run.params.protocol}",
        "model": f"{run.params.model}, variant {run.params.variant}, stage {run.params.stage}",
        "shown": f"draw 0: {metrics['queries']} queries, {metrics['gallery']} gallery images",
        **scores,
        "floor (32x32 pixels)": f"rank-1 {100 * metrics['pixels']['rank1']:.1f} %",
        "manifest": metrics["manifest_sha"][:12],
    }


def _trained_for(run: Run) -> float:
    logs = [pd.read_csv(path) for path in sorted(run.logs.glob("*.csv"))]
    return float(sum(log["seconds"].sum() for log in logs if "seconds" in log))
