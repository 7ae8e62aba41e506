"""Published numbers beside ours: only where data, protocol and gallery are the same, and with one mAP definition.

MBA-Net and CLIP-HandID print a trapezoid mAP, CLIP-FH and we the standard one. With one true match per query, as
protocols ``own`` and ``mba`` have, a match at rank r has the standard precision 1 / r, and the trapezoid one is 1 where
r is 1 and half of it elsewhere, so ``trapezoid = (standard + rank-1) / 2`` exactly, for every query and every mean.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import counted
from clipreid_lib.scores.score_names import name_method

ONE_MATCH = ("own", "mba")  # protocols in which the two definitions can be converted
SAME = ["dataset", "aspect", "protocol"]


def load() -> pd.DataFrame:
    """Read every printed result, in per cent, with its source."""
    text = ["method", "dataset", "aspect", "trained_on", "protocol", "map_definition", "flip", "source", "note"]
    path = Path(__file__).with_name("published_results.csv")
    return pd.read_csv(path, dtype=dict.fromkeys(text, str)).fillna(dict.fromkeys(text, ""))


def set_beside(rows: pd.DataFrame) -> pd.DataFrame | None:
    """Set leaderboard rows beside the published results that they may be compared with.

    Args:
        rows: of the leaderboard; scores are shares.

    Returns:
        In per cent, best rank-1 first: ``method protocol rank-1 mAP``, ``mAP (trapezoid)``, ``converted`` (which of
        the two was computed and not printed), ``trained on`` (where it is not the same data's training part),
        ``flip`` (whether mirrored images' features were added), ``source``, ``note``. None, which a notebook does not
        show, where nothing fits: :func:`explain` says why.
    """
    printed = load()
    found = [_find_comparable(printed, row) for _, row in rows.iterrows()]
    fitting = pd.concat([printed[:0], *found]).drop_duplicates()
    if fitting.empty:
        return None
    theirs = pd.DataFrame([_convert(row) for _, row in fitting.iterrows()])
    ours = rows[[len(each) > 0 for each in found]]
    names = [name_method(*each) for each in ours[["variant", "stage"]].to_numpy()]
    mine = pd.DataFrame(
        {
            "method": "ours: " + ours["model"] + " " + names,
            "protocol": ours["protocol"],
            "rank-1": 100 * ours["rank1"],
            "mAP": 100 * ours["map"],
            "mAP (trapezoid)": 100 * ours["map_trapezoid"],
            "converted": "",
            "trained on": "",
            "flip": "no",
            "source": "here",
            "note": "",
        }
    )
    table = pd.concat([mine, theirs], ignore_index=True).sort_values("rank-1", ascending=False, kind="stable")
    return table.round(2).reset_index(drop=True)


def explain(rows: pd.DataFrame) -> str:
    """Say what stands beside our rows, or why nothing does."""
    printed, lines = load(), []
    for _, row in rows.iterrows():
        where = f"{row['dataset']} {row['aspect']} under {row['protocol']}"
        same = printed[(printed[SAME] == row[SAME]).all(axis=1)]
        fitting = _find_comparable(printed, row)
        if len(fitting):
            lines.append(f"{where}: {counted(len(fitting), 'published result')}.")
        elif len(same):
            counts = same[["queries", "gallery"]].iloc[0]
            lines.append(
                f"{where}: nothing beside it, for the published results have {counts['queries']:.0f} queries and "
                f"{counts['gallery']:.0f} gallery images, here are {row['queries']} and {row['gallery']}."
            )
        else:
            lines.append(f"{where}: no published result known.")
    return "\n".join(lines)


def _find_comparable(printed: pd.DataFrame, row: pd.Series) -> pd.DataFrame:
    same = (printed[SAME] == row[SAME]).all(axis=1)
    for count in ("queries", "gallery"):
        same &= printed[count] == row[count]
    return printed[same]


def _convert(row: pd.Series) -> dict:
    standard, trapezoid, made = row["map"], np.nan, ""
    if row["map_definition"] == "trapezoid":
        standard, trapezoid = np.nan, row["map"]
    if row["protocol"] in ONE_MATCH:
        if np.isnan(standard):
            standard, made = 2 * trapezoid - row["rank1"], "mAP"
        else:
            trapezoid, made = (standard + row["rank1"]) / 2, "mAP (trapezoid)"
    return {
        "method": row["method"],
        "protocol": row["protocol"],
        "rank-1": row["rank1"],
        "mAP": standard,
        "mAP (trapezoid)": trapezoid,
        "converted": made,
        "trained on": row["trained_on"],
        "flip": row["flip"],
        "source": row["source"],
        "note": row["note"],
    }
