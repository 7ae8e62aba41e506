"""Retrieval metrics: CMC, mAP (both definitions) and mINP, by counting instead of sorting.

A match's rank is one more than the number of gallery images that stand before it, so ranks are counted against the
few matches' similarities, and the gallery is never put in order.

**Ties** count against the model: of equally similar images the wrong ones come first. The order of the gallery
therefore never matters, and a constant feature scores the worst a ranking can.

**Queries without a match** in their gallery take no part in any mean; their number is reported. (MBA-Net's protocols
have none; its code would count them as misses.)
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.scores import similarity as similar
from clipreid_lib.scores.score_names import RANKS

MEMORY = 1 << 28  # bytes of similarities at a time: with a million gallery images, 64 queries share one reading of them
ROWS = 256  # queries at a time at most; smaller blocks stay in the processor's cache until they are counted
SORT_ABOVE = 16  # matches per query from which one sort is cheaper than so many counts (measured at 10,000 images)


Exact = Callable[[np.ndarray, np.ndarray], np.ndarray]  # queries and gallery columns to their similarity, in float64


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of one (query, gallery) pair of sets. All shares lie in [0, 1].

    Attributes:
        cmc: (G,) share of queries whose first true match stands at rank <= position + 1.
        at: the same at the ranks asked for, by rank; beyond the gallery's end its last value.
        map: mean average precision, standard definition (mean over true matches of precision at each).
        map_trapezoid: the mAP of MBA-Net (arXiv 2108.02234) and CLIP-HandID (arXiv 2506.12447): precision just before
            and at each match, averaged (just before rank 1 it is 1). With one match per query it is (map + rank-1) / 2,
            so it is the lower of the two.
        minp: mean inverse negative penalty (Ye et al. 2021, arXiv 2001.04193): matches / rank of the last, averaged.
        average_precision: (Q,) per query, standard; NaN where the gallery holds no match, as in the next two.
        average_precision_trapezoid: (Q,) per query, MBA-Net's.
        inverse_penalty: (Q,) per query, matches / rank of the last match.
        first_hit: (Q,) rank of the first true match, from 1; 0 where there is none.
        unmatched: number of queries without a match; they take no part in any mean.
    """

    cmc: np.ndarray
    at: dict[int, float]
    map: float
    map_trapezoid: float
    minp: float
    average_precision: np.ndarray
    average_precision_trapezoid: np.ndarray
    inverse_penalty: np.ndarray
    first_hit: np.ndarray
    unmatched: int

    def rank(self, k: int) -> float:
        """CMC at rank k; beyond the gallery's end its last value."""
        return float(self.cmc[min(k, len(self.cmc)) - 1])


def ranking(similarity: np.ndarray, match: np.ndarray) -> np.ndarray:
    """Order each row's gallery, best first; ties as everywhere here, so pictures and scores agree.

    Args:
        similarity: (Q, G).
        match: (Q, G) whether query and gallery image show one identity.

    Returns:
        (Q, G) gallery positions.
    """
    return np.lexsort((match, -similarity), axis=-1)


def score_retrieval(
    query: similar.Features,
    query_ids: Iterable,
    gallery: similar.Features,
    gallery_ids: Iterable,
    *,
    query_cameras: Iterable | None = None,
    gallery_cameras: Iterable | None = None,
    ranks: Sequence[int] = RANKS,
    memory: int = MEMORY,
) -> RetrievalScores:
    """Score query features against gallery features by cosine similarity.

    The answer is that of ranking by :func:`~clipreid_lib.scores.similarity.cosine_similarity`. The product is made in
    float32, and wherever its rounding could change a rank, those pairs are multiplied again in float64.

    Args:
        query: (Q, D) tensor or array.
        query_ids: (Q,) identities, numbers or text.
        gallery: (G, D) tensor or array; float32 is not copied.
        gallery_ids: (G,) identities; distractors carry identities no query has. A gallery of one identity alone is
            answered with a perfect score, for nothing can be confused.
        query_cameras: (Q,) cameras; with ``gallery_cameras``, a query's own person seen by its own camera is left
            out of its gallery, as Market-1501 asks (Zheng et al. 2015).
        gallery_cameras: (G,) cameras.
        ranks: where to read the CMC off; may lie beyond the gallery's end.
        memory: bytes the block of similarities may take at a time, beyond one row of the gallery's length.

    Returns:
        CMC, mAP and mINP over the queries that have a match, and the values of every query.

    Raises:
        UserError: features as :func:`~clipreid_lib.scores.similarity.checked` and ``same_width``; ids or cameras
            that do not fit; ranks below 1; no query has a match.
    """
    query, gallery = similar.checked(query, "query"), similar.checked(gallery, "gallery")
    similar.same_width(query, gallery)
    counted = _Counting(len(query), len(gallery), query_ids, gallery_ids, query_cameras, gallery_cameras, ranks)
    # Rounding errors of a float32 product grow with the square root of the width (measured: a tenth of this).
    unsure = 5e-7 + 1e-7 * query.shape[1] ** 0.5
    rows = int(np.clip(memory // (4 * len(gallery)), 1, ROWS))

    def exact(asked: np.ndarray, columns: np.ndarray) -> np.ndarray:
        left = query[asked] / similar.lengths(query[asked])[:, None]
        parts = (gallery[columns[start : start + 8192]] for start in range(0, len(columns), 8192))
        return np.hstack([similar.exact_product(left, part / similar.lengths(part)[:, None]) for part in parts])

    for start, block in similar.fast_product(query, gallery, rows):
        counted.add(start, block, unsure, exact)
    return counted.scores()


def score_similarity(
    similarity: np.ndarray, query_ids: Iterable, gallery_ids: Iterable, ranks: Sequence[int] = RANKS
) -> RetrievalScores:
    """Score a (Q, G) similarity matrix as it stands; larger means more alike. See :func:`score_retrieval`.

    A similarity of -inf takes the gallery image out of that query's gallery.

    Args:
        similarity: (Q, G); not changed.
        query_ids: (Q,) identities, numbers or text.
        gallery_ids: (G,) identities.
        ranks: where to read the CMC off.

    Raises:
        UserError: ids that do not fit, ranks below 1, a similarity that is not a number, no query has a match.
    """
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or np.isnan(similarity).any():
        raise UserError("similarity: must be a (query, gallery) table of numbers without NaN")
    counted = _Counting(len(similarity), similarity.shape[1], query_ids, gallery_ids, None, None, ranks)
    for start in range(0, len(similarity), ROWS):
        counted.add(start, similarity[start : start + ROWS].copy())
    return counted.scores()


class _Counting:
    """Ranks of matches, gathered block of queries by block of queries."""

    def __init__(
        self,
        queries: int,
        size: int,
        query_ids: Iterable,
        gallery_ids: Iterable,
        query_cameras: Iterable | None,
        gallery_cameras: Iterable | None,
        ranks: Sequence[int],
    ) -> None:
        if (query_cameras is None) != (gallery_cameras is None):
            raise UserError("cameras: give them for query and gallery both, or for neither")
        if not len(ranks) or min(ranks) < 1:
            raise UserError(f"ranks: {tuple(ranks)}; give at least one, each 1 or more")
        self.ranks, self.size = ranks, size
        asked, shown = _codes(query_ids, gallery_ids, (queries, size), "ids")
        self.cameras = None
        if query_cameras is not None and gallery_cameras is not None:
            self.cameras = _codes(query_cameras, gallery_cameras, (queries, size), "cameras")
        self.order = np.argsort(shown, kind="stable")  # gallery positions, identity by identity
        self.left = np.searchsorted(shown[self.order], asked)
        self.number = np.searchsorted(shown[self.order], asked, side="right") - self.left
        self.relevant, self.first, self.last = (np.zeros(queries, int) for _ in range(3))
        self.precision, self.trapezoid = np.zeros(queries), np.zeros(queries)

    def add(self, start: int, block: np.ndarray, unsure: float = 0.0, exact: Exact | None = None) -> None:
        """Count one block: (rows, G) similarities of the queries from ``start`` on. The block is used up."""
        number = self.number[start : start + len(block)]
        row = np.repeat(np.arange(len(block)), number)  # (P,) all pairs of one identity, query by query
        within = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)
        column = self.order[np.repeat(self.left[start : start + len(block)], number) + within]
        score = block[row, column].copy()
        keep = score > -np.inf
        if self.cameras:
            keep &= self.cameras[0][start + row] != self.cameras[1][column]
        block[row, column] = -np.inf  # what remains is wrong
        row, column, score = row[keep], column[keep], score[keep]
        ends = np.searchsorted(row, np.arange(len(block) + 1))
        wrong, doubtful = np.zeros(len(row), int), []
        for r in np.unique(row):
            mine = slice(ends[r], ends[r + 1])
            reach = score[mine] if not unsure else np.concatenate([score[mine] - unsure, score[mine] + unsure])
            counts = _not_below(block[r], reach)
            wrong[mine] = counts[: len(counts) // 2] if unsure else counts
            if unsure and (counts[: len(counts) // 2] != counts[len(counts) // 2 :]).any():
                doubtful.append(r)
        if doubtful:
            assert exact is not None  # who is unsure says how to look again
            self._look_again(start, block, np.array(doubtful), ends, column, score, wrong, unsure, exact)
        self._rank(start, row, wrong)

    def _look_again(
        self,
        start: int,
        block: np.ndarray,
        doubtful: np.ndarray,
        ends: np.ndarray,
        column: np.ndarray,
        score: np.ndarray,
        wrong: np.ndarray,
        unsure: float,
        exact: Exact,
    ) -> None:
        mine = {r: slice(ends[r], ends[r + 1]) for r in doubtful}
        near = [column[part] for part in mine.values()]
        for r, part in mine.items():
            matches = np.append(np.sort(score[part]), np.inf)
            next_match = matches[np.searchsorted(matches, block[r] - unsure)]  # (G,) the first not far below
            near.append(np.flatnonzero(next_match <= block[r] + unsure))
        columns = np.unique(np.concatenate(near))
        again = exact(start + doubtful, columns)  # (doubtful, columns)
        old = block[doubtful[:, None], columns]
        block[doubtful[:, None], columns] = np.where(old == -np.inf, old, again)
        for line, (r, part) in zip(again, mine.items(), strict=True):
            wrong[part] = _not_below(block[r], line[np.searchsorted(columns, column[part])])

    def _rank(self, start: int, row: np.ndarray, wrong: np.ndarray) -> None:
        wrong = wrong[np.lexsort((wrong, row))]  # row is in order already
        number = np.bincount(row)
        before = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)  # matches before this one
        rank = wrong + before + 1
        just_before = np.divide(before, rank - 1, out=np.ones(len(rank)), where=rank > 1)
        at = (before + 1) / rank
        asked = slice(start, start + len(number))
        self.relevant[asked] = number
        self.precision[asked] = np.bincount(row, at)
        self.trapezoid[asked] = np.bincount(row, (at + just_before) / 2)
        self.last[start + row] = rank  # the last one written is the last match's
        self.first[start + row[::-1]] = rank[::-1]

    def scores(self) -> RetrievalScores:
        matched = self.relevant > 0
        if not matched.any():
            raise UserError("no query identity is in the gallery; nothing can be scored")
        relevant = np.where(matched, self.relevant, np.nan)
        precision, trapezoid = self.precision / relevant, self.trapezoid / relevant
        penalty = relevant / np.maximum(self.last, 1)
        cmc = np.bincount(self.first[matched] - 1, minlength=self.size).cumsum() / matched.sum()
        return RetrievalScores(
            cmc=cmc,
            at={int(k): float(cmc[min(k, self.size) - 1]) for k in self.ranks},
            map=float(precision[matched].mean()),
            map_trapezoid=float(trapezoid[matched].mean()),
            minp=float(penalty[matched].mean()),
            average_precision=precision,
            average_precision_trapezoid=trapezoid,
            inverse_penalty=penalty,
            first_hit=self.first,
            unmatched=int((~matched).sum()),
        )


def _not_below(line: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Count the values of (G,) that reach each threshold; a wrong image as similar as the match stands before it."""
    if len(thresholds) > SORT_ABOVE:
        return len(line) - np.searchsorted(np.sort(line), thresholds)
    return np.array([np.count_nonzero(line >= threshold) for threshold in thresholds])


def _codes(query: Iterable, gallery: Iterable, sizes: tuple[int, int], what: str) -> tuple[np.ndarray, np.ndarray]:
    """Number the values of two lists alike."""
    sides = [_plain(query, f"query {what}"), _plain(gallery, f"gallery {what}")]
    if tuple(map(len, sides)) != sizes:
        found = f"{len(sides[0])} query and {len(sides[1])} gallery {what}"
        raise UserError(f"{found} for {sizes[0]} query and {sizes[1]} gallery images")
    if (sides[0].dtype.kind == "U") != (sides[1].dtype.kind == "U"):
        kinds = ["text" if side.dtype.kind == "U" else "numbers" for side in sides]
        raise UserError(f"query {what} are {kinds[0]}, gallery {what} are {kinds[1]}; they could never match")
    codes = np.unique(np.concatenate(sides), return_inverse=True)[1]
    return codes[: sizes[0]], codes[sizes[0] :]


def _plain(values: Iterable, name: str) -> np.ndarray:
    values = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)
    if values.dtype == object:  # a column of a table
        kinds = {isinstance(value, str) for value in values}
        if len(kinds) > 1:
            raise UserError(f"{name}: holds text and numbers; give one kind")
        values = values.astype(str) if kinds == {True} else values.astype(float)
    if values.ndim != 1 or (values.dtype.kind == "f" and np.isnan(values).any()):
        raise UserError(f"{name}: must be one list of values, none of them missing")
    return values
