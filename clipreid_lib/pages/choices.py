"""Choices: which queries of a ranking to look at. Those that choose return (n,) positions in the query table."""

import difflib
from typing import Any

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages.ranking import Ranking, name_aspect

GROUPS = ("gender", "age", "skin_color", "accessories", "nail_polish", "irregularities", "session", "camera", "aspect")
MANY = 20  # values; what differs from nearly every image to the next is no group


def choose_named(ranking: Ranking, name: str) -> np.ndarray:
    """Choose the query with this path, or whose file name it is; several where folders repeat a file name.

    Raises:
        UserError: no query is called that; the nearest names are offered.
    """
    paths = ranking.query["path"].astype(str).tolist()
    found = [place for place, path in enumerate(paths) if name in (path, path.rsplit("/", 1)[-1])]
    if not found:
        near = difflib.get_close_matches(name, {*paths, *(path.rsplit("/", 1)[-1] for path in paths)}, n=3, cutoff=0.3)
        offered = f"; nearest: {', '.join(near)}" if near else ""
        raise UserError(f"query: none of {len(paths)} is called {name!r}{offered}")
    return np.array(found)


def choose_random(ranking: Ranking, seed: int = 0) -> np.ndarray:
    """Choose all queries in random order."""
    return np.random.default_rng(seed).permutation(len(ranking.query))


def choose_wrong(ranking: Ranking) -> np.ndarray:
    """Choose the queries whose first image is somebody else's, the worst first."""
    worst = ranking.hardest(len(ranking.query))
    return worst[ranking.first_hit()[worst] > 1]


def choose_changed(before: Ranking, after: Ranking, falling: bool = False) -> np.ndarray:
    """Choose the queries whose average precision rose (or fell) between two embeddings, the largest change first.

    Raises:
        UserError: the two rankings are of other queries.
    """
    if before.query["path"].tolist() != after.query["path"].tolist():
        raise UserError("rankings: they answer other queries; compare two embeddings under one draw")
    gain = after.average_precision() - before.average_precision()
    order = np.argsort(gain if falling else -gain, kind="stable")
    return order[gain[order] < 0 if falling else gain[order] > 0]


def choose_moved(before: Ranking, after: Ranking, n: int) -> np.ndarray:
    """Choose the n queries that rose most, then the n that fell most; the n hardest where nothing moved."""
    both = np.concatenate([choose_changed(before, after, falling)[:n] for falling in (False, True)])
    return both if len(both) else after.hardest(n)


def choose_group(ranking: Ranking, column: str, value: str) -> np.ndarray:
    """Choose the queries of one group of :func:`list_groups`, the worst first."""
    worst = ranking.hardest(len(ranking.query))
    mine = np.array(list_groups(ranking)[column]) == value
    return worst[mine[worst]]


def list_groups(ranking: Ranking) -> dict[str, list[str]]:
    """Return each query's value in words by column of the image table that has at least two, and at most ``MANY``."""
    found = {}
    for column in GROUPS:
        if column in ranking.query:
            words = [_name_value(column, value) for value in ranking.query[column]]
            if 1 < len(set(words)) <= MANY:
                found[column] = words
    return found


def _name_value(column: str, value: Any) -> str:
    """Write an attribute's value in words: ``yes`` and ``no`` for flags, ``not given`` where there is none."""
    if pd.isna(value) or value == "":
        return "not given"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return name_aspect(value) if column == "aspect" else str(value)
