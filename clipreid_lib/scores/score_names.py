"""What a study reports: scores by their keys in files, their names in print, their definitions, and how one is written.

Light, so that every table and figure can use it.
"""

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

RANKS = (1, 5, 10)  # what the hand papers print
SHOWN = {f"rank{k}": f"rank-{k}" for k in RANKS} | {"map": "mAP", "map_trapezoid": "mAP (trapezoid)", "minp": "mINP"}
SCORES = tuple(SHOWN)
FLOOR = "32x32 pixels"
ALL_GALLERIES = "all galleries"  # that a score is the mean over, where it is not over a number of draws
# Ends of keys: every person one vote; the mean over draws, as in papers.
EACH_PERSON, IN_DRAWS = "_per_person", "_draws"
DEFINITIONS: dict[str, str] = yaml.safe_load(Path(__file__).with_name("definitions.yaml").read_text(encoding="utf-8"))
# Every person one vote: a person of many photographs weighs no more than one of two.
VOTES = tuple(f"{score}{EACH_PERSON}" for score in ("rank1", "map"))
COUNTS = {
    "identities": "people asked for",
    "queries": "queries (draw 0)",
    "gallery": "gallery images (draw 0)",
    "distractors": "distractors among them",
    "own_other_aspects": "of these, tested people's other aspects",
    "draws": "draws",
    "unmatched": "queries without a match",
    "genuine_pairs": "genuine pairs",
    "impostor_pairs": "impostor pairs",
    "enrolled": "people enrolled (open set)",
}
ENDS = ("", "_low", "_high")  # a score and its interval
# Error rates at thresholds that everybody shares: that of the EER, and the one that 1 % of everybody's impostor pairs
# pass, which is nearer to what is deployed.
PLACES = {"fpr_0.01": "threshold at 1 %", "eer": "threshold of the EER"}
RATES = {f"{rate}_at_{place}": f"{rate.upper()}, {name}" for place, name in PLACES.items() for rate in ("fpr", "fnr")}
GROUP_SCORES = {"rank1": "rank-1", "map": "mAP", "eer": "EER"} | RATES


def name_score(key: str) -> str:
    """Name a score by its key: ``rank1_per_person`` is "rank-1 per person", ``map_draws`` "mAP, draws"."""
    for end, said in ((EACH_PERSON, " per person"), (IN_DRAWS, ", draws")):
        if key.endswith(end):
            return name_score(key.removesuffix(end)) + said
    return (SHOWN | {"eer": "EER"})[key]


def name_attribute(column: str) -> str:
    """Write a column of the image table in words: ``skin_color`` becomes ``skin colour``."""
    return column.replace("color", "colour").replace("_", " ")


def name_method(variant: str, stage: str) -> str:
    """Name a run by its variant and, where that is another word, its last stage."""
    return variant if variant == stage else f"{variant} ({stage})"


def name_rates(keys: Iterable[str]) -> dict[str, str]:
    """Name the error rates among the keys of a record: ``tpr_at_fpr_0.01`` is TPR at FPR 0.01; others are left out."""
    parts = {key: key.rpartition("_") for key in keys if "_at_f" in key and not key.endswith(("_low", "_high"))}
    names = {key: f"{rate.upper().replace('_AT_', ' at ')} {level}" for key, (rate, _, level) in parts.items()}
    return {key: f"{name}, draws" if key.startswith("fnir") else name for key, name in names.items()}


def name_interval(score: str, found: Iterable) -> dict[str, Any]:
    """Put a score and the ends of its interval, in this order, under their keys in files: ``eer eer_low eer_high``."""
    return dict(zip((f"{score}{end}" for end in ENDS), found, strict=True))


def replace_nan(scores: dict[str, Any]) -> dict[str, Any]:
    """Return scores with None for what is not a number, as JSON has it."""
    return {name: None if isinstance(each, float) and math.isnan(each) else each for name, each in scores.items()}


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
