"""Published numbers beside ours: only where data, protocol and gallery are the same, and with one mAP definition.

MBA-Net and CLIP-HandID print a trapezoid mAP, CLIP-FH and we the standard one. With one true match per query, as
protocols ``own`` and ``mba`` have, a match at rank r has the standard precision 1 / r, and the trapezoid one is 1 where
r is 1 and half of it elsewhere, so ``trapezoid = (standard + rank-1) / 2`` exactly, for every query and every mean.

``params/published/README.md`` lists what our defaults do otherwise than the papers behind these numbers.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import counted
from clipreid_lib.scores.score_names import IN_DRAWS, SHOWN, name_method

ONE_MATCH = ("own", "mba")  # protocols in which the two definitions can be converted
SAME, COUNTS = ["dataset", "aspect", "protocol"], ["queries", "gallery"]


def load() -> pd.DataFrame:
    """Read every printed result, in per cent, with its source."""
    text = ["method", "dataset", "aspect", "trained_on", "protocol", "map_definition", "flip", "source", "note"]
    path = Path(__file__).with_name("published_results.csv")
    return pd.read_csv(path, dtype=dict.fromkeys(text, str)).fillna(dict.fromkeys(text, ""))


def set_beside(rows: pd.DataFrame) -> pd.DataFrame | None:
    """Set leaderboard rows beside the published results that they may be compared with.

    Args:
        rows: of the leaderboard; scores are shares. Ours are the means over draws, as the papers print them.

    Returns:
        In per cent, best rank-1 first: ``method protocol rank-1 mAP``, ``mAP (trapezoid)``, ``converted`` (which of
        the two was computed and not printed), ``trained on`` (where it is not the same data's training part),
        ``flip`` (whether mirrored images' features were added), ``source``, ``note``. None, which a notebook does not
        show, where nothing fits: :func:`explain` says why.
    """
    ours = rows.astype(dict.fromkeys(SAME, str) | dict.fromkeys(COUNTS, float)).dropna(subset=COUNTS)
    printed = load().merge(ours[[*SAME, *COUNTS]].drop_duplicates(), on=[*SAME, *COUNTS])
    if printed.empty:
        return None
    ours = ours.merge(printed[[*SAME, *COUNTS]].drop_duplicates(), on=[*SAME, *COUNTS])
    names = [name_method(*each) for each in ours[["variant", "stage"]].to_numpy()]
    mine = pd.DataFrame(
        {
            "method": "ours: " + ours["model"] + " " + names,
            "protocol": ours["protocol"],
            **{SHOWN[score]: 100 * ours[f"{score}{IN_DRAWS}"] for score in ("rank1", "map", "map_trapezoid")},
            **{"converted": "", "trained_on": "", "flip": "no", "source": "here", "note": ""},
        }
    )
    is_trapezoid, one_match = printed["map_definition"] == "trapezoid", printed["protocol"].isin(ONE_MATCH)
    standard = (2 * printed["map"] - printed["rank1"]).where(one_match)
    trapezoid = ((printed["map"] + printed["rank1"]) / 2).where(one_match)
    theirs = printed.rename(columns={"rank1": "rank-1"}).assign(
        **{"mAP": printed["map"].where(~is_trapezoid, standard)},
        **{"mAP (trapezoid)": printed["map"].where(is_trapezoid, trapezoid)},
        converted=np.where(one_match, np.where(is_trapezoid, "mAP", "mAP (trapezoid)"), ""),
    )
    table = pd.concat([mine, theirs[list(mine)]], ignore_index=True)
    table = table.sort_values("rank-1", ascending=False, kind="stable", ignore_index=True)
    return table.rename(columns={"trained_on": "trained on"}).round(2)


def explain(rows: pd.DataFrame) -> str:
    """Say what stands beside our rows, or why nothing does, a line for each."""
    printed, lines = load(), []
    for _, row in rows.iterrows():
        where = f"{row['dataset']} {row['aspect']} under {row['protocol']}"
        same = printed[(printed[SAME] == row[SAME]).all(axis=1)]
        fitting = int((same[COUNTS] == row[COUNTS].astype(float)).all(axis=1).sum())
        if fitting:
            lines.append(f"{where}: {counted(fitting, 'published result')}.")
        elif len(same):
            theirs = same[COUNTS].iloc[0]
            lines.append(
                f"{where}: nothing beside it, for the published results have {theirs['queries']:.0f} queries and "
                f"{theirs['gallery']:.0f} gallery images, here are {row['queries']} and {row['gallery']}."
            )
        else:
            lines.append(f"{where}: no published result known.")
    return "\n".join(lines)
