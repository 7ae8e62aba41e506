"""k-reciprocal re-ranking against the plain algorithm with loops over images: 1,000 queries, 1,000 gallery images.

Plain: one image after the other, its set grown candidate by candidate, dense weights, as the published code does.
Ours: sparse matrices for all images at once. Then 4,000 + 4,000 images by ours alone. 512 numbers each: `make bench`.
"""

import resource
import time

import numpy as np

from clipreid_lib.scoring.reranking import k_reciprocal

WIDTH, IMAGES_EACH, NOISE = 512, 4, 2.2  # a person's images among queries and among the gallery, on average
SMALL, LARGE, REPEATS = 1_000, 4_000, 3
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
    return k_reciprocal(query, gallery, K1, K2, LAMBDA)


def people(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Query and gallery features, `number` each: a centre per person, and noise."""
    random = np.random.default_rng(0)
    ids = random.integers(0, number // IMAGES_EACH, 2 * number)
    features = NOISE * random.standard_normal((2 * number, WIDTH), dtype=np.float32)
    features += random.standard_normal((number // IMAGES_EACH, WIDTH), dtype=np.float32)[ids]
    return features[:number], features[number:]


def main() -> None:
    """Time both in turn, three times, and compare their answers; then ours on the larger set."""
    sets = people(SMALL)
    best, answers = {plain: np.inf, ours: np.inf}, {}
    for _ in range(REPEATS):
        for way in best:
            began = time.perf_counter()
            answers[way] = way(*sets)
            best[way] = min(best[way], time.perf_counter() - began)
    apart = np.abs(answers[plain] - answers[ours]).max()
    slow, fast = best.values()
    print(f"{SMALL:,} + {SMALL:,} images: loops {slow:.2f} s, sparse {fast:.2f} s: {slow / fast:.1f} times faster")
    print(f"distances at most {apart:.1e} apart")
    assert apart < 1e-5

    sets = people(LARGE)
    began = time.perf_counter()
    ours(*sets)
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{LARGE:,} + {LARGE:,} images: {seconds:.1f} s, {peak:.2f} GiB at most (aim: under 2)")


if __name__ == "__main__":
    main()
