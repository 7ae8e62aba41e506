"""Thresholds as a run keeps them, ``thresholds.json``: read and put in words and tables. Light, so that pages can.

:mod:`~clipreid_lib.scores.strangers` learns the thresholds, :mod:`~clipreid_lib.scores.calibration` the log-likelihood
ratio.
"""

from pathlib import Path

import pandas as pd

from clipreid_lib.base.files import read_json
from clipreid_lib.scores.score_names import format_share

FILE = "thresholds.json"  # in the run's folder
RATES = (0.1, 0.03, 0.01, 0.003, 0.001)  # false positive identification rates that there are thresholds for
VALIDATION, TEST = "validation", "test"  # whom thresholds are learned from
KEYS = {"checkpoint", "people", "persons", "enrolled", "why", "found_on", "rates", "calibration"}
RATE_KEYS = {"fpir", "threshold", "found", "interval", "searches"}
RATIO_KEYS = {"people", "pairs", "slope", "intercept", "cllr", "cllr_min", "cllr_raw"}


def read_thresholds(folder: Path) -> dict | None:
    """Read what notebook 04 kept in a run's folder; None where it is not there, damaged or of another version."""
    found = read_json(folder / FILE) or {}
    if not set(found) >= KEYS or not isinstance(found["rates"], list):
        return None
    parts = [(found["calibration"], RATIO_KEYS), *((rate, RATE_KEYS) for rate in found["rates"])]
    return found if all(isinstance(part, dict) and set(part) >= keys for part, keys in parts) else None


def describe(learned: dict) -> str:
    """Say in words from whom thresholds were learned, on whom their rates were found, and for how many enrolled."""
    persons, enrolled, on = learned["persons"], learned["enrolled"], learned["found_on"]
    passed = f" Validation people are too few for any rate ({learned['why']})." if learned["why"] else ""
    if all(rate["threshold"] is None for rate in learned["rates"]):
        return f"No threshold: too few searches for strangers among {persons} {learned['people']} people.{passed}"
    if learned["people"] == TEST:
        said = (
            f"Learned from the {persons} test people themselves, each searched for among the {enrolled} others. The "
            f"rates found are those of the same people, so other people may exceed what is promised.{passed}"
        )
    else:
        said = (
            f"Learned from {persons} validation people, each searched for among the {enrolled} others. The rates found "
            f"are those of {on['persons']} test people, {on['enrolled']} of them enrolled at a time."
        )
    return (
        f"{said} They hold for {enrolled} people enrolled with one photograph each; with N people, expect up to "
        f"N/{enrolled} times as many. With several photographs of each, clipreid identify learns others."
    )


def tabulate(learned: dict) -> pd.DataFrame:
    """Return the thresholds as a table: rates in per cent, or why too few searches support one."""
    rows = {}
    for rate in learned["rates"]:
        lacks = rate["threshold"] is None
        rows[f"{100 * rate['fpir']:g}"] = {
            "threshold (cosine)": rate.get("why", "") if lacks else f"{rate['threshold']:.4f}",
            "rate found": "" if lacks else format_share(rate["found"], ends=rate["interval"]),
            "images of strangers": f"{rate['searches']:,}",
        }
    return pd.DataFrame(rows).T.rename_axis("rate promised")


def tabulate_ratio(learned: dict) -> pd.Series:
    """Return the log-likelihood ratio's line and what it costs, before and after calibration, as a table's column.

    ``learned`` is what ``thresholds.json`` holds under ``calibration``.
    """
    if learned["slope"] is None:
        return pd.Series({"log-likelihood ratio": learned["why"]})
    whose = "validation people" if learned["people"] == VALIDATION else "the test people themselves"
    counts = f"{learned['pairs']['genuine']:,} genuine, {learned['pairs']['impostor']:,} impostor, of {whose}"
    rows = {"log-likelihood ratio": f"{learned['slope']:.2f} × cosine {learned['intercept']:+.2f}"}
    rows["learned from pairs"] = counts
    costs = {"cllr_raw": "Cllr of the cosine itself", "cllr": "Cllr, calibrated", "cllr_min": "Cllr-min"}
    return pd.Series(rows | {name: f"{learned[key]:.3f}" for key, name in costs.items()})
