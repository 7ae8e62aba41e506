"""Choices: which queries of a ranking to look at. Those that choose return (n,) positions in the query table."""

import difflib
from typing import Any

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages.ranking import Ranking, spoken

GROUPS = ("gender", "age", "skin_color", "accessories", "nail_polish", "irregularities", "session", "camera", "aspect")
MANY = 20  # values; what differs from nearly every image to the next is no group


def named(ranking: Ranking, name: str) -> np.ndarray:
    """Return the query with this path, or whose file name it is; several where folders repeat a file name.

    Args:
        ranking: one draw under an embedding.
        name: a path as in the query table, or its last part.

    Returns:
        (n,) positions, in the table's order.

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


def at_random(ranking: Ranking, n: int, seed: int = 0) -> np.ndarray:
    """Return n queries drawn without replacement; all of them where there are fewer.

    Args:
        ranking: one draw under an embedding.
        n: queries to draw.
        seed: of the draw.

    Returns:
        (n,) positions, or (Q,).
    """
    return np.random.default_rng(seed).permutation(len(ranking.query))[:n]


def wrong(ranking: Ranking, n: int) -> np.ndarray:
    """Return up to n queries whose first image is somebody else's, the worst first; empty where all are right.

    Args:
        ranking: one draw under an embedding.
        n: queries to return, at most.

    Returns:
        At most (n,) positions.
    """
    worst = ranking.hardest(len(ranking.query))
    return worst[ranking.first_hit()[worst] > 1][:n]


def largest_change(before: Ranking, after: Ranking, n: int, falling: bool = False) -> np.ndarray:
    """Return the n queries whose average precision rose (or fell) most between two embeddings.

    Args:
        before: a ranking under one embedding.
        after: of the same queries under another.
        n: queries to return, at most.
        falling: whether to return those that fell.

    Returns:
        At most (n,) positions, the largest change first; none that stayed.

    Raises:
        UserError: the two rankings are of other queries.
    """
    if before.query["path"].tolist() != after.query["path"].tolist():
        raise UserError("rankings: they answer other queries; compare two embeddings under one draw")
    gain = after.average_precision() - before.average_precision()
    order = np.argsort(gain if falling else -gain, kind="stable")
    moved = gain[order] < 0 if falling else gain[order] > 0
    return order[moved][:n]


def moved(before: Ranking, after: Ranking, n: int) -> np.ndarray:
    """Return the n queries that rose most, then the n that fell most; the n hardest where nothing moved.

    Args:
        before: a ranking under one embedding.
        after: of the same queries under another.
        n: queries of each kind, at most.

    Returns:
        At most (2 n,) positions.

    Raises:
        UserError: as :func:`largest_change`.
    """
    both = np.concatenate([largest_change(before, after, n, falling) for falling in (False, True)])
    return both if len(both) else after.hardest(n)


def of_group(ranking: Ranking, column: str, value: object) -> np.ndarray:
    """Return the queries of one group, the worst first.

    Args:
        ranking: one draw under an embedding.
        column: of the query table.
        value: in it, or in words as :func:`word` writes it.

    Returns:
        (n,) positions, of everybody in the group.

    Raises:
        UserError: the table has no such column, or the column no such value (those there are get named).
    """
    if column not in ranking.query:
        raise UserError(f"group: the queries have no column {column!r}; they have {', '.join(ranking.query)}")
    values = np.array([word(column, each) for each in ranking.query[column]])
    mine = values == word(column, value)
    if not mine.any():
        raise UserError(f"group: no query has {column} {value!r}; there are {', '.join(sorted(set(values)))}")
    worst = ranking.hardest(len(ranking.query))
    return worst[mine[worst]]


def groups(ranking: Ranking) -> dict[str, list[str]]:
    """Return what the queries can be grouped by: columns that say something about the person or the photograph.

    Returns:
        Column to each query's value in words; columns whose values are all the same, or more than ``MANY``, are left
        out.
    """
    found = {}
    for column in GROUPS:
        if column in ranking.query:
            words = [word(column, value) for value in ranking.query[column]]
            if 1 < len(set(words)) <= MANY:
                found[column] = words
    return found


def word(column: str, value: Any) -> str:
    """Write an attribute's value in words: ``yes`` and ``no`` for flags, ``not given`` where there is none."""
    if pd.isna(value) or value == "":
        return "not given"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    return spoken(value) if column == "aspect" else str(value)
