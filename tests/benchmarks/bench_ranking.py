"""Ranking by counting against a sort of every row, and against the matrix product that both sides need.

Hard and easy features with few and with many matches per query, the shape of Market-1501, and a million gallery images
for the memory they take.
"""

import gc
from dataclasses import dataclass

import numpy as np
import torch
from rows import Row, in_turn, peak, seconds

from clipreid_lib.scores.metrics import score_retrieval

AIM_FASTER, AIM_TIMES, AIM_GIB = (
    3,
    2.5,
    4,
)  # than argsort; of the product's time; all in all, with a million gallery images
ROUNDS = 3
SLOWER = (
    "ours multiplies in float64, so that ties are exact, which takes 1.7 to 2 times as long; the wider the features, "
    "the more of both sides is the product, and on a busy machine the product loses more than argsort's one thread"
)
DOUBLE = (
    "of ours, in products: 1.7 to 2.0 are the product in float64, 0.3 to 0.6 the sort of bare numbers, 0.15 to 0.3 "
    "rounding, 0.1 to 0.3 features scaled to length one; the last three weigh more where features are narrow"
)


@dataclass(frozen=True)
class Workload:
    """Features of people, a centre each and noise: how many, and how hard they are."""

    name: str
    queries: int
    gallery: int
    width: int
    people: int
    noise: float
    cameras: int = 0

    def sets(self) -> tuple:
        """Return what ``score_retrieval`` is called with."""
        query, gallery = self._side(self.queries, 1), self._side(self.gallery, 2)
        random = np.random.default_rng(3)
        cameras = tuple(random.integers(0, self.cameras or 1, number) for number in (self.queries, self.gallery))
        return *query, *gallery, cameras if self.cameras else None

    def _side(self, number: int, seed: int) -> tuple[torch.Tensor, np.ndarray]:
        centres = torch.randn(self.people, self.width, generator=torch.Generator().manual_seed(0))
        ids = np.random.default_rng(seed).integers(0, self.people, number)
        features = torch.randn(number, self.width, generator=torch.Generator().manual_seed(seed)).mul_(self.noise)
        for start in range(0, number, 65_536):  # a million centres at once would be what the memory's peak measures
            features[start : start + 65_536] += centres[torch.from_numpy(ids[start : start + 65_536])]
        return features, ids


WORKLOADS = [
    Workload("4 matches, hard", 10_000, 10_000, 512, 2_500, 2.6),
    Workload("4 matches, easy", 10_000, 10_000, 512, 2_500, 1),
    Workload("40 matches, hard", 10_000, 10_000, 512, 250, 3.4),
    Workload("40 matches, easy", 10_000, 10_000, 512, 250, 1),
    Workload("Market-1501", 3_368, 15_913, 1_280, 751, 4.4, cameras=6),
]
MILLION = Workload("a million", 1_000, 1_000_000, 256, 250_000, 1)


def product(query, query_labels, gallery, *rest) -> torch.Tensor:
    """Multiply in float32, which is the least that a ranking needs."""
    return query @ gallery.T


def sorted_rows(query, query_labels, gallery, gallery_labels, cameras=None) -> list[float]:
    """Do what re-ID code usually does: normalise, multiply, argsort every row, then a loop over queries."""
    normalise = torch.nn.functional.normalize
    similarity = (normalise(query, dim=1) @ normalise(gallery, dim=1).T).numpy()
    order = np.argsort(-similarity, axis=1)
    hits = gallery_labels[order] == query_labels[:, None]
    first, precision = [], []
    for q, row in enumerate(hits):
        if cameras is not None:
            row = row[~(row & (cameras[1][order[q]] == cameras[0][q]))]
        places = np.flatnonzero(row)
        if len(places):
            first.append(places[0] == 0)
            precision.append(np.mean(np.arange(1, len(places) + 1) / (places + 1)))
    return [float(np.mean(first)), float(np.mean(precision))]


def compared(work: Workload) -> list[Row]:
    """Rank one workload in turn with a sort, and in turn with the product."""
    sets = work.sets()
    pairs, (plain, ours) = in_turn(lambda _: sorted_rows(*sets), lambda _: score_retrieval(*sets), ROUNDS)
    assert abs(plain[0] - ours.at[1]) < 5e-4 and abs(plain[1] - ours.map) < 1e-5  # near ties may fall otherwise
    equal = f"rank-1 {plain[0]:.6f} and {ours.at[1]:.6f}, mAP {plain[1]:.6f} and {ours.map:.6f}"
    gc.collect()
    beside, _ = in_turn(lambda _: product(*sets), lambda _: score_retrieval(*sets), ROUNDS)
    return [
        Row(work.name, "argsort, then a loop", "counting", pairs, AIM_FASTER, note=equal, reason=SLOWER),
        Row(work.name, "the product alone", "counting", beside, AIM_TIMES, about="times", reason=DOUBLE),
    ]


def million() -> list[Row]:
    """Rank a million: the most that the process ever held, then the product beside it."""
    sets = MILLION.sets()
    took, scores = seconds(lambda: score_retrieval(*sets))
    features = sum(each.nbytes for each in (sets[0], sets[2])) / 2**30
    note = f"took {took:.1f} s; rank-1 {scores.at[1]:.3f}"
    held = peak(MILLION.name, "the features alone", features, AIM_GIB, note)
    room = torch.empty(64, MILLION.gallery)  # the whole result would be 4 GB, most of whose time is the system's

    def product_in_parts(_: int) -> None:
        for part in sets[0].split(len(room)):
            torch.mm(part, sets[2].T, out=room[: len(part)])

    pairs, _ = in_turn(product_in_parts, lambda _: score_retrieval(*sets), ROUNDS)
    return [held, Row(MILLION.name, "the product alone", "counting", pairs, AIM_TIMES, about="times", reason=DOUBLE)]


def rows() -> list[Row]:
    """The million first, since it is the process's peak that tells its memory."""
    return [*million(), *(row for work in WORKLOADS for row in compared(work))]
