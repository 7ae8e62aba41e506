"""One draw as the metrics saw it: every query's gallery in order, and what each image in it is to the query.

The order, the ties and the average precision are the metrics' own, so a picture or a page drawn from a ranking cannot
tell another story than the table.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.scores import metrics

SIDES = {"left", "right"}


class Result(NamedTuple):
    """One gallery image in one query's row."""

    position: int  # row of the gallery table
    rank: int  # 1-based
    score: float
    right: bool | None  # None where nobody knows
    note: str  # empty, or what kind of distractor this is, one fact per line


@dataclass(frozen=True, eq=False)  # eq=False: tables have no single truth value to compare by
class Ranking:
    """One draw's result.

    Attributes:
        query: (Q rows) columns ``path`` (relative to the data root), ``identity`` (the label compared) and
            ``aspect``; ``subject`` (the person) is used where both tables have it.
        gallery: (G rows) the same columns; ``role`` says ``distractor`` where an image can match no query.
        similarity: (Q, G) cosine similarity in [-1, 1]; -inf takes an image out of that query's gallery.

    Raises:
        UserError: shapes disagree, a similarity is not a number, or a query has no match.
    """

    query: pd.DataFrame
    gallery: pd.DataFrame
    similarity: np.ndarray

    def __post_init__(self) -> None:
        """Score every query, which checks the numbers too."""
        first = self.first_hit()
        if not first.all():
            path = self.query["path"].iloc[int(first.argmin())]
            raise UserError(f"query {path} has no true match in the gallery, so it has no rank")

    def check_queries(self, queries: Iterable[int]) -> list[int]:
        """Return positions in the query table as they are.

        Raises:
            UserError: none is given, or one is not there.
        """
        wanted = [int(q) for q in queries]
        if not wanted:
            raise UserError("queries: none are given; choose some, such as ranking.hardest(3)")
        for q in wanted:
            if not 0 <= q < len(self.query):
                raise UserError(f"query: {q} is not there; positions go from 0 to {len(self.query) - 1}")
        return wanted

    def order(self, q: int) -> np.ndarray:
        """Return gallery positions (G,), best first; on equal scores wrong ones first, then by position."""
        return np.lexsort((self._find_right(q), -self.similarity[q]))

    def first_hit(self) -> np.ndarray:
        """Return the 1-based rank of each query's best-ranked true match, (Q,)."""
        return self._scores.first_hit

    def average_precision(self) -> np.ndarray:
        """Return each query's AP in [0, 1], (Q,): mean over its true matches of precision at their rank."""
        return self._scores.average_precision

    def hardest(self, n: int) -> np.ndarray:
        """Return the n worst query positions, worst first: late first hit, then low AP, then position."""
        return np.lexsort((self.average_precision(), -self.first_hit()))[: max(n, 0)]

    def spread(self, n: int) -> np.ndarray:
        """Return n query positions evenly spaced from the hardest to the easiest, both included."""
        everyone = self.hardest(len(self.query))
        return everyone[np.unique(np.linspace(0, len(everyone) - 1, n).round().astype(int))]

    def row(self, q: int, top: int) -> tuple[list[Result], list[Result]]:
        """Return query q's first ``top`` results, and the true matches that rank beyond them, best first."""
        right = self._find_right(q)
        results = [
            Result(int(g), rank, float(self.similarity[q, g]), bool(right[g]), self._write_note(q, g))
            for rank, g in enumerate(self.order(q), 1)
            if (rank <= top or right[g]) and self.similarity[q, g] > -np.inf
        ]
        return results[:top], results[top:]

    @cached_property
    def _labels(self) -> tuple[np.ndarray, np.ndarray]:
        return self.query["identity"].to_numpy(), self.gallery["identity"].to_numpy()

    @cached_property
    def _scores(self) -> metrics.RetrievalScores:
        return metrics.score_similarity(self.similarity, *self._labels)

    @cached_property
    def _records(self) -> tuple[list[dict], list[dict]]:
        # A page asks for thousands of rows one by one, at which pandas is slow.
        return self.query.to_dict("records"), self.gallery.to_dict("records")

    def _find_right(self, q: int) -> np.ndarray:
        asked, known = self._labels
        return (known == asked[q]) & (self.similarity[q] > -np.inf)  # (G,)

    def _write_note(self, q: int, g: int) -> str:
        query, image = self._records[0][q], self._records[1][g]
        if image.get("role") != "distractor":
            return ""
        mine, other = (name_aspect(row["aspect"]) for row in (query, image))
        if "subject" not in query or query["subject"] != image.get("subject"):
            return "distractor" + (f"\n{other}" if mine != other else "")
        sides = [SIDES & set(aspect.split()) for aspect in (mine, other)]
        kind = "other hand" if all(sides) and sides[0] != sides[1] else "same hand" if any(sides) else "same person"
        return f"{kind}, distractor\n{other}"  # the right person, and still counted as wrong


def name_aspect(aspect: str) -> str:
    """Write an aspect in words: ``dorsal_r`` becomes ``dorsal right``."""
    words = {"r": "right", "l": "left"}
    return " ".join(words.get(word, word) for word in re.split(r"[ _]+", str(aspect)))


def has_name(row: pd.Series) -> bool:
    """Whether a row of an image table has a name for its person beside the number."""
    name = row.get("name")
    return isinstance(name, str) and name not in ("", str(row["identity"]))


def name_person(row: pd.Series) -> str:
    """Write whose image a row is: the label compared, and the person's name where the data set has one."""
    return f"identity {row['identity']}" + (f" ({row['name']})" if has_name(row) else "")
