"""Uncertainty: intervals and paired tests over people, never over images, and over training seeds where there are some.

The images of one person are alike, so resampling images would pretend to know more than the data can tell. The gallery
is held as it is; what varies is who asks. (Resampling the gallery's people as well would change an interval's width by
a few per cent: measured on simulated people, the standard error is .92 to 1.02 of the true one.)
"""

import functools
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

RESAMPLES = 2000  # of people, for intervals: the ends then wander by less than a tenth of the interval
FLIPS = 9999  # for p-values, so that the smallest is 0.0002 (two-sided)
POWER = 0.8  # chance of p < 0.05 at which a difference counts as one that would have been shown


@dataclass(frozen=True)
class Difference:
    """One method's score minus another's, over people and seeds.

    Attributes:
        mean: of it, in [-1, 1].
        low: lower end of its 95 % interval; NaN with fewer than two people, as in the others below.
        high: upper end.
        p: two-sided p-value that there is none, by the t distribution.
        shown: the smallest difference that a test of so many people and seeds finds (p < 0.05) with 80 % power.
    """

    mean: float
    low: float
    high: float
    p: float
    shown: float


@functools.lru_cache(8)  # every score of a table asks for the same
def draw_weights(people: int, resamples: int = RESAMPLES) -> np.ndarray:
    """Weigh people at random, as the Bayesian bootstrap does (Rubin 1981): every person counts, some more.

    Two pseudo-people are added, each half a person: one who always fails and one who never does. Without them nobody
    wrong would make a rate of 1 certain, and intervals near 0 and 1 would be too narrow: with 43 people and a true rate
    of .97 a percentile bootstrap holds it in 82 of 100 data sets, this in 95.

    Returns:
        (resamples, people + 2), rows that add up to 1; the failing pseudo-person comes last but one. The same for the
        same number of people, so that one more error never raises an end of an interval.
    """
    # The plain bootstrap's variance of a mean is (people - 1) / (people + 2) of what it should be, and its quantiles
    # are the normal's where Student's t belongs. Less concentrated weights make up for both.
    wanted = (people + 2) / (people - 1) * (stats.t.ppf(0.975, people - 1) / stats.norm.ppf(0.975)) ** 2
    each = max(0.1, ((people + 2) / wanted - 1) / (people + 1))  # at 0.1 nearly one person alone stands for all
    drawn = np.random.default_rng(0).dirichlet(each * np.array([1.0] * people + [0.5, 0.5]), resamples)
    drawn.flags.writeable = False
    return drawn


def find_interval(values: ArrayLike, people: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float]:
    """95 % interval of a share or score in [0, 1] averaged over queries, by :func:`draw_weights`.

    Args:
        values: (N,) one number per query; NaN takes no part.
        people: (N,) whose query it is.
        weights: (N,) of the queries in the mean; None weighs them alike.

    Returns:
        Lower and upper end; NaN twice with fewer than two people.
    """
    return find_interval_of(*sum_by_person(values, people, weights))


def estimate_mean(values: ArrayLike, people: ArrayLike, weights: ArrayLike | None = None) -> tuple[float, float, float]:
    """Return the mean over queries, and its interval's ends; arguments as :func:`find_interval`."""
    sums, counts = sum_by_person(values, people, weights)
    return float(sums.sum() / counts.sum()), *find_interval_of(sums, counts)


def find_interval_of(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Return the interval of :func:`find_interval` from what :func:`sum_by_person` found, (P,) each."""
    if len(sums) < 2:
        return np.nan, np.nan
    one = counts.mean()  # what a pseudo-person asks
    drawn = draw_weights(len(sums))
    found = drawn @ np.append(sums, [0, one]) / (drawn @ np.append(counts, [one, one]))
    return widen(found, float(sums.sum() / counts.sum()))


def estimate_pairs(
    values: ArrayLike, one: ArrayLike, other: ArrayLike, weights: ArrayLike
) -> tuple[float, float, float]:
    """Estimate a rate over pairs of images; in its 95 % interval the weights of a pair's two people are multiplied.

    The pseudo-people have one pair each, as much as a pair of people has on average.

    Args:
        values: (N,) in [0, 1], one number per pair.
        one: (N,) whom one image shows.
        other: (N,) whom the other shows.
        weights: (N,) of the pairs.

    Returns:
        The rate, and lower and upper end; NaN for these with fewer than two people.
    """
    codes, people = pd.factorize(np.concatenate([np.asarray(one), np.asarray(other)]))
    places = tuple(np.sort(np.split(codes, 2), axis=0))  # a pair of people is one, whoever asked
    sums, counts = np.zeros((len(people), len(people))), np.zeros((len(people), len(people)))
    np.add.at(sums, places, np.asarray(values, float) * np.asarray(weights, float))
    np.add.at(counts, places, np.asarray(weights, float))
    rate = float(sums.sum() / counts.sum())
    if len(people) < 2:
        return rate, np.nan, np.nan
    drawn = len(people) * draw_weights(len(people))
    weight, (never, always) = drawn[:, :-2], drawn[:, -2:].T
    pseudo = counts.sum() / np.count_nonzero(counts)
    top, whole = (np.einsum("bp,bp->b", weight @ each, weight) for each in (sums, counts))
    return rate, *widen((top + always * pseudo) / (whole + (never + always) * pseudo), rate)


def widen(found: np.ndarray, estimate: float) -> tuple[float, float]:
    """Return the 2.5 and 97.5 % quantiles of resampled scores, stretched to hold the score itself."""
    low, high = np.quantile(found, (0.025, 0.975))
    return float(min(low, estimate)), float(max(high, estimate))


def compare(
    one: ArrayLike, other: ArrayLike, people: ArrayLike, weights: ArrayLike | None = None
) -> tuple[Difference, float]:
    """Compare two checkpoints query by query.

    The p-value is that of a sign-flip permutation test on each person's summed difference (scipy): a person's queries
    flip together, and people weigh by how many they have, as in the mean itself.

    Args:
        one: (N,) a score per query, for example average precision; NaN takes no part.
        other: (N,) the other method's, of the same queries in the same order.
        people: (N,) whose queries they are.
        weights: (N,) of the queries in the mean; None weighs them alike.

    Returns:
        The mean over queries of other minus one with its t-interval, and the two-sided p-value that no person is served
        differently by the two.
    """
    sums, counts = sum_by_person(np.asarray(other, float) - np.asarray(one, float), people, weights)
    p = 1.0
    if len(sums) > 1 and sums.any():
        p = stats.permutation_test(
            (sums,),
            lambda x, axis: x.sum(axis),
            permutation_type="samples",
            vectorized=True,
            n_resamples=FLIPS,
            batch=1000,
            rng=np.random.default_rng(0),
        ).pvalue
    return estimate_difference((sums / counts)[:, None], counts), float(p)


def estimate_difference(differences: np.ndarray, counts: np.ndarray) -> Difference:
    """Estimate the difference of two methods over people and training seeds, both as random.

    The variance has three parts: people, seeds, and what is left when both are taken out; with one seed the first alone
    is known, and the interval is about these two checkpoints. Satterthwaite's degrees of freedom (1946) for the sum.

    Args:
        differences: (P, S) of each person, the mean over their queries, with each seed.
        counts: (P,) queries of each person.
    """
    people, seeds = differences.shape
    share = counts / counts.sum()  # (P,)
    by_person, by_seed = differences.mean(axis=1), share @ differences
    mean = float(by_seed.mean())
    if people < 2:
        return Difference(mean, np.nan, np.nan, 1.0, np.nan)
    factor = people / (people - 1)
    of_people = factor * (share**2 @ (by_person - mean) ** 2)
    variance, freedom = of_people, people - 1.0
    if seeds > 1:
        rest = differences - by_person[:, None] - by_seed + mean  # (P, S)
        of_rest = factor * (share**2 @ (rest**2).sum(axis=1)) / (seeds * (seeds - 1))
        of_seeds = max(0.0, by_seed.var(ddof=1) / seeds - of_rest)
        variance = of_people + of_seeds
        parts = of_people**2 / (people - 1) + of_seeds**2 / (seeds - 1)
        freedom = variance**2 / parts if parts else freedom
    error, t = float(np.sqrt(variance)), float(stats.t.ppf(0.975, freedom))
    p = 2 * stats.t.sf(abs(mean) / error, freedom) if error else float(mean == 0)
    shown = (t + float(stats.t.ppf(POWER, freedom))) * error
    return Difference(mean, mean - t * error, mean + t * error, float(p), shown)


def adjust(p_values: ArrayLike) -> np.ndarray:
    """Adjust p-values for how many they are (Holm 1979): of tables read at 0.05, one in twenty errs at most."""
    given = np.asarray(p_values, float)
    order = np.argsort(given, kind="stable")
    steps = np.maximum.accumulate((len(given) - np.arange(len(given))) * given[order])
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def sum_by_person(
    values: ArrayLike, people: ArrayLike, weights: ArrayLike | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return what each person's queries add up to, (P,), and their weights, (P,); arguments as :func:`find_interval`.

    People all of whose values are NaN are left out.
    """
    value = np.asarray(values, float)
    weight = np.ones(len(value)) if weights is None else np.asarray(weights, float)
    weight = np.where(np.isnan(value), 0, weight)
    # By the column's name: given an array, pandas first takes it for a name and prints it for an error of its own.
    table = pd.DataFrame({"who": np.asarray(people), "sum": np.nan_to_num(value) * weight, "count": weight})
    table = table.groupby("who").sum()
    table = table[table["count"] > 0]
    return table["sum"].to_numpy(), table["count"].to_numpy()
