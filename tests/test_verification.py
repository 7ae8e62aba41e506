import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from clipreid_lib.base.errors import UserError
from clipreid_lib.scores import uncertainty, verification
from clipreid_lib.scores.open_set import OpenSet
from clipreid_lib.scores.verification import find_eer, verify


def make_pairs(genuine: np.ndarray, impostor: np.ndarray, people: int = 40) -> pd.DataFrame:
    random = np.random.default_rng(0)
    asked = random.integers(0, people, len(genuine) + len(impostor))
    shown = (asked + random.integers(1, people, len(asked))) % people
    truth = np.arange(len(asked)) < len(genuine)
    table = {
        "query": [f"q{n}" for n in range(len(asked))],
        "gallery": [f"g{n}" for n in range(len(asked))],
        "query_subject": asked,
        "gallery_subject": np.where(truth, asked, shown),
        "score": np.concatenate([genuine, impostor]),
        "genuine": truth,
    }
    return pd.DataFrame(table)


def test_eer_by_hand():
    # thresholds fall over 4, 3, 2, 1: genuine 4, 2 and impostor 3, 1
    found = verify(make_pairs(np.array([4.0, 2.0]), np.array([3.0, 1.0])))
    assert found.eer == pytest.approx(0.5)
    apart = verify(make_pairs(np.array([4.0, 3.0]), np.array([2.0, 1.0])))
    assert apart.eer == 0 and apart.genuine == apart.impostor == 2


def test_eer_agrees_with_a_root_finder_and_with_theory():
    random = np.random.default_rng(0)
    pairs = make_pairs(random.normal(2, 1, 20_000), random.normal(0, 1, 20_000))
    found = verify(pairs)
    fpr, tpr, _ = roc_curve(pairs["genuine"], pairs["score"])
    root = brentq(lambda x: 1 - x - np.interp(x, fpr, tpr), 0, 1)
    assert found.eer == pytest.approx(root, abs=1e-9)
    assert found.eer == pytest.approx(stats.norm.cdf(-1), abs=0.005)  # normals two apart cross one deviation out
    assert found.tpr_at[0.01] == pytest.approx(1 - stats.norm.cdf(stats.norm.ppf(0.99) - 2), abs=0.02)


def test_a_rate_that_the_pairs_cannot_support_is_not_measurable():
    random = np.random.default_rng(1)
    found = verify(make_pairs(random.normal(2, 1, 500), random.normal(0, 1, 1000)))
    assert found.tpr_at[1e-2] > 0 and found.tpr_at[1e-3] == "not measurable: 1,000 of 10,000 impostor pairs"
    assert found.tpr_at[1e-4] == "not measurable: 1,000 of 100,000 impostor pairs"
    with pytest.raises(UserError, match="3 pairs, 3 of them genuine; it needs both"):
        verify(make_pairs(np.arange(3.0), np.zeros(0)))


def test_equal_scores_are_one_threshold():
    found = verify(make_pairs(np.ones(50), np.ones(50)))
    assert found.eer == pytest.approx(0.5)
    low, high = verification.bootstrap_eer(make_pairs(np.ones(50), np.ones(50)))
    assert low == high == pytest.approx(0.5)


def test_eer_interval_holds_the_value_and_narrows_with_people():
    random = np.random.default_rng(2)
    widths = []
    for people in (10, 160):
        pairs = make_pairs(random.normal(1.5, 1, 1500), random.normal(0, 1, 3000), people)
        easy = random.normal(size=people)  # some people are easier than others, in all their images
        pairs["score"] += np.where(pairs["genuine"], easy[pairs["query_subject"]], 0)
        low, high = verification.bootstrap_eer(pairs)
        assert low < verify(pairs).eer < high
        widths.append(high - low)
    assert widths[1] < widths[0]
    assert find_eer(np.array([0, 0, 1.0]), np.array([0, 1.0, 1.0])) == 0


def test_equal_scores_are_read_at_the_right_threshold():
    # one genuine pair above all, then four pairs of one score, then impostors: at FPR 1 % the ties may be let in
    scores = make_pairs(np.array([9.0, 5.0, 1.0]), np.concatenate([[5.0], np.zeros(1999)]))
    assert verify(scores).tpr_at[1e-2] == 1.0 and verify(scores).fpr[1] == 0
    apart = verify(make_pairs(np.full(50, 2.0), np.linspace(0, 1, 2000)))
    assert len(apart.fpr) > 1900 and apart.fpr[apart.fpr > 0].min() == pytest.approx(1 / 2000)
    false_match, false_non_match = verification.rate_at(scores, 5.0)
    assert false_match == pytest.approx(1 / 2000) and false_non_match == pytest.approx(1 / 3)


def test_distractors_are_not_one_person():
    random = np.random.default_rng(7)
    pairs = make_pairs(random.normal(2, 1, 800), random.normal(0, 1, 3000))
    table = pairs
    strangers = table.index >= 2000  # their number, 0 or 1,000, must not matter
    ends = []
    for number in (1000, np.arange(1000, 1000 + strangers.sum())):
        table.loc[strangers, "gallery_subject"] = number
        ends.append(verification.bootstrap_eer(table))
    assert ends[0] == ends[1]


def test_fnir_at_fpir_by_hand():
    mated = pd.DataFrame({"path": list("abcd"), "identity": range(4), "score": [0.9, 0.6, 0.4, -np.inf]})
    names = [f"{n}.jpg" for n in range(100)]
    non_mated = pd.DataFrame({"path": names, "identity": range(100), "score": np.arange(100) / 100})
    searched = OpenSet(mated, non_mated)
    # at 10 % the threshold is 0.89: exceeded by 0.90 to 0.99, which are ten of a hundred
    assert searched.threshold(0.1) == pytest.approx(0.89)
    assert (non_mated["score"] > searched.threshold(0.1)).mean() == pytest.approx(0.1)
    assert "100 of 1,000 images" in searched.find_fnir(0.01)[0]
    rate, low, high = searched.find_fnir(0.1)
    assert 0 <= low <= rate == 0.75 <= high <= 1


def test_interval_resamples_people_not_images():
    random = np.random.default_rng(3)
    people = np.repeat(np.arange(20), 50)
    alike = random.normal(size=20)[people]  # a person's images all say the same
    low, high = uncertainty.find_interval(alike, people)
    spread = alike.reshape(20, 50)[:, 0].std(ddof=1) / np.sqrt(20)
    assert (high - low) == pytest.approx(2 * 1.96 * spread, rel=0.15)  # as if there were 20 values, not 1,000
    assert low < alike.mean() < high
    assert uncertainty.find_interval(alike, people) == (low, high)  # seeded
    assert np.isnan(uncertainty.find_interval([1.0, 0.0], [5, 5])).all()  # one person has no spread
    # two people, both right every time: the exact bound for two of two, not certainty
    assert uncertainty.find_interval([1, np.nan, 1], [1, 2, 3]) == (pytest.approx(0.1581, abs=1e-4), 1)
    assert uncertainty.find_interval([0, 0], [1, 2]) == (0, pytest.approx(0.8419, abs=1e-4))


def test_coverage_of_the_interval():
    random, held = np.random.default_rng(4), 0
    for _ in range(100):
        means = random.normal(0.5, 0.2, 40)
        values = np.repeat(means, 5) + random.normal(0, 0.1, 200)
        low, high = uncertainty.find_interval(values, np.repeat(np.arange(40), 5))
        held += low <= 0.5 <= high
    assert 88 <= held <= 99


def test_paired_comparison():
    random = np.random.default_rng(5)
    people = np.repeat(np.arange(30), 10)
    one = random.random(300)
    mean, (low, _), p = uncertainty.compare(one, one + 0.1 + random.normal(0, 0.05, 300), people)
    assert mean == pytest.approx(0.1, abs=0.02) and low > 0 and p < 0.001
    assert uncertainty.compare(one, one, people) == (0, (0, 0), 1)
    # two people who differ by the same amount: signs ++, +-, -+, --, so half of all are as extreme
    assert uncertainty.compare([0, 0], [1, 1], [1, 2])[-1] == 0.5


def test_p_values_are_uniform_where_nothing_differs():
    random = np.random.default_rng(6)
    found = [
        uncertainty.compare(np.zeros(60), np.repeat(random.normal(size=20), 3), np.repeat(np.arange(20), 3))[-1]
        for _ in range(60)
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.01
