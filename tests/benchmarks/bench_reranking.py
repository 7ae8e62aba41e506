"""k-reciprocal re-ranking against the plain algorithm with loops over images: 1,000 queries, 1,000 gallery images.

Plain: one image after the other, its set grown candidate by candidate, dense weights, as the published code does.
Ours: sparse matrices for all images at once. Then 4,000 + 4,000 images by ours alone, for the memory they take.
"""

import numpy as np
from rows import Row, in_turn, peak, seconds

from clipreid_lib.scores.reranking import rerank

# Times as fast: not much, since the plain way is quick while its four dense matrices fit; they are what sparse ones
# save. And what the larger set may take in all.
AIM, AIM_GIB = 5, 2
WIDTH, IMAGES_EACH, NOISE = 512, 4, 2.2  # a person's images among queries and among the gallery, on average
SMALL, LARGE, ROUNDS = 1_000, 4_000, 3
K1, K2, LAMBDA = 20, 6, 0.3


def reciprocal(rank: np.ndarray, image: int, number: int) -> np.ndarray:
    """Return those of an image's first neighbours that have it among theirs."""
    forward = rank[image, : number + 1]
    return forward[(rank[forward, : number + 1] == image).any(axis=1)]


def plain(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Re-rank as re-ID code usually does: everything dense, every image in turn."""
    images = np.vstack([query, gallery]).astype(np.float64)
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    distance = 2 - 2 * images @ images.T
    distance /= distance.max(axis=1, keepdims=True)
    rank, weights = distance.argsort(axis=1), np.zeros_like(distance)
    for image in range(len(images)):
        first = members = reciprocal(rank, image, K1)
        for candidate in first:
            theirs = reciprocal(rank, candidate, int(np.around(K1 / 2)))
            if len(np.intersect1d(theirs, first)) > 2 / 3 * len(theirs):
                members = np.append(members, theirs)
        members = np.unique(members)
        near = np.exp(-distance[image, members])
        weights[image, members] = near / near.sum()
    weights = np.stack([weights[rank[image, :K2]].mean(axis=0) for image in range(len(images))])
    having = [np.flatnonzero(column) for column in weights.T]  # the images with a weight in each column
    result = np.empty((len(query), len(gallery)))
    for image in range(len(query)):
        shared = np.zeros(len(images))
        for column in np.flatnonzero(weights[image]):
            others = having[column]
            shared[others] += np.minimum(weights[image, column], weights[others, column])
        jaccard = 1 - shared / (2 - shared)
        result[image] = ((1 - LAMBDA) * jaccard + LAMBDA * distance[image])[len(query) :]
    return result


def ours(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Re-rank by the library."""
    return rerank(query, gallery, K1, K2, LAMBDA)


def people(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Query and gallery features, `number` each: a centre per person, and noise."""
    random = np.random.default_rng(0)
    ids = random.integers(0, number // IMAGES_EACH, 2 * number)
    features = NOISE * random.standard_normal((2 * number, WIDTH), dtype=np.float32)
    features += random.standard_normal((number // IMAGES_EACH, WIDTH), dtype=np.float32)[ids]
    return features[:number], features[number:]


def large() -> Row:
    """Re-rank the larger set: one dense matrix of it, of which the plain way holds four, and the process's peak."""
    sets = people(LARGE)
    took, _ = seconds(lambda: ours(*sets))
    dense = (2 * LARGE) ** 2 * 8 / 2**30
    note = f"took {took:.1f} s; the plain way holds four such matrices"
    return peak(f"re-ranking {LARGE:,} + {LARGE:,}", "one dense matrix of distances", dense, AIM_GIB, note)


def rows() -> list[Row]:
    """The larger set first, since it is the process's peak that tells its memory; then both ways in turn."""
    memory, sets = large(), people(SMALL)
    pairs, answers = in_turn(lambda _: plain(*sets), lambda _: ours(*sets), ROUNDS)
    apart = np.abs(answers[0] - answers[1]).max()
    assert apart < 1e-5
    note = f"distances at most {apart:.1e} apart"
    return [Row(f"re-ranking {SMALL:,} + {SMALL:,}", "loops over images", "sparse", pairs, AIM, note=note), memory]
