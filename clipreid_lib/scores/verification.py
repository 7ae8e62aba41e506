"""Verification: is this pair of photographs one person? Score distributions, ROC, DET, EER, TPR at fixed FPR.

A pair is a query and a gallery image that some gallery of the protocol brings together, whichever of the two asked:
its cosine is the same. It weighs as often as galleries do so. Then a person of n images weighs n - 1, as in rank-1;
were all pairs alike, it would be n (n - 1) / 2, and a few people would decide the rates. A pair that shows one person
under two numbers (protocol mba has people's other hands among its distractors) is neither genuine nor impostor and
takes no part.

ISO/IEC 19795-1 calls the false positive rate of such comparisons false match rate, and the false negative rate false
non-match rate; the equal error rate (EER) is where the two are the same. scikit-learn makes the curves.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import sparse
from sklearn.metrics import roc_curve

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import expectation, similarity, uncertainty
from clipreid_lib.scores.evaluation import compare_draw
from clipreid_lib.scores.features import Embeddings

LEVELS = (1e-2, 1e-3, 1e-4)  # false positive rates, as face and finger recognition print them
# Errors to expect at a rate before it is called measured. Were they independent, ten would make a standard error of a
# third. Those of one person are not: three people may make four of five errors. So errors of two pairs of people are
# asked for as well.
ERRORS_NEEDED, PEOPLE_NEEDED = 10, 2
EER_LEVEL = 0.1  # at which the EER's own pairs are counted: the rate of a poor system; a good one's would ask for more
SIDES = ("query", "gallery")
RESAMPLES = 400  # of people, for the intervals of EER and TPR
AT_ONCE = 16  # of these: 64 MB with a thousand people who all meet
ENOUGH = 100_000  # impostor pairs that a resample looks at: more change the interval less than the resampling does


@dataclass(frozen=True)
class Verification:
    """Error rates over all thresholds.

    Attributes:
        thresholds: (T,) falling; a pair is accepted at or above.
        fpr: (T,) false positive rate there.
        tpr: (T,) true positive rate there; 1 - tpr is the false negative rate.
        eer: equal error rate, where false positive and false negative rate cross (linear between thresholds).
        eer_lacks: why the EER is not measurable; empty where it is.
        tpr_at: true positive rate at each of :data:`LEVELS`, or why it is not measurable.
        genuine: number of genuine pairs.
        impostor: number of impostor pairs.
    """

    thresholds: np.ndarray
    fpr: np.ndarray
    tpr: np.ndarray
    eer: float
    eer_lacks: str
    tpr_at: dict[float, float | str]
    genuine: int
    impostor: int

    @property
    def thresholds_at(self) -> dict[str, float]:
        """Thresholds that a system would have: ``fpr_0.01``, the lowest with at most 1 % of false positives; ``eer``.

        Left out where the rate is not measurable; at ``eer`` false positives are at least as many as false negatives.
        """
        found = {}
        if not isinstance(self.tpr_at[LEVELS[0]], str):
            found[f"fpr_{LEVELS[0]:g}"] = self.thresholds[np.flatnonzero(self.fpr <= LEVELS[0])[-1]]
        if not self.eer_lacks:
            found["eer"] = self.thresholds[np.argmax(self.fpr >= 1 - self.tpr)]
        return {name: float(threshold) for name, threshold in found.items()}


def list_pairs(embeddings: Embeddings, manifest: Manifest) -> pd.DataFrame:
    """List every pair that a manifest's galleries bring together, each once: of all of them, or of its draws.

    Returns:
        One row per pair: ``query gallery`` (paths), ``query_subject gallery_subject`` (people), ``score`` (cosine),
        ``genuine`` (whether both show one identity), ``weight`` (how often a gallery brings them together).

    Raises:
        UserError: as :func:`~clipreid_lib.scores.evaluation.compare_draw`.
    """
    if expectation.is_expectable(manifest):
        images, asks, shown = expectation.find_chances(manifest)
        own = images.iloc[: len(asks)]
        alike = similarity.cosine_similarity(embeddings.of(own), embeddings.of(images))
        person = images["identity"].to_numpy()
        mates = np.equal.outer(person[: len(own)], person)
        if manifest.protocol == "cross_session":
            session = images["session"].to_numpy()
            alike[mates & np.equal.outer(session[: len(own)], session)] = -np.inf
        asked = np.append(asks, np.zeros(len(images) - len(own)))  # distractors ask nobody
        meet = np.outer(asks > 0, shown > 0) | np.outer(shown[: len(own)] > 0, asked > 0)
        left, right = np.nonzero(
            np.triu((alike > -np.inf) & meet, 1)
        )  # own images among themselves once, and all others
        # Of one person, whoever is in the gallery is asked for by the other; of two people, both chances are needed.
        chance = np.where(mates[left, right], asked[[left, right]] > 0, asked[[left, right]])
        weight = chance[0] * shown[right] + chance[1] * shown[left]
        return _tabulate(images, left, right, alike[left, right], weight)
    images, parts = manifest.images, []
    for index in range(manifest.draws):
        query, gallery, alike = compare_draw(embeddings, manifest, index)
        row, column = np.nonzero(alike > -np.inf)
        left, right = (images.index.get_indexer(side.index) for side in (query, gallery))
        parts.append(pd.DataFrame({"left": left[row], "right": right[column], "score": alike[row, column]}))
    table = pd.concat(parts, ignore_index=True)
    either_way = table.assign(left=table[["left", "right"]].min(axis=1), right=table[["left", "right"]].max(axis=1))
    table["weight"] = either_way.groupby(["left", "right"])["score"].transform("size") / manifest.draws
    first = table[~either_way.duplicated(["left", "right"])]
    return _tabulate(images, *(first[name].to_numpy() for name in ("left", "right", "score", "weight")))


def _tabulate(
    images: pd.DataFrame, left: np.ndarray, right: np.ndarray, score: np.ndarray, weight: np.ndarray
) -> pd.DataFrame:
    """Write pairs of rows of images down; leave out those of one person under two numbers."""
    subject, identity = images["subject"].to_numpy(), images["identity"].to_numpy()
    genuine = identity[left] == identity[right]
    clear = genuine | (subject[left] != subject[right])
    left, right = left[clear], right[clear]
    sides = dict(zip(SIDES, (left, right), strict=True))
    paths = {side: pd.Categorical.from_codes(rows, categories=images["path"]) for side, rows in sides.items()}
    people = {f"{side}_subject": subject[rows] for side, rows in sides.items()}
    facts = {"score": score[clear], "genuine": genuine[clear], "weight": weight[clear]}
    return pd.DataFrame(paths | people | facts)


def keep_tested(pairs: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    """Return the pairs whose two images show test people: without distractors."""
    own = [pairs[side].isin(manifest.test["path"]) for side in SIDES]
    return pairs[own[0] & own[1]]


def has_both(pairs: pd.DataFrame) -> bool:
    """Whether there are genuine and impostor pairs, so that anything can be measured."""
    return 0 < pairs["genuine"].sum() < len(pairs)


def verify(pairs: pd.DataFrame) -> Verification:
    """Measure the error rates of :func:`list_pairs` at every threshold where one of them changes.

    Raises:
        UserError: there is no genuine or no impostor pair.
    """
    genuine = int(pairs["genuine"].sum())
    impostor = len(pairs) - genuine
    if not has_both(pairs):
        raise UserError(f"verification: {len(pairs)} pairs, {genuine} of them genuine; it needs both kinds")
    weight = pairs["weight"]
    fpr, tpr, thresholds = roc_curve(pairs["genuine"], pairs["score"], sample_weight=weight, drop_intermediate=False)
    people = count_people_pairs(pairs)
    tpr_at = {level: explain_lack(level, impostor, people) or float(tpr[fpr <= level].max()) for level in LEVELS}
    lacks = _explain_eer(genuine, impostor, pairs.loc[pairs["genuine"], "query_subject"].nunique(), people)
    return Verification(thresholds, fpr, tpr, find_eer(fpr, tpr), lacks, tpr_at, genuine, impostor)


def count_people_pairs(pairs: pd.DataFrame) -> int:
    """Count the pairs of people that the impostor pairs of :func:`list_pairs` show."""
    sides = np.sort(pairs.loc[~pairs["genuine"], [f"{side}_subject" for side in SIDES]].to_numpy(), axis=1)
    people = pd.factorize(sides.ravel())[0].reshape(-1, 2)
    return len(pd.unique(people[:, 0] * (people.max(initial=0) + 1) + people[:, 1]))


def explain_lack(level: float, impostor: int, people: int, what: str = "impostor pairs") -> str:
    """Say why a false positive rate is not measurable by so many comparisons of so many pairs of people; else nothing.

    Ten errors must be expected at it, and errors of two pairs of people.
    """
    return _lack(impostor, ERRORS_NEEDED / level, what) or _lack(people, PEOPLE_NEEDED / level, "pairs of people")


def _explain_eer(genuine: int, impostor: int, people: int, people_pairs: int) -> str:
    """Say why the EER is not measurable by so many pairs, people with genuine pairs and pairs of people; else nothing.

    At a rate of 10 %, ten errors of either kind must be expected, false positives of two pairs of people, and a false
    negative of one person.
    """
    return (
        _lack(genuine, ERRORS_NEEDED / EER_LEVEL, "genuine pairs")
        or _lack(people, 1 / EER_LEVEL, "people with genuine pairs")
        or explain_lack(EER_LEVEL, impostor, people_pairs)
    )


def _lack(there: int, needed: float, name: str) -> str:
    needed = int(np.ceil(needed - 1e-9))
    return f"not measurable: needs {needed:,} {name}; there are {there:,}" if there < needed else ""


def find_eer(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Return the rate at which false positives and false negatives are equally many.

    ``fpr`` (T,) rises from 0 to 1; ``tpr`` (T,) is the true positive rate at the same thresholds.
    """
    gap = fpr - (1 - tpr)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    before = max(after - 1, 0)
    share = 0.0 if gap[after] == gap[before] else -gap[before] / (gap[after] - gap[before])
    return float(fpr[before] + share * (fpr[after] - fpr[before]))


def find_intervals(pairs: pd.DataFrame, verified: Verification) -> dict[str, tuple[float, float]]:
    """95 % intervals of the EER and of TPR at :data:`LEVELS`, by the Bayesian bootstrap over the test people.

    People are weighed on both sides of a pair: an impostor pair by the product of its two people's weights; whoever is
    never asked for (a distractor) is held as it is. The two pseudo-people of
    :func:`~clipreid_lib.scores.uncertainty.draw_weights` have genuine pairs alone, as many as people have on average.
    Of very many pairs they are those of :func:`thin`.

    Args:
        pairs: of :func:`list_pairs`.
        verified: what :func:`verify` measured of them.

    Returns:
        By ``eer`` and ``tpr_at_fpr_<level>``, lower and upper end of what is measurable; NaN where one person asks.
    """
    levels = [level for level, rate in verified.tpr_at.items() if not isinstance(rate, str)]
    estimates = {f"tpr_at_fpr_{level:g}": verified.tpr_at[level] for level in levels}
    estimates |= {} if verified.eer_lacks else {"eer": verified.eer}
    people = np.unique(pairs["query_subject"])
    if len(people) < 2:
        return dict.fromkeys(estimates, (np.nan, np.nan))
    pairs = thin(pairs)
    size = len(people) + 1  # the last stands for whoever is never asked for
    asked, shown = (pd.Index(people).get_indexer(pairs[f"{side}_subject"]) % size for side in SIDES)
    genuine, score, often = (pairs[name].to_numpy() for name in ("genuine", "score", "weight"))
    # A ROC turns at the scores of genuine pairs alone: just above each of T, and at it. So a pair need only know the
    # first of these 2 T + 1 places that accept it. Tables of places by people, and by pairs of people, add weights up.
    scores, place = np.unique(-score[genuine], return_inverse=True)  # the highest first
    right = sparse.csr_array((often[genuine], (place, asked[genuine])), (len(scores), size))
    place = sum(np.searchsorted(scores, -score[~genuine], side) for side in ("left", "right"))
    meetings, which = np.unique(asked[~genuine] * size + shown[~genuine], return_inverse=True)
    wrong = sparse.csr_array((often[~genuine], (place, which)), (2 * len(scores) + 1, len(meetings)))
    one, other = np.divmod(meetings, size)
    mean = often[genuine].sum() / len(people)  # what the genuine pairs of a pseudo-person weigh
    found: dict[str, list[float]] = {name: [] for name in estimates}
    drawn = len(people) * uncertainty.draw_weights(len(people), RESAMPLES)
    for some in np.array_split(drawn, -(-RESAMPLES // AT_ONCE)):
        weight, (never, always) = np.vstack([some[:, :-2].T, np.ones(len(some))]), some[:, -2:].T  # (P + 1, B), (B,)
        hits = (right @ weight).cumsum(axis=0).repeat(2, axis=0)  # (2 T, B)
        errors = (wrong @ (weight[one] * weight[other])).cumsum(axis=0)  # (2 T + 1, B)
        rates = np.pad(hits, ((1, 0), (0, 0))) + always * mean
        rates /= hits[-1] + (never + always) * mean
        for fpr, tpr in zip((errors / errors[-1]).T, rates.T, strict=True):
            if "eer" in found:
                found["eer"].append(find_eer(fpr, tpr))
            for level in levels:
                found[f"tpr_at_fpr_{level:g}"].append(tpr[max(np.searchsorted(fpr, level, side="right") - 1, 0)])
    return {name: uncertainty.widen(np.array(each), float(estimates[name])) for name, each in found.items()}


def thin(pairs: pd.DataFrame) -> pd.DataFrame:
    """Return pairs with at most :data:`ENOUGH` impostor pairs, which stand for all of them by their weights.

    The most alike half of so many stays, as small rates hang on these; a random part of the others stands for all
    others.
    """
    impostor = np.flatnonzero(~pairs["genuine"])
    if len(impostor) <= ENOUGH:
        return pairs
    ordered = impostor[np.argsort(pairs["score"].to_numpy()[impostor], kind="stable")]
    easy, hard = np.split(ordered, [len(ordered) - ENOUGH // 2])
    kept = np.random.default_rng(0).choice(easy, ENOUGH // 2, replace=False)
    stands_for = np.ones(len(pairs))
    stands_for[kept] = len(easy) / len(kept)
    rows = np.sort(np.concatenate([kept, hard, np.flatnonzero(pairs["genuine"])]))
    return pairs.assign(weight=pairs["weight"] * stands_for).iloc[rows]
