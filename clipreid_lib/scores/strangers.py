"""Searches for strangers, and from them thresholds: how similar the best must be before somebody is called found.

A search for a stranger asks with an image of a person whom the gallery lacks; FPIR is the share of these searches that
return anybody above the threshold, as in :mod:`~clipreid_lib.scores.open_set`. Here every query of every draw is such a
search: its own person leaves the gallery, all others of the same part stay. Distractors are left out. Most show another
side of the hand and are easily told apart, so a threshold learned with them would promise too much.

The best score of a search grows with the people enrolled. A rate learned from few people is therefore found on others
with as few enrolled: over every choice of so many of them, counted and not drawn.

A gallery that somebody has enrolled is searched for its own images in the same way, draws aside.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.stats import hypergeom

from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import uncertainty
from clipreid_lib.scores.enrolled import Gallery
from clipreid_lib.scores.evaluation import compare_draw
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.open_set import OpenSet
from clipreid_lib.scores.thresholds import RATES, TEST, VALIDATION
from clipreid_lib.scores.verification import ERRORS_NEEDED

MOST = 2000  # images of a gallery that ask it, where a rate needs no more
AT_ONCE = 50_000_000  # scores of them in memory: 200 MB


def take_people(manifest: Manifest, role: str) -> Manifest:
    """Return the manifest of a test of the people of one role among themselves, without distractors."""
    return Manifest(manifest.images[manifest.images["role"] == role].assign(role=TEST))


def learn(test: Embeddings, held_out: Embeddings | None, manifest: Manifest) -> dict:
    """Learn thresholds from the validation people where they support any rate, else from the test people themselves.

    Args:
        test: embeddings of the test images.
        held_out: embeddings of the validation people's images; None where nobody is held out.
        manifest: the run's protocol.

    Returns:
        ``people``, ``validation`` or ``test``; ``persons`` of them; ``enrolled``, people in the gallery searched;
        ``why`` validation people were passed over, empty where they were not. ``rates``, one for each of
        :data:`RATES`: ``fpir``, ``threshold`` that a score must exceed, ``found``, the FPIR on the test people, its
        95 % ``interval`` over them, and ``searches``, the images of strangers it was learned from. Where these are too
        few, the threshold is None and ``why`` says so. ``found_on``: how many test people, and how many enrolled.

    Raises:
        UserError: as :func:`~clipreid_lib.scores.evaluation.compare_draw`.
    """
    role, why, tested = TEST, "", take_people(manifest, TEST)
    searches = list(_search(test, tested))
    searched = _join(searches, tested)
    if held_out is not None:
        others = take_people(manifest, VALIDATION)
        apart = _join(_search(held_out, others), others)
        why = apart.explain_lack(max(RATES))
        role, searched = (role, searched) if why else (VALIDATION, apart)
    lacks = {rate: searched.explain_lack(rate) for rate in RATES}
    thresholds = {rate: searched.threshold(rate) for rate, lack in lacks.items() if not lack}
    enrolled = min(searched.enrolled[0], tested.test["identity"].nunique() - 1)
    asked = [_count_exceeding(*each, thresholds, enrolled) for each in searches] if thresholds else []
    found = pd.concat(asked, ignore_index=True) if asked else pd.DataFrame()
    rates = []
    for rate, lack in lacks.items():
        facts: dict[str, Any] = {"fpir": rate, "threshold": thresholds.get(rate), "found": None, "interval": None}
        if not lack:
            ends = uncertainty.find_interval(found[rate], found["identity"])
            facts |= {"found": float(found[rate].mean()), "interval": list(ends)}
        rates.append(facts | {"searches": int(searched.non_mated["path"].nunique())} | ({"why": lack} if lack else {}))
    persons = {"persons": int(searched.non_mated["identity"].nunique()), "enrolled": searched.enrolled[0]}
    on = {"persons": int(tested.test["identity"].nunique()), "enrolled": enrolled}
    return {"people": role, **persons, "why": why, "found_on": on, "rates": rates}


def search_enrolled(gallery: Gallery, fpir: float) -> OpenSet:
    """Search an enrolled gallery for its own images, each taken out in turn, with its person enrolled and without.

    A person's score is that of their most similar image, as whoever asks the gallery has it. So a threshold of these
    searches holds for as many images of each person as there are. Of a large gallery :data:`MOST` images ask, chosen at
    random, or twice as many as the rate ``fpir`` needs. Cosines are taken in float32, which is fine enough for a
    threshold. The gallery keeps the searches.

    Returns:
        The searches; mated ones are of images whose person has others.
    """
    number = min(len(gallery), max(MOST, round(2 * ERRORS_NEEDED / fpir)))
    if number in gallery.searched:
        return gallery.searched[number]
    rows = np.sort(np.random.default_rng(0).choice(len(gallery), number, replace=False))
    mated, strangers = [], []
    for some in np.array_split(rows, -(-len(rows) * len(gallery) // AT_ONCE)):
        alike = (gallery.embeddings[torch.from_numpy(some)] @ gallery.embeddings.T).numpy()  # (B, N)
        place, mine = np.arange(len(some)), gallery.person[some]
        alike[place, some] = -np.inf
        _, best = _take_best(alike, gallery.person)  # (B, P)
        own = best[place, mine].copy()
        best[place, mine] = -np.inf
        other = best.max(axis=1)
        asked = pd.DataFrame({"path": gallery.table["path"].iloc[some], "identity": gallery.people[some]})
        mated.append(asked.assign(score=np.where(own > other, own, -np.inf))[own > -np.inf])
        strangers.append(asked.assign(score=other))
    others = len(gallery.names) - 1
    gallery.searched[number] = OpenSet(pd.concat(mated), pd.concat(strangers, ignore_index=True), (others, others))
    return gallery.searched[number]


def _search(embeddings: Embeddings, people: Manifest) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Search for the queries of each draw: yield them, and each person's best score, (Q, P), -inf for their own."""
    for index in range(people.draws):
        query, gallery, alike = compare_draw(embeddings, people, index)
        shown, best = _take_best(alike, gallery["identity"].to_numpy())
        yield query[["path", "identity"]], np.where(query["identity"].to_numpy()[:, None] == shown, -np.inf, best)


def _take_best(alike: np.ndarray, people: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the people of (N,) images, sorted, and of (Q, N) scores each one's best, (Q, P)."""
    order = np.argsort(people, kind="stable")
    shown, first = np.unique(people[order], return_index=True)
    return shown, np.maximum.reduceat(alike[:, order], first, axis=1)


def _join(searches: Iterable[tuple[pd.DataFrame, np.ndarray]], people: Manifest) -> OpenSet:
    best = [asked.assign(score=scores.max(axis=1)) for asked, scores in searches]
    strangers = pd.concat(best, ignore_index=True)
    return OpenSet(strangers.iloc[:0], strangers, 2 * (int(people.test["identity"].nunique()) - 1,))


def _count_exceeding(
    asked: pd.DataFrame, scores: np.ndarray, thresholds: dict[float, float], enrolled: int
) -> pd.DataFrame:
    """Add, by rate, the share of choices of so many enrolled people in which somebody exceeds its threshold."""
    above = {rate: (scores > threshold).sum(axis=1) for rate, threshold in thresholds.items()}  # people, (Q,)
    others = scores.shape[1] - 1
    none = {rate: hypergeom.pmf(0, others, people, enrolled) for rate, people in above.items()}
    return asked.join(pd.DataFrame({rate: np.clip(1 - share, 0, 1) for rate, share in none.items()}, asked.index))
