"""Intervals and tests over people and seeds, against hand-worked cases and simulations with known answers."""

import numpy as np
import pytest
from scipy import stats

from clipreid_lib.scores import uncertainty


def test_holm_by_hand():
    # Sorted .01 .02 .03 .04: times 4, 3, 2, 1 is .04 .06 .06 .04, and no adjusted value may fall below an earlier one.
    assert uncertainty.adjust([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert uncertainty.adjust([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert uncertainty.adjust([0.2]) == pytest.approx([0.2])
    assert len(uncertainty.adjust([])) == 0


def test_one_seed_is_students_interval_of_a_weighted_mean():
    random = np.random.default_rng(0)
    values = random.normal(0.1, 0.3, 30)
    found = uncertainty.estimate_difference(values[:, None], np.ones(30))
    low, high = stats.t.interval(0.95, 29, values.mean(), stats.sem(values))
    assert (found.mean, found.low, found.high) == pytest.approx((values.mean(), low, high))
    assert found.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    # Weights: a person of three queries is no three people.
    counts = random.integers(1, 4, 30)
    found, p = uncertainty.compare(np.zeros(counts.sum()), np.repeat(values, counts), np.repeat(np.arange(30), counts))
    mean = np.average(values, weights=counts)
    error = np.sqrt(30 / 29 * ((counts / counts.sum()) ** 2 * (values - mean) ** 2).sum())
    assert found.mean == pytest.approx(mean) and found.high - mean == pytest.approx(stats.t.ppf(0.975, 29) * error)
    assert found.shown == pytest.approx((stats.t.ppf(0.975, 29) + stats.t.ppf(0.8, 29)) * error)
    assert 0 < p < 0.2


def test_what_would_have_been_shown_is_shown_in_four_of_five_tests():
    random, shown, hits = np.random.default_rng(0), [], 0
    for _ in range(200):
        shown.append(uncertainty.estimate_difference(random.normal(0, 0.2, (40, 1)), np.ones(40)).shown)
    effect = np.mean(shown)
    for _ in range(1000):
        hits += uncertainty.estimate_difference(random.normal(effect, 0.2, (40, 1)), np.ones(40)).p < 0.05
    assert 0.76 < hits / 1000 < 0.84


@pytest.mark.parametrize("deviation", [0.0, 0.01, 0.02, 0.03])
def test_intervals_over_people_and_seeds_hold_the_difference_of_methods(deviation):
    """43 people, three seeds, a person's taste and a seed's luck: at least 92 of 100 intervals hold the truth."""
    random, truth, inside = np.random.default_rng(1), 0.04, 0
    for _ in range(2000):
        counts = random.integers(1, 10, 43)
        people, seeds = random.normal(0, 0.15, (43, 1)), random.normal(0, deviation, 3)
        values = truth + people + seeds + random.normal(0, 0.1, (43, 3))
        found = uncertainty.estimate_difference(values, counts)
        inside += found.low <= truth <= found.high
    assert inside / 2000 >= 0.92


def test_people_alone_would_not_hold_it():
    """The same with seeds that matter, by the interval over people alone: what the two-way one is for."""
    random, inside = np.random.default_rng(1), 0
    for _ in range(1000):
        values = random.normal(0, 0.05, (43, 1)) + random.normal(0, 0.03, 3) + random.normal(0, 0.02, (43, 3))
        found = uncertainty.estimate_difference(values.mean(axis=1, keepdims=True), np.ones(43))
        inside += found.low <= 0 <= found.high
    assert inside / 1000 < 0.7


def test_equal_methods_and_a_certain_difference():
    same = uncertainty.estimate_difference(np.zeros((10, 3)), np.ones(10))
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    sure = uncertainty.estimate_difference(np.full((10, 3), 0.5), np.ones(10))
    assert sure.mean == sure.low == sure.high == 0.5 and sure.p == 0
    alone = uncertainty.estimate_difference(np.array([[0.5, 0.4]]), np.ones(1))
    assert alone.mean == pytest.approx(0.45) and np.isnan(alone.low) and alone.p == 1


@pytest.mark.parametrize("people", [2, 3, 5, 10, 43, 200])
def test_one_more_error_never_makes_an_interval_look_surer(people):
    counts = np.random.default_rng(people).integers(1, 12, people)
    owners = np.repeat(np.arange(people), counts)
    right, before = np.ones(len(owners)), (1.0, 1.0)
    for wrong in np.random.default_rng(0).permutation(len(owners))[:40]:
        low, high = uncertainty.find_interval(right, owners)
        assert low <= right.mean() <= high
        assert low <= before[0] and high <= before[1] and low < 1
        before = low, high
        right[wrong] = 0


def test_nobody_wrong_is_no_certainty_and_an_interval_mirrors():
    owners = np.repeat(np.arange(43), 5)
    low, high = uncertainty.find_interval(np.ones(len(owners)), owners)
    assert 0.9 < low < 0.98 and high == 1
    random = np.random.default_rng(0)
    values = random.random(len(owners))
    low, high = uncertainty.find_interval(values, owners)
    other = uncertainty.find_interval(1 - values, owners)
    assert (1 - high, 1 - low) == pytest.approx(other, abs=0.01)  # but for the two pseudo-people's own luck


def test_weights_of_the_bootstrap_have_students_spread():
    """Of values of many people, the interval is nearly Student's; with pseudo-people it is a little wider."""
    values = np.random.default_rng(0).random(60)
    low, high = uncertainty.find_interval(values, np.arange(60))
    theirs = stats.t.interval(0.95, 59, values.mean(), stats.sem(values))
    assert 1 < (high - low) / (theirs[1] - theirs[0]) < 1.2
    weights = uncertainty.draw_weights(60, 20_000)[:, :60]
    means = weights @ values / weights.sum(axis=1)
    assert means.std() == pytest.approx(stats.sem(values) * stats.t.ppf(0.975, 59) / 1.96, rel=0.05)


def test_a_rate_over_pairs_counts_people_on_both_sides():
    """A hundred pairs of two people are one pair of people."""
    one, other = np.repeat([0, 1, 2], 100), np.repeat([1, 2, 0], 100)
    values, weights = np.repeat([1.0, 0.0, 0.0], 100), np.ones(300)
    rate, low, high = uncertainty.estimate_pairs(values, one, other, weights)
    assert rate == pytest.approx(1 / 3) and low < 0.05 and high > 0.8
    people = np.array([(i, j) for i in range(60) for j in range(i)])
    hits = np.random.default_rng(0).random(len(people)) < 0.1
    rate, low, high = uncertainty.estimate_pairs(hits, *people.T, np.ones(len(people)))
    assert rate == hits.mean() and 0.06 < low < rate < high < 0.14
    twice = uncertainty.estimate_pairs(np.append(hits, hits), *np.tile(people.T, 2), np.ones(2 * len(people)))
    assert twice == pytest.approx((rate, low, high), abs=0.005)
    assert np.isnan(uncertainty.estimate_pairs([1.0], [0], [0], [1.0])[1])
