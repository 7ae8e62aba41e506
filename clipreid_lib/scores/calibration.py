"""Calibration: from a cosine to a log-likelihood ratio (LLR), and what that is worth.

The LLR is the natural logarithm of how many times more probable a score is where both images show one person than where
they show two. It holds for the population of the pairs it was learned from, and for no other. Logistic regression makes
it, a straight line over the score. Both kinds of pairs weigh the same in sum, so the line's log odds are the LLR, with
no prior in them.

Cllr (Bruemmer and du Preez, Computer Speech and Language 20, 2006) is what an LLR costs whoever decides by it, in bits,
averaged over all priors: 0 for one that is never wrong, 1 for one that says nothing, more for one that misleads::

    Cllr = 1/2 mean over genuine of log2(1 + exp(-LLR)) + 1/2 mean over impostor of log2(1 + exp(LLR))

Cllr-min is the least that any rising function of the score can cost on the same pairs, by isotonic regression (pool
adjacent violators). The rest, Cllr less Cllr-min, is the fault of the calibration.
"""

import numpy as np
import pandas as pd
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from clipreid_lib.scores.subgroups import FEWEST
from clipreid_lib.scores.thresholds import TEST, VALIDATION
from clipreid_lib.scores.verification import count_people_pairs, thin

# Inverse strength of the ridge, in units of the scores' standard deviation: it gives a slope even where no genuine pair
# overlaps an impostor pair, and moves others by less than a hundredth.
RIDGE = 100.0


def learn(tested: pd.DataFrame, held_out: pd.DataFrame | None) -> dict:
    """Learn the LLR from the validation people's pairs where they are of ten people, else from the test people's own.

    Args:
        tested: pairs of the test people, as :func:`~clipreid_lib.scores.verification.list_pairs` lists them.
        held_out: pairs of the validation people; None where nobody is held out.

    Returns:
        ``people`` it was learned from, ``validation`` or ``test``; ``slope`` and ``intercept``, LLR = slope * cosine +
        intercept; ``bounds`` of it, see :func:`find_bounds`; on the test people's pairs ``cllr``, ``cllr_min``, and
        ``cllr_raw``, which the cosine itself would cost as an LLR; ``pairs`` it was learned from, ``genuine`` and
        ``impostor``. With fewer than ten test people every number is None and ``why`` says so.
    """
    people, pairs = TEST, tested
    if held_out is not None and not explain_lack(held_out):
        people, pairs = VALIDATION, held_out
    counts = {"genuine": int(pairs["genuine"].sum()), "impostor": int((~pairs["genuine"]).sum())}
    facts = {"people": people, "pairs": counts}
    if lack := explain_lack(tested):
        return facts | dict.fromkeys(("slope", "intercept", "cllr", "cllr_min", "cllr_raw")) | {"why": lack}
    few = thin(tested)
    slope, intercept = fit(few if people == "test" else thin(pairs))
    cllr, raw = find_cllr(slope * few["score"] + intercept, few), find_cllr(few["score"], few)
    line = {"slope": slope, "intercept": intercept, "bounds": find_bounds(pairs)}
    return facts | line | {"cllr": cllr, "cllr_min": find_cllr_min(few), "cllr_raw": raw}


def fit(pairs: pd.DataFrame) -> tuple[float, float]:
    """Fit the LLR's slope and intercept to pairs of both kinds, by scikit-learn's logistic regression."""
    score, weight = pairs[["score"]].to_numpy(float), _balance(pairs)
    middle = float(weight @ score[:, 0])
    spread = float(np.sqrt(weight @ (score[:, 0] - middle) ** 2)) or 1.0  # 1 where all scores are equal
    model = LogisticRegression(C=RIDGE, tol=1e-8, max_iter=1000)
    model.fit((score - middle) / spread, pairs["genuine"], sample_weight=weight * pairs["genuine"].sum())
    slope = float(model.coef_[0, 0]) / spread
    return slope, float(model.intercept_[0]) - slope * middle


def find_bounds(pairs: pd.DataFrame) -> list[float]:
    """Return the lowest and the highest LLR that so many people can support.

    An event that was never seen in n cases may have a probability of one in n. So no LLR lies below minus the logarithm
    of the number of people with genuine pairs, and none above that of the number of pairs of people. (Limits of that
    kind: Vergeer et al., Science and Justice 56, 2016.)
    """
    people = pairs.loc[pairs["genuine"], "query_subject"].nunique()
    return [-float(np.log(people)), float(np.log(count_people_pairs(pairs)))]


def find_cllr(llr: pd.Series, pairs: pd.DataFrame) -> float:
    """Return Cllr in bits of an LLR, (N,), of pairs; they weigh as often as galleries bring them together."""
    wrong = np.where(pairs["genuine"], -llr, llr)
    return float(_balance(pairs) @ np.logaddexp(0, wrong) / np.log(2))


def find_cllr_min(pairs: pd.DataFrame) -> float:
    """Return the least Cllr that a rising function of the scores of pairs has, in bits."""
    truth, weight = pairs["genuine"].to_numpy(), _balance(pairs)
    score = pairs["score"].to_numpy(float)  # a float32 would round the chances as well
    chance = IsotonicRegression(y_min=0, y_max=1).fit_transform(score, truth.astype(float), sample_weight=weight)
    return float(-weight @ np.log2(np.where(truth, chance, 1 - chance)))


def _balance(pairs: pd.DataFrame) -> np.ndarray:
    """Weigh pairs as galleries bring them together, each kind 1/2 in sum, (N,)."""
    weight = pairs["weight"].to_numpy(float)
    return weight / (2 * pairs.groupby("genuine")["weight"].transform("sum").to_numpy())


def explain_lack(pairs: pd.DataFrame) -> str:
    """Say why pairs are of too few people to learn or measure anything; else nothing."""
    people = pairs.loc[pairs["genuine"], "query_subject"].nunique()
    return f"not measurable: needs {FEWEST} people with genuine pairs; there are {people}" if people < FEWEST else ""
