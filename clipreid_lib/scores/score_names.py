"""What a study reports: keys in files, names in print. Light, so that every table and figure can use it."""

import math

RANKS = (1, 5, 10)  # what the hand papers print
SHOWN = {f"rank{k}": f"rank-{k}" for k in RANKS} | {"map": "mAP", "map_trapezoid": "mAP (trapezoid)", "minp": "mINP"}
SCORES = tuple(SHOWN)


def attribute(column: str) -> str:
    """Write a column of the image table in words: ``skin_color`` becomes ``skin colour``."""
    return column.replace("color", "colour").replace("_", " ")


def method(variant: str, stage: str) -> str:
    """Name a run by its variant and, where that is another word, its last stage."""
    return variant if variant == stage else f"{variant} ({stage})"


def in_words(mean: float, deviation: float | None) -> str:
    """Write a share in per cent with its deviation over draws, where there are several."""
    spread = "" if deviation is None or math.isnan(deviation) else f" ± {100 * deviation:.1f}"
    return f"{100 * mean:.1f}{spread}"
