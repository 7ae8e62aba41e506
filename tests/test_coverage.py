"""Intervals against simulated people whose true scores are known: do they hold them as often as they say?

People are Gaussian: a direction each, noise per image, some people noisier than others; image counts are those of the
test people of 11k Hands' dorsal right. The truth is the mean score of all data sets simulated in one way.
"""

import numpy as np
import pandas as pd
import pytest
import torch

from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import open_set, uncertainty, verification
from clipreid_lib.scores.evaluation import evaluate
from clipreid_lib.scores.features import Embeddings

# Images of the test people of 11k Hands' dorsal right: of a piece of it, and of the whole.
PIECE = 12 * [2] + 7 * [3] + 13 * [4] + 4 * [5] + 3 * [6] + [7, 8, 9, 10]
WHOLE = (
    *[2, 5, 5, *6 * [6], *3 * [7], *3 * [8], *7 * [9], *4 * [10], *4 * [11], *6 * [12], *5 * [13], 14, 14, *3 * [15]],
    *[*3 * [16], *3 * [17], 18, 19, 19, 20, 20, 20, 23, 23, 24, 24, 25, 25, 27, 28, 31, 31, 32, 38, 46],
)
COUNTS = {len(each): np.array(each) for each in (PIECE, WHOLE)}
WIDTH = 24
# Of an image, beside a person's direction of length one per dimension: by people and the rank-1 that it makes.
NOISE = {(43, 0.5): 1.17, (43, 0.8): 0.81, (43, 0.97): 0.52, (71, 0.5): 1.1, (71, 0.8): 0.765, (71, 0.97): 0.505}
SCORES = ("rank1", "rank5", "map", "minp", "rank1_per_person", "map_per_person", "eer", "tpr_at_fpr_0.01", "fnir")
SCORES += ("fpr", "fnr")
THRESHOLD = 0.45  # of a cosine, for the rates at a threshold that is held


def simulate(people: int, noise: float, seed: int) -> tuple[Embeddings, Manifest]:
    random = np.random.default_rng([seed, people])
    counts = COUNTS[people]
    person = np.repeat(np.arange(people), counts)
    spread = noise * np.exp(0.25 * random.normal(size=people))[person, None]
    values = random.normal(size=(people, WIDTH))[person] + spread * random.normal(size=(len(person), WIDTH))
    paths = [f"{number:05d}.jpg" for number in range(len(person))]
    table = pd.DataFrame({"dataset": "folder", "protocol": "own", "role": "test", "subject": person, "path": paths})
    table = table.assign(identity=person, aspect="hand", camera=0)
    for draw in range(3):
        order = random.permutation(len(person))
        chosen = order[np.unique(person[order], return_index=True)[1]]
        table[f"draw_{draw}"] = np.where(np.isin(np.arange(len(person)), chosen), "gallery", "query")
    return Embeddings(paths, torch.tensor(values)), Manifest(table)


def score(people: int, rank1: float, seed: int) -> dict[str, tuple[float, float, float]]:
    """Return value, lower and upper end of every score of one simulated data set."""
    embeddings, manifest = simulate(people, NOISE[people, rank1], seed)
    scores, pairs = evaluate(embeddings, manifest), verification.list_pairs(embeddings, manifest)
    verified, values = verification.verify(pairs), scores.summary()
    ends = scores.intervals() | verification.find_intervals(pairs, verified)
    values |= {"eer": verified.eer, "tpr_at_fpr_0.01": verified.tpr_at[0.01]}
    found = {name: (values[name], *ends[name]) for name in SCORES if name in values}
    found["fnir"] = open_set.search(embeddings, manifest).find_fnir(0.1)
    accepted, right = pairs["score"] >= THRESHOLD, pairs[pairs["genuine"]]
    wrong = pairs[~pairs["genuine"]]
    people_of = wrong["query_subject"], wrong["gallery_subject"]
    found["fpr"] = uncertainty.estimate_pairs(accepted[wrong.index], *people_of, wrong["weight"])
    missed = right["query_subject"], right["weight"]
    sums, counts = uncertainty.sum_by_person(~accepted[right.index], *missed)
    found["fnr"] = sums.sum() / counts.sum(), *uncertainty.find_interval(~accepted[right.index], *missed)
    return found


def measure(people: int, rank1: float, sets: int) -> dict[str, float]:
    """Return the share of simulated data sets whose interval holds the true score, by score."""
    found, shares = [score(people, rank1, seed) for seed in range(sets)], {}
    for name in SCORES:
        value, low, high = np.array([each[name] for each in found], float).T
        truth = value.mean()
        shares[name] = float(((low <= truth) & (truth <= high)).mean())
        assert 0.001 < truth < 0.999 and ((low <= value) & (value <= high)).all()
    assert abs(np.mean([each["rank1"][0] for each in found]) - rank1) < 0.02
    return shares


@pytest.fixture
def quick(monkeypatch):
    """Fewer resamples of fewer pairs: an interval's ends wander more, and are no wider for it."""
    monkeypatch.setattr(verification, "RESAMPLES", 200)
    monkeypatch.setattr(verification, "ENOUGH", 20_000)


@pytest.mark.long
@pytest.mark.parametrize(("people", "rank1"), NOISE)
def test_intervals_hold_the_true_score_in_92_of_100_data_sets(quick, people, rank1):
    shares = measure(people, rank1, 300)
    print(people, rank1, shares)
    assert min(shares.values()) >= 0.92, shares


@pytest.mark.heavy
def test_a_short_version(quick):
    """Forty sets of the case where percentile intervals failed most: .74 for the EER, .82 for rank-1."""
    shares = measure(43, 0.97, 40)
    assert min(shares.values()) >= 0.9, shares
