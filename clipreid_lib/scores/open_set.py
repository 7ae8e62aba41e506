"""Open-set identification: is this person enrolled at all, and if so, who is it?

As NIST's FRVT 1:N reports count it (NISTIR 8271): a search with a threshold fails in two ways. FPIR is the share of
**non-mated** searches (people who are not enrolled) that return anybody above the threshold; FNIR is the share of
mated searches whose mate is not returned at rank 1 above it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import uncertainty
from clipreid_lib.scores.evaluation import compare_draw
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.verification import explain_lack

LEVELS = (0.01, 0.1)  # false positive identification rates


@dataclass(frozen=True)
class OpenSet:
    """All searches of all draws.

    Attributes:
        mated: one row per search for somebody enrolled: ``path identity``, ``score`` of the mate where it stands
            at rank 1 (ties count against it), -inf where it does not.
        non_mated: one row per search for somebody who is not: ``path identity``, ``score`` of the best gallery image.
        enrolled: people enrolled at a time, the fewest and the most.
    """

    mated: pd.DataFrame
    non_mated: pd.DataFrame
    enrolled: tuple[int, int]

    def threshold(self, fpir: float) -> float:
        """Return the threshold that a score must exceed so that at most this share of non-mated searches do."""
        scores = np.sort(self.non_mated["score"])[::-1]
        return float(scores[min(int(fpir * len(scores)), len(scores) - 1)])

    def explain_lack(self, fpir: float) -> str:
        """Say why so few searches for strangers support a rate; nothing where they do.

        Ten images must be expected as false positives, and two pairs of people. Images count, not searches: another
        draw's search for the same image is hardly another trial.
        """
        images, strangers = (self.non_mated[name].nunique() for name in ("path", "identity"))
        return explain_lack(fpir, images, strangers * self.enrolled[0], "images of strangers")

    def find_fnir(self, fpir: float) -> tuple[float | str, float | None, float | None]:
        """FNIR at that FPIR, rank 1, with its 95 % interval over enrolled people, the threshold held.

        The sentence of :meth:`explain_lack` stands for it where too few searches support it.
        """
        if lacks := self.explain_lack(fpir):
            return lacks, None, None
        missed = self.mated["score"] <= self.threshold(fpir)
        return uncertainty.estimate_mean(missed, self.mated["identity"])


def search(embeddings: Embeddings, manifest: Manifest) -> OpenSet:
    """Search every draw twice: with one random half of the test people enrolled, then with the other.

    All images of whoever is not enrolled leave the gallery, those of their other hands too; other distractors stay. So
    each query is searched for once with its person enrolled and once without, with half of the test people enrolled.

    Raises:
        UserError: as :func:`~clipreid_lib.scores.evaluation.compare_draw`.
    """
    return search_draws(compare_draw(embeddings, manifest, index) for index in range(manifest.draws))


def search_draws(draws: Iterable[tuple[pd.DataFrame, pd.DataFrame, np.ndarray]]) -> OpenSet:
    """Search draws as :func:`search` does, each given as query table, gallery table and their (Q, G) similarity."""
    mated, non_mated = [], []
    for index, (query, gallery, similarity) in enumerate(draws):
        people = np.unique(query["identity"])
        order = sorted(people, key=lambda person: stable_seed("enrolled", index, person))
        half = len(order) // 2
        asked, shown = query["identity"].to_numpy(), gallery["identity"].to_numpy()
        subject = gallery["subject"].to_numpy()
        for absent in (order[:half], order[half:]):
            there = np.where(np.isin(subject, absent), -np.inf, similarity)  # (Q, G)
            same = asked[:, None] == shown
            mate = np.where(same, there, -np.inf).max(axis=1)
            best_other = np.where(same, -np.inf, there).max(axis=1)
            missing = np.isin(asked, absent)
            searches = query[["path", "identity"]]
            mated.append(searches.assign(score=np.where(mate > best_other, mate, -np.inf))[~missing])
            non_mated.append(searches.assign(score=best_other)[missing])
    enrolled = len(people) // 2, len(people) - len(people) // 2
    return OpenSet(pd.concat(mated, ignore_index=True), pd.concat(non_mated, ignore_index=True), enrolled)
