"""Retrieval metrics: CMC, mAP (both definitions) and mINP, by counting.

A match's rank is one more than the number of gallery images that stand before it. The similarities of the matches come
first. Then each block of similarities is sorted, as bare numbers, and tells how many of them reach each match. Counts
of blocks add up, so no block holds a whole row, and no list of positions is ever sorted.

**Ties** count against the model: of equally similar images the wrong ones come first. The order of the gallery
therefore never matters, and a constant feature scores the worst a ranking can. Equal features are always tied, as
:mod:`~clipreid_lib.scores.similarity` proves.

**Queries without a match** in their gallery take no part in any mean; their number is reported. (MBA-Net's protocols
have none; its code would count them as misses.)
"""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Lock

import numpy as np
import pandas as pd
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.scores import similarity as similar
from clipreid_lib.scores.score_names import RANKS

ROWS, COLUMNS = 512, 2048  # of a block: large enough for a product at full speed, small enough for the cache (measured)
FEW = 64  # queries at a time where each takes much room: all their matches' features, or whole rows of a given matrix
Sides = tuple[Iterable, Iterable]  # what (Q,) queries have and what (G,) gallery images have
NUMBERS = {"integer", "floating", "mixed-integer-float", "boolean"}  # kinds of labels, as pandas names them


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of one (query, gallery) pair of sets. All shares lie in [0, 1].

    Attributes:
        cmc: (G,) share of queries whose first true match stands at rank <= position + 1.
        at: the same at ranks 1, 5 and 10, by rank; beyond the gallery's end its last value.
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


def score_retrieval(
    query: similar.Features,
    query_labels: Iterable,
    gallery: similar.Features,
    gallery_labels: Iterable,
    cameras: Sides | None = None,
) -> RetrievalScores:
    """Score query features against gallery features by cosine similarity.

    The answer is that of ranking by :func:`~clipreid_lib.scores.similarity.cosine_similarity`, for both count the
    same numbers. The queries are held in float64, the gallery is read block by block.

    Args:
        query: (Q, D) tensor or array.
        query_labels: (Q,) labels compared, numbers or text.
        gallery: (G, D) tensor or array; float32 and float64 are not copied as a whole.
        gallery_labels: (G,) labels; distractors carry labels no query has. A gallery of one label alone is
            answered with a perfect score, for nothing can be confused.
        cameras: (Q,) of the queries and (G,) of the gallery; then a query's own person seen by its own camera is left
            out of its gallery, as Market-1501 asks (Zheng et al. 2015).

    Returns:
        CMC, mAP and mINP over the queries that have a match, and the values of every query.

    Raises:
        UserError: features as :func:`~clipreid_lib.scores.similarity.check_features`; labels or cameras that do not
            fit; no query has a match.
    """
    query, gallery = similar.check_features(query, gallery)
    sizes, threads = (len(query), len(gallery)), torch.get_num_threads()
    blocks = _pair(sizes, (query_labels, gallery_labels), cameras, ROWS)

    def begin(block: _Block) -> torch.Tensor:
        mine, pairs = similar.scale_to_whole(query[block.queries]), np.empty(block.columns.shape, np.float32)
        for start in range(0, len(mine), FEW):
            part = slice(start, start + FEW)
            shown, place = np.unique(block.columns[part], return_inverse=True)
            alike = similar.multiply_exactly(mine[part], similar.scale_to_whole(gallery[shown]))
            pairs[part] = np.take_along_axis(alike, place.reshape(pairs[part].shape), axis=1)
        block.begin(pairs)
        return mine  # (R, D)

    asked = _in_threads(begin, blocks)

    def count(part: np.ndarray) -> None:
        shown = similar.scale_to_whole(part)  # (C, D)
        for block, mine in zip(blocks, asked, strict=True):
            block.count(similar.multiply_exactly(mine, shown))

    each = -(-len(gallery) // (COLUMNS * threads))  # parts of the gallery for every thread
    _in_threads(count, np.array_split(gallery, each * threads))
    return _score(blocks, sizes)


def score_similarity(
    similarity: np.ndarray,
    query_labels: Iterable,
    gallery_labels: Iterable,
    cameras: Sides | None = None,
) -> RetrievalScores:
    """Score a (Q, G) similarity matrix as it stands; larger means more alike. See :func:`score_retrieval`.

    A similarity of -inf takes the gallery image out of that query's gallery.

    Raises:
        UserError: a similarity that is not a number; labels and cameras as in :func:`score_retrieval`.
    """
    similarity = np.asarray(similarity)
    if similarity.ndim != 2 or np.isnan(similarity).any():
        raise UserError("similarity: must be a (query, gallery) table of numbers without NaN")
    similarity = similarity if similarity.dtype in (np.float32, np.float64) else similarity.astype(np.float64)
    blocks = _pair(similarity.shape, (query_labels, gallery_labels), cameras, FEW)

    def count(block: _Block) -> None:
        block.begin(similarity[block.queries[:, None], block.columns])
        block.count(similarity[block.queries])

    _in_threads(count, blocks)
    return _score(blocks, similarity.shape)


def _in_threads(task: Callable, items: Iterable) -> list:
    """Do a task for every item, on as many threads as torch has: each works alone, so that none waits for another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(task, items))
    finally:
        torch.set_num_threads(threads)


@dataclass
class _Block:
    """Some queries and their pairs: the gallery images of a query's label, M at most.

    Attributes:
        queries: (R,) positions.
        columns: (R, M) gallery positions of the pairs.
        paired: (R, M) False where a query has fewer pairs than M, so that what stands there is none.
        matches: (R, M) the pairs that the protocol counts.
    """

    queries: np.ndarray
    columns: np.ndarray
    paired: np.ndarray
    matches: np.ndarray
    lock: Lock = field(default_factory=Lock)

    def begin(self, similarity: np.ndarray) -> None:
        """Take the (R, M) similarities of the pairs: whatever reaches a match's stands before it."""
        self.matches &= similarity > -np.inf
        self.reach = torch.from_numpy(np.where(self.paired, similarity, np.inf))
        self.before = np.zeros(similarity.shape, int)  # (R, M) wrong images before each match
        self.count(np.where(self.paired, similarity, -np.inf), sign=-1)  # the pairs themselves are not wrong

    def count(self, similarity: np.ndarray, sign: int = 1) -> None:
        """Count the images of (R, C) similarities before each match, a row's matches at once. The rows get sorted."""
        similarity.sort(axis=1)
        below = torch.searchsorted(torch.from_numpy(similarity), self.reach).numpy()
        with self.lock:
            self.before += sign * (similarity.shape[1] - below)


def _pair(sizes: tuple[int, ...], labels: Sides, cameras: Sides | None, rows: int) -> list[_Block]:
    """Pair queries with gallery images, ``rows`` queries of neighbouring labels at a time, without unmatched ones."""
    asked, shown = _number(labels, sizes, "labels")
    seen = None if cameras is None else _number(cameras, sizes, "cameras")
    order = np.argsort(shown, kind="stable")  # gallery positions, label by label
    left, right = (np.searchsorted(shown[order], asked, side) for side in ("left", "right"))
    queries = np.argsort(asked, kind="stable")
    queries = queries[left[queries] < right[queries]]
    blocks = []
    for mine in (queries[start : start + rows] for start in range(0, len(queries), rows)):
        number = (right - left)[mine, None]  # (R, 1)
        within = np.arange(number.max())
        columns, paired = order[left[mine, None] + np.minimum(within, number - 1)], within < number  # (R, M)
        other = paired if seen is None else seen[0][mine, None] != seen[1][columns]
        blocks.append(_Block(mine, columns, paired, paired & other))
    return blocks


def _score(blocks: list[_Block], sizes: tuple[int, ...]) -> RetrievalScores:
    """Read the scores off the wrong images before every match."""
    first = np.zeros(sizes[0], int)
    precision, trapezoid, penalty = (np.full(sizes[0], np.nan) for _ in range(3))
    for block in blocks:
        has = block.matches.any(axis=1)
        matches, mine = block.matches[has], block.queries[has]
        number, hits = matches.sum(axis=1), np.arange(matches.shape[1])  # hits: matches before each match
        there = hits < number[:, None]
        wrong = np.sort(np.where(matches, block.before[has], sizes[1]), axis=1)  # best match first, no match last
        at_match = (hits + 1) / (wrong + hits + 1)
        just_before = np.divide(hits, wrong + hits, out=np.ones(at_match.shape), where=wrong + hits > 0)
        for values, shares in ((precision, at_match), (trapezoid, (at_match + just_before) / 2)):
            values[mine] = np.where(there, shares, 0).cumsum(axis=1)[:, -1] / number
        penalty[mine] = at_match[np.arange(len(mine)), number - 1]
        first[mine] = wrong[:, 0] + 1
    matched = first > 0
    if not matched.any():
        raise UserError("no query label is in the gallery; nothing can be scored")
    cmc = np.bincount(first[matched] - 1, minlength=sizes[1]).cumsum() / matched.sum()
    return RetrievalScores(
        cmc=cmc,
        at={k: float(cmc[min(k, sizes[1]) - 1]) for k in RANKS},
        map=float(precision[matched].mean()),
        map_trapezoid=float(trapezoid[matched].mean()),
        minp=float(penalty[matched].mean()),
        average_precision=precision,
        average_precision_trapezoid=trapezoid,
        inverse_penalty=penalty,
        first_hit=first,
        unmatched=int((~matched).sum()),
    )


def _number(values: Sides, sizes: tuple[int, ...], what: str) -> list[np.ndarray]:
    """Number the values of query and gallery alike."""
    sides = [np.asarray(each) for each in values]
    if [side.shape for side in sides] != [(size,) for size in sizes]:
        found = f"{sides[0].shape} and {sides[1].shape}"
        raise UserError(f"{what}: have the shapes {found}, for {sizes[0]} query and {sizes[1]} gallery images")
    kinds = {pd.api.types.infer_dtype(side, skipna=False) for side in sides}
    if not (kinds == {"string"} or kinds <= NUMBERS) or any(pd.isna(side).any() for side in sides):
        raise UserError(f"{what}: must be all numbers or all text, in query and gallery alike, and none missing")
    return np.split(pd.factorize(np.concatenate(sides))[0], [sizes[0]])
