"""Verification: is this pair of photographs one person? Score distributions, ROC, DET, EER, TPR at fixed FPR.

A pair is what a draw compares: a query and a gallery image. Over all draws each pair counts once, whichever of the two
asked, because its cosine is the same. A pair that shows one person under two numbers (protocol mba has people's other
hands among its distractors) is neither genuine nor impostor and takes no part.

ISO/IEC 19795-1 calls the false positive rate of such comparisons false match rate, and the false negative rate false
non-match rate; the equal error rate (EER) is where the two are the same. scikit-learn makes the curves.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores.evaluation import compare_draw
from clipreid_lib.scores.features import Embeddings

LEVELS = (1e-2, 1e-3, 1e-4)  # false positive rates, as face and finger recognition print them
# Errors to expect at a rate before it is called measured. Were they independent, ten would make a standard error of a
# third; those of one person are not, so this is the least that may be asked.
ERRORS_NEEDED = 10
RESAMPLES = 200  # of people, for the EER's interval
ENOUGH = 200_000  # impostor pairs that a resample looks at: more change the interval less than the resampling does


@dataclass(frozen=True)
class Verification:
    """Error rates over all thresholds.

    Attributes:
        thresholds: (T,) falling; a pair is accepted at or above.
        fpr: (T,) false positive rate there.
        tpr: (T,) true positive rate there; 1 - tpr is the false negative rate.
        eer: equal error rate, where false positive and false negative rate cross (linear between thresholds).
        tpr_at: true positive rate at each of :data:`LEVELS`, or why it is not measurable.
        genuine: number of genuine pairs.
        impostor: number of impostor pairs.
    """

    thresholds: np.ndarray
    fpr: np.ndarray
    tpr: np.ndarray
    eer: float
    tpr_at: dict[float, float | str]
    genuine: int
    impostor: int

    @property
    def eer_threshold(self) -> float:
        """The highest threshold at which false positives are at least as many as false negatives."""
        return float(self.thresholds[np.argmax(self.fpr >= 1 - self.tpr)])


def list_pairs(embeddings: Embeddings, manifest: Manifest) -> pd.DataFrame:
    """List every pair that a manifest's draws compare, each once.

    Returns:
        One row per pair: ``query gallery`` (paths), ``query_subject gallery_subject`` (people), ``score`` (cosine),
        ``genuine`` (whether both show one identity).

    Raises:
        UserError: as :func:`~clipreid_lib.scores.evaluation.compare_draw`.
    """
    parts, images = [], manifest.images
    for index in range(manifest.draws):
        query, gallery, similarity = compare_draw(embeddings, manifest, index)
        row, column = np.nonzero(similarity > -np.inf)
        ends = {"query": query.index.to_numpy()[row], "gallery": gallery.index.to_numpy()[column]}
        parts.append(pd.DataFrame(ends | {"score": similarity[row, column]}))
    table = pd.concat(parts, ignore_index=True)
    if manifest.draws > 1:  # within a draw no pair stands twice
        either_way = pd.DataFrame(np.sort(table[["query", "gallery"]].to_numpy(), axis=1))
        table = table[~either_way.duplicated()].reset_index(drop=True)
    identity = [images.loc[table[side], "identity"].to_numpy() for side in ("query", "gallery")]
    for side in ("query", "gallery"):
        table[f"{side}_subject"] = images.loc[table[side], "subject"].to_numpy()
        table[side] = pd.Categorical.from_codes(images.index.get_indexer(table[side]), categories=images["path"])
    table["genuine"] = identity[0] == identity[1]
    clear = table["genuine"] | (table["query_subject"] != table["gallery_subject"])
    return table[clear].reset_index(drop=True)


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
    fpr, tpr, thresholds = roc_curve(pairs["genuine"], pairs["score"], drop_intermediate=False)
    tpr_at: dict[float, float | str] = {}
    for level in LEVELS:
        needed = f"{int(np.ceil(ERRORS_NEEDED / level)):,}"
        enough = level * impostor >= ERRORS_NEEDED
        short = f"not measurable: {impostor:,} of {needed} impostor pairs"
        tpr_at[level] = float(tpr[fpr <= level].max()) if enough else short
    return Verification(thresholds, fpr, tpr, find_eer(fpr, tpr), tpr_at, genuine, impostor)


def rate_at(pairs: pd.DataFrame, threshold: float) -> tuple[float, float]:
    """Return the false positive and false negative rates of some pairs, where a cosine at or above is accepted.

    Returns:
        Two shares in [0, 1]; NaN for a kind of which there is no pair.
    """
    accepted, genuine = pairs["score"] >= threshold, pairs["genuine"]
    return float(accepted[~genuine].mean()), float((~accepted[genuine]).mean())


def find_eer(fpr: np.ndarray, tpr: np.ndarray) -> float:
    """Return the rate at which false positives and false negatives are equally many.

    Args:
        fpr: (T,) rising false positive rate, from 0 to 1.
        tpr: (T,) true positive rate at the same thresholds.
    """
    gap = fpr - (1 - tpr)  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    before = max(after - 1, 0)
    share = 0.0 if gap[after] == gap[before] else -gap[before] / (gap[after] - gap[before])
    return float(fpr[before] + share * (fpr[after] - fpr[before]))


def bootstrap_eer(pairs: pd.DataFrame) -> tuple[float, float]:
    """95 % interval of the EER by bootstrap over the test people, on both sides of a pair.

    A person drawn w times brings a genuine pair w times and meets a person drawn v times in w v impostor pairs; whoever
    is never asked for (a distractor) is held as it is. Beyond :data:`ENOUGH` impostor pairs a random part of them
    stands for all.

    Returns:
        Lower and upper end; NaN twice where nothing can be measured or one person alone asks.
    """
    if not has_both(pairs) or pairs["query_subject"].nunique() < 2:
        return np.nan, np.nan
    random = np.random.default_rng(0)
    impostor = np.flatnonzero(~pairs["genuine"])
    if len(impostor) > ENOUGH:
        kept = random.choice(impostor, ENOUGH, replace=False)
        pairs = pairs.iloc[np.sort(np.append(kept, np.flatnonzero(pairs["genuine"])))]
    pairs = pairs.sort_values("score", ascending=False, kind="stable")
    people, asked = np.unique(pairs["query_subject"], return_inverse=True)
    shown = pd.Index(people).get_indexer(pairs["gallery_subject"])  # -1: never asked for
    genuine = pairs["genuine"].to_numpy()
    score = pairs["score"].to_numpy()
    last = np.append(score[1:] != score[:-1], True)  # thresholds between equal scores do not exist
    asked_right, asked_wrong, shown_wrong = asked[genuine], asked[~genuine], shown[~genuine]
    to_right, to_wrong = (np.cumsum(side)[last] for side in (genuine, ~genuine))  # (T,) pairs down to each threshold
    found = []
    for _ in range(RESAMPLES):
        drawn = np.bincount(random.integers(0, len(people), len(people)), minlength=len(people)).astype(float)
        drawn = np.append(drawn, 1.0)  # the last stands for distractors
        right = np.append(0, np.cumsum(drawn[asked_right]))[to_right]
        wrong = np.append(0, np.cumsum(drawn[asked_wrong] * drawn[shown_wrong]))[to_wrong]
        if right[-1] and wrong[-1]:
            rates = (np.append(0, side / side[-1]) for side in (wrong, right))
            found.append(find_eer(*rates))
    if not found:
        return np.nan, np.nan
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)
