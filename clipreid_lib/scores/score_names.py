"""What a study reports: scores by their keys in files, their names in print, their definitions, and how one is written.

Light, so that every table and figure can use it.
"""

import math
from collections.abc import Iterable, Sequence

RANKS = (1, 5, 10)  # what the hand papers print
SHOWN = {f"rank{k}": f"rank-{k}" for k in RANKS} | {"map": "mAP", "map_trapezoid": "mAP (trapezoid)", "minp": "mINP"}
SCORES = tuple(SHOWN)
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


def name_attribute(column: str) -> str:
    """Write a column of the image table in words: ``skin_color`` becomes ``skin colour``."""
    return column.replace("color", "colour").replace("_", " ")


def name_method(variant: str, stage: str) -> str:
    """Name a run by its variant and, where that is another word, its last stage."""
    return variant if variant == stage else f"{variant} ({stage})"


def name_rates(keys: Iterable[str]) -> dict[str, str]:
    """Name the error rates among the keys of a record: ``tpr_at_fpr_0.01`` is TPR at FPR 0.01; others are left out."""
    found = [key for key in keys if "_at_f" in key and not key.endswith(("_low", "_high"))]
    parts = {key: key.rpartition("_") for key in found}
    return {key: f"{rate.upper().replace('_AT_', ' at ')} {level}" for key, (rate, _, level) in parts.items()}


def format_share(
    share: float | None, deviation: float | None = None, ends: Sequence[float | None] = (), sign: str = ""
) -> str:
    """Write a share in per cent, as every table, figure and page does: ``50.4 ± 2.1 [41.0, 60.2]``.

    Args:
        share: in [0, 1], or a difference of two; nothing is written where it is None or NaN.
        deviation: over draws; left out where it is None or NaN, as with one draw.
        ends: of the 95 % interval, lower and upper; "[one person]" where they are None or NaN, as nobody can be
            resampled then.
        sign: ``+`` writes a sign before positive numbers too.
    """
    if share is None or math.isnan(share):
        return ""
    text = f"{100 * share:{sign}.1f}"
    if deviation is not None and not math.isnan(deviation):
        text += f" ± {100 * deviation:.1f}"
    if ends:
        low, high = (math.nan if end is None else 100 * end for end in ends)
        text += " [one person]" if math.isnan(low) else f" [{low:{sign}.1f}, {high:{sign}.1f}]"
    return text


def format_score(scores: dict, score: str) -> str:
    """Write a score of a flat record, as in ``metrics.json``, with its deviation and interval where it has them.

    Args:
        scores: of one protocol.
        score: its key. A sentence that says why there is no number is kept; an en dash stands for nothing at all.
    """
    found = scores.get(score)
    if isinstance(found, str):
        return found
    ends = [scores[f"{score}_low"], scores.get(f"{score}_high")] if f"{score}_low" in scores else []
    return format_share(found, scores.get(f"{score}_std"), ends) or "–"
