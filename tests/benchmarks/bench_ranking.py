"""Ranking by counting against a sort of every row: 10,000 queries, 10,000 gallery images, 512 numbers each.

Then 1,000 queries against a million gallery images, for the memory they take.
"""

import numpy as np
import torch
from rows import Row, in_turn, peak, seconds

from clipreid_lib.scores.metrics import score_retrieval

AIM, AIM_GIB = 5, 4  # times as fast; all in all, with a million gallery images
QUERIES, GALLERY, WIDTH, PEOPLE = 10_000, 10_000, 512, 2_500
MILLION, ROUNDS = 1_000_000, 3
REASON = (
    "three fifths of ours is the matrix product, which both sides need; the baseline is mostly NumPy's sort; how "
    "fast the two are beside each other differs between processors"
)


def sorted_rows(query, query_ids, gallery, gallery_ids) -> tuple[float, float]:
    """Do what re-ID code usually does: normalise, multiply, argsort every row, then a loop over queries."""
    normalise = torch.nn.functional.normalize
    similarity = (normalise(query, dim=1) @ normalise(gallery, dim=1).T).numpy()
    order = np.argsort(-similarity, axis=1)
    hits = gallery_ids[order] == query_ids[:, None]
    first, precision = [], []
    for row in hits:
        places = np.flatnonzero(row)
        if len(places):
            first.append(places[0] == 0)
            precision.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
    return float(np.mean(first)), float(np.mean(precision))


def people(number: int, seed: int, there: int = PEOPLE) -> tuple[torch.Tensor, np.ndarray]:
    """Features of people: a centre each, and noise that puts rank-1 between 0 and 1."""
    centres = torch.randn(there, WIDTH, generator=torch.Generator().manual_seed(0))
    ids = np.random.default_rng(seed).integers(0, there, number)
    noise = torch.randn(number, WIDTH, generator=torch.Generator().manual_seed(seed))
    noise.mul_(2.2)
    for start in range(0, number, 65_536):  # a million centres at once would be what the memory's peak measures
        noise[start : start + 65_536] += centres[torch.from_numpy(ids[start : start + 65_536])]
    return noise, ids


def million() -> Row:
    """Rank a million: the features' own size, and the most that the process ever held."""
    sets = (*people(1_000, 3, MILLION // 4), *people(MILLION, 4, MILLION // 4))
    took, scores = seconds(lambda: score_retrieval(*sets))
    features = sum(each.nbytes for each in (sets[0], sets[2])) / 2**30
    note = f"took {took:.1f} s; rank-1 {scores.rank(1):.3f}"
    return peak("ranking 1,000 x 1,000,000", "the features alone", features, AIM_GIB, note)


def rows() -> list[Row]:
    """The million first, since it is the process's peak that tells its memory; then both ways in turn."""
    large = million()
    sets = (*people(QUERIES, 1), *people(GALLERY, 2))
    pairs, (plain, ours) = in_turn(lambda _: sorted_rows(*sets), lambda _: score_retrieval(*sets), ROUNDS)
    assert abs(plain[0] - ours.rank(1)) < 1e-4 and abs(plain[1] - ours.map) < 1e-5  # near ties may fall otherwise
    equal = f"rank-1 {plain[0]:.6f} and {ours.rank(1):.6f}, mAP {plain[1]:.6f} and {ours.map:.6f}"
    return [
        Row("ranking 10,000 x 10,000", "argsort, then a loop", "counting", pairs, AIM, note=equal, reason=REASON),
        large,
    ]
