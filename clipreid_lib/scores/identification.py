"""Identification: who of a gallery an unknown person is most like, and whether that is enough to say a name.

A person's score is that of their most similar image. Several photographs of one unknown person give each enrolled
person the mean of the photographs' scores.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.scores.enrolled import Gallery
from clipreid_lib.scores.score_names import format_score, name_interval
from clipreid_lib.scores.thresholds import RATES, VALIDATION

AT_ONCE = 16  # photographs compared with the whole gallery at once: 64 MB of scores with a million images
ITSELF = 1 - 1e-5  # a photograph of this score is an enrolled file, or a copy of one


class Bar(NamedTuple):
    """What the best score of a search must exceed before a name is said.

    Attributes:
        fpir: share of searches for strangers that may exceed it.
        threshold: cosine; None where there is none.
        why: there is none.
        notes: what to know about it, a sentence each.
        line: slope and intercept of the log-likelihood ratio over the cosine; None where it was not learned.
        bounds: the lowest and the highest that so many people support.
        most: share that may exceed it where more are enrolled than when it was learned; None where no more are.
    """

    fpir: float
    threshold: float | None
    why: str = ""
    notes: tuple[str, ...] = ()
    line: tuple[float, float] | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    most: float | None = None


@dataclass(frozen=True)
class Search:
    """One unknown person, and whom they are like.

    Attributes:
        asked: names of the photographs that ask, without folders.
        people: the most similar people, best first: ``rank person score``, ``llr`` where one was learned, ``image``
            (the most similar one's path), ``row`` of it in the gallery, and ``photograph``, the place in ``asked`` of
            the photograph it is most similar to.
        found: who it is; None where nobody is similar enough, or no threshold can tell.
        verdict: the same in words.
        notes: what else to know about this search, a sentence each.
    """

    asked: tuple[str, ...]
    people: pd.DataFrame
    found: str | None
    verdict: str
    notes: tuple[str, ...] = ()


def set_bar(learned: dict | None, checkpoint: str, fpir: float, gallery: Gallery, name: str) -> Bar:
    """Choose the threshold of a rate.

    A run learns thresholds with one image of each person. Where a gallery has several, the best of them is higher, for
    strangers too. So such a gallery's threshold is learned from its own images, if they are enough for the rate.

    Args:
        learned: what notebook 04 learned; None where it has learned nothing.
        checkpoint: that will be used.
        fpir: the share of searches for strangers that may name somebody: one of ``RATES``.
        gallery: that will be searched.
        name: of the run, or of the frozen backbone.

    Raises:
        UserError: there are no thresholds for such a rate.
    """
    if not 0 < fpir < 1:
        raise UserError(f"fpir: {fpir:g} is no share of searches; give one such as 0.01, which is 1 %")
    rate = next((each for each in RATES if math.isclose(each, fpir, rel_tol=1e-6)), None)
    if rate is None:
        raise UserError(f"fpir: {fpir:g} has no threshold; there are some for {', '.join(f'{r:g}' for r in RATES)}")
    mine = learned if learned and learned["checkpoint"] == checkpoint else None
    known = _read_bar(mine, rate, gallery, name) if mine else None
    if len(gallery) > len(gallery.names):
        own = _learn_bar(gallery, rate)
        if known is None:
            return own
        if own.threshold is not None or known.threshold is None:
            return own._replace(line=known.line, bounds=known.bounds)
    if known is None:
        why = f"the thresholds of {name} are of another checkpoint; notebook 04 learns them again"
        return Bar(rate, None, why if learned else f"{name} has no thresholds; notebook 04 of a run learns them")
    return known


def _read_bar(learned: dict, fpir: float, gallery: Gallery, name: str) -> Bar:
    """Read a run's threshold, and say what it is worth for so many images enrolled."""
    ratio = learned["calibration"]
    line = None if ratio["slope"] is None else (ratio["slope"], ratio["intercept"])
    bounds = tuple(ratio.get("bounds") or (-math.inf, math.inf))
    rates = {rate["fpir"]: rate for rate in learned["rates"]}
    rate = rates.get(fpir) or {"threshold": None, "why": "it was not learned"}
    if rate["threshold"] is None:
        least = min((each for each in rates if rates[each]["threshold"] is not None), default=None)
        why = f"{name} supports no threshold for {_share(fpir)}, {rate['why']}{_offer(least)}"
        return Bar(fpir, None, why, line=line, bounds=bounds)
    persons, others, enrolled = learned["persons"], learned["enrolled"], len(gallery)
    whose = "validation people" if learned["people"] == VALIDATION else "of the very people the run is tested on"
    notes = [f"The threshold was learned from {persons} {whose}, each searched for among {others} enrolled."]
    most = min(1.0, fpir * enrolled / others)
    if more := enrolled > others and _share(most) != _share(fpir):
        what = "people" if enrolled == len(gallery.names) else "photographs"
        notes.append(f"There at most {_share(fpir)} exceeded it. Here {enrolled:,} {what} are enrolled, so more may.")
    return Bar(fpir, rate["threshold"], "", tuple(notes), line, bounds, most if more else None)


def _learn_bar(gallery: Gallery, fpir: float) -> Bar:
    """Learn the threshold from the gallery's own images, each searched for without its person."""
    from clipreid_lib.scores.strangers import search_enrolled  # here: it loads scikit-learn

    searched = search_enrolled(gallery, fpir)
    if lack := searched.explain_lack(fpir):
        larger = [rate for rate in RATES if rate > fpir and not search_enrolled(gallery, rate).explain_lack(rate)]
        least = min(larger, default=None)
        return Bar(fpir, None, f"the gallery supports no threshold for {_share(fpir)}, {lack}{_offer(least)}")
    asked, others = len(searched.non_mated), searched.enrolled[0]
    told = f"The threshold was learned from the gallery: {asked:,} of its photographs, each searched for among the "
    notes = [f"{told}{others:,} other people. Photographs of another kind may exceed it more often."]
    if len(searched.mated):
        found = name_interval("fnir", searched.find_fnir(fpir))
        notes.append(
            f"Of its photographs whose person has others enrolled, {format_score(found, 'fnir')} % get no name, or a "
            "wrong one, at this threshold; photographs of another day may do worse."
        )
    return Bar(fpir, searched.threshold(fpir), "", tuple(notes))


def _offer(fpir: float | None) -> str:
    return f"; --fpir {fpir:g} has one" if fpir else ""


def search(
    gallery: Gallery, asked: Sequence[str], embeddings: torch.Tensor, bar: Bar, top: int, together: bool
) -> list[Search]:
    """Search a gallery.

    Args:
        gallery: with at least one image.
        asked: names of the photographs.
        embeddings: theirs, (Q, D).
        bar: what a score must exceed.
        top: people to return, at most.
        together: all photographs show one unknown person; else each shows one.

    Returns:
        One search per unknown person.
    """
    best = []
    for start in range(0, len(asked), AT_ONCE):
        for alike in gallery.compare(embeddings[start : start + AT_ONCE]):
            best.append(np.full(len(gallery.names), -np.inf, np.float32))
            np.maximum.at(best[-1], gallery.person, alike)
    if together:
        return [_rank(gallery, np.mean(best, axis=0), asked, embeddings, bar, top)]
    each = zip(best, asked, embeddings, strict=True)
    return [_rank(gallery, scores, [name], embedding[None], bar, top) for scores, name, embedding in each]


def _rank(
    gallery: Gallery, scores: np.ndarray, asked: Sequence[str], embeddings: torch.Tensor, bar: Bar, top: int
) -> Search:
    """Rank people by their scores (P,), on equal ones by name, and judge the first."""
    names = gallery.names
    order = np.argsort(-scores, kind="stable")[:top]
    people = pd.DataFrame({"rank": range(1, len(order) + 1), "person": names[order], "score": scores[order]})
    if bar.line and len(asked) == 1:  # learned from pairs of images
        people["llr"] = (bar.line[0] * people["score"] + bar.line[1]).clip(*bar.bounds)
    pairs = [_find_pair(gallery, place, embeddings) for place in order]
    people["photograph"], people["row"] = zip(*pairs, strict=True)
    people["image"] = gallery.table["path"].iloc[people["row"]].to_numpy()
    first = names[scores == scores[order[0]]]
    best, who = float(scores[order[0]]), " or ".join(first)
    limit = "" if bar.threshold is None else f"{bar.threshold:.4f}, which {_tell(bar)}"
    found = None
    if bar.threshold is None:
        verdict = f"ranks only: {bar.why}"
    elif best <= bar.threshold:
        verdict = f"no name: the best score, {best:.4f} ({who}), is not above {limit}"
    else:
        verdict = f"{who}: the score, {best:.4f}, is above {limit}"
        found = who if len(first) == 1 else None
    notes = [f"{asked[0]} is enrolled itself, or a copy of it is."] if len(asked) == 1 and best > ITSELF else []
    above = 0 if bar.threshold is None else int((scores > bar.threshold).sum())
    if above > 1:
        notes.append(f"{above:,} people are above the threshold; the verdict names the first.")
    return Search(tuple(asked), people, found, verdict, tuple(notes))


def _find_pair(gallery: Gallery, place: int, embeddings: torch.Tensor) -> tuple[int, int]:
    """Return which of the photographs (Q, D), and which row of a person's, are the most similar two."""
    rows = np.flatnonzero(gallery.person == place)
    alike = embeddings.numpy() @ gallery.embeddings[torch.from_numpy(rows)].numpy().T  # (Q, rows)
    photograph, found = np.unravel_index(alike.argmax(), alike.shape)
    return int(photograph), int(rows[found])


def _tell(bar: Bar) -> str:
    if bar.most is not None:
        return f"up to {_share(bar.most)} of searches for strangers may exceed"
    return f"at most {_share(bar.fpir)} of searches for strangers exceeded"


def _share(share: float) -> str:
    return f"{100 * share:g} %" if share < 0.1 else f"{100 * share:.0f} %"
