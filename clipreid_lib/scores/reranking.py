"""Re-ranking: k-reciprocal encoding and alpha query expansion, which let images vouch for one another."""

import numpy as np
from scipy import sparse

from clipreid_lib.scores.similarity import Features, check_features, cosine_similarity, scale_to_unit

ROWS = 512  # images at a time whose distances to all others stand in memory
PAIRS = 1024  # pairs at a time whose features are gathered: they fit the processor's cache, which halves the time


def rerank(query: Features, gallery: Features, k1: int = 20, k2: int = 6, lambda_value: float = 0.3) -> np.ndarray:
    """Distance by k-reciprocal encoding (Zhong et al. 2017, arXiv 1701.08398), as its authors' code computes it.

    Two images are near where they share neighbours that count them as neighbours, too. Neighbours are sought among
    queries and gallery together, so the other queries help: the score is that of asking all questions at once, not
    what a single search in the field gets.

    Details of the authors' code that the paper leaves open: distances are squared Euclidean between normalised
    features, divided by each image's largest; an image is its own first neighbour; half of k1 is rounded to even.

    Args:
        query: (Q, D) tensor or array. A zero vector is at distance 2 from everything.
        gallery: (G, D) tensor or array.
        k1: neighbours that may be reciprocal, 1 or more; more than there are images means all of them.
        k2: neighbours whose encodings are averaged (local query expansion); 1 averages nothing.
        lambda_value: weight of the original distance, in [0, 1].

    Returns:
        (Q, G) float32 distance; smaller is more alike.

    Raises:
        UserError: as :func:`~clipreid_lib.scores.similarity.check_features`.
    """
    query, gallery = map(scale_to_unit, check_features(query, gallery))
    asked, images = len(query), np.vstack([query, gallery])  # (N, D), N = Q + G
    near, largest, direct = _find_neighbours(images, max(k1 + 1, k2), asked)
    encoded = _encode(images, near, largest, k1)
    if k2 > 1:
        encoded = _mark(near[:, :k2], weight=1 / min(k2, len(images))) @ encoded
    distance = _measure_jaccard(encoded[:asked], encoded[asked:].tocsc()) * (1 - lambda_value)
    distance += lambda_value * direct
    return distance


def expand_queries(query: Features, gallery: Features, top: int = 5, alpha: float = 3.0) -> np.ndarray:
    """Alpha query expansion: each query plus the gallery features nearest to it (Radenović et al., arXiv 1711.02512).

    A neighbour weighs its cosine to the power of alpha, nothing where that is negative. Neighbours as similar as the
    last one are all taken, so the order of the gallery never matters.

    Args:
        query: (Q, D) tensor or array.
        gallery: (G, D) tensor or array.
        top: neighbours to add, 1 or more. Few, since a gallery of one image per person has a single right one.
        alpha: the larger, the less distant neighbours count; 3 is the authors'.

    Returns:
        (Q, D) float32, normalised.

    Raises:
        UserError: as :func:`~clipreid_lib.scores.similarity.check_features`.
    """
    query, gallery = map(scale_to_unit, check_features(query, gallery))
    cosine = cosine_similarity(query, gallery).astype(np.float64)  # (Q, G)
    top = min(top, len(gallery))
    last = np.partition(cosine, len(gallery) - top, axis=1)[:, len(gallery) - top, None]
    weights = np.where((cosine >= last) & (cosine > 0), cosine.clip(0) ** alpha, 0)
    return scale_to_unit(query + weights @ gallery).astype(np.float32)


def _find_neighbours(images: np.ndarray, number: int, asked: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find (N, number) nearest images, itself first among equals by position, (N,) largest and (Q, G) distances."""
    number = min(number, len(images))
    near, largest = np.empty((len(images), number), np.int64), np.empty(len(images))
    direct = np.empty((asked, len(images) - asked), np.float32)
    for start in range(0, len(images), ROWS):
        part = slice(start, start + ROWS)
        # Squared Euclidean; rounded, since a product's last digits differ between equal images.
        distance = (2 - 2 * (images[part] @ images.T)).round(12)
        largest[part] = distance.max(axis=1)
        first = np.argpartition(distance, number - 1, axis=1)[:, :number]
        values = np.take_along_axis(distance, first, axis=1)
        near[part] = np.take_along_axis(first, np.lexsort((first, values)), axis=1)
        # Where the last one's equals are more than fit, the partition took any of them, not the first by position.
        tied = np.flatnonzero((distance <= values.max(axis=1, keepdims=True)).sum(axis=1) > number)
        near[start + tied] = distance[tied].argsort(axis=1, kind="stable")[:, :number]
        inside = max(0, min(asked - start, ROWS))
        direct[start : start + inside] = distance[:inside, asked:]
    largest = np.where(largest > 0, largest, 1)  # all images equal: every distance is 0
    return near, largest, direct / largest[:asked, None].astype(np.float32)


def _mark(near: np.ndarray, weight: float = 1.0) -> sparse.csr_array:
    """(N, N) matrix with a weight where a row's image has a column's image among its neighbours (N, k)."""
    count, number = near.shape
    ends = np.arange(0, count * number + 1, number)
    return sparse.csr_array((np.full(near.size, weight), near.ravel(), ends), shape=(count, count))


def _encode(images: np.ndarray, near: np.ndarray, largest: np.ndarray, k1: int) -> sparse.csr_array:
    """(N, N) weights of each image's k-reciprocal neighbours, expanded by theirs, rows summing to one."""

    def reciprocal(number: int) -> sparse.csr_array:
        forward = _mark(near[:, :number])
        return forward.multiply(forward.T).tocsr()

    whole, half = reciprocal(k1 + 1), reciprocal(int(np.around(k1 / 2)) + 1)
    # A candidate's own neighbours join where more than two thirds of them are neighbours already.
    shared = (whole @ half.T).multiply(whole).tocoo()  # entry (i, c): how many of c's neighbours are i's
    sizes = np.diff(half.indptr)
    joins = shared.data > 2 / 3 * sizes[shared.col]
    chosen = sparse.csr_array((np.ones(joins.sum()), (shared.row[joins], shared.col[joins])), shape=whole.shape)
    members = (whole + chosen @ half).tocoo()
    pairs = np.empty(len(members.data))
    for start in range(0, len(pairs), PAIRS):
        part = slice(start, start + PAIRS)
        pairs[part] = 2 - 2 * np.einsum("pd,pd->p", images[members.row[part]], images[members.col[part]])
    weights = np.exp(-pairs / largest[members.row])
    weights /= np.bincount(members.row, weights, minlength=len(images))[members.row]
    return sparse.csr_array((weights, (members.row, members.col)), shape=whole.shape)


def _measure_jaccard(asked: sparse.csr_array, shown: sparse.csc_array) -> np.ndarray:
    """(Q, G) Jaccard distance of weighted sets: 1 - m / (2 - m), where m is the sum of the smaller weights."""
    distance = np.empty((asked.shape[0], shown.shape[0]), np.float32)
    lengths = np.diff(shown.indptr)
    for q in range(len(distance)):
        mine = slice(asked.indptr[q], asked.indptr[q + 1])
        columns, number = asked.indices[mine], lengths[asked.indices[mine]]
        place = np.repeat(shown.indptr[columns] - np.cumsum(number) + number, number) + np.arange(number.sum())
        smaller = np.minimum(np.repeat(asked.data[mine], number), shown.data[place])
        shared = np.bincount(shown.indices[place], smaller, minlength=distance.shape[1])
        distance[q] = 1 - shared / (2 - shared)
    return distance
