"""Fusion: several runs asked together, over aspects of the hand or over encoders.

A run's ``thresholds.json`` holds a line from a cosine to a log-likelihood ratio (LLR). Where two scores are independent
given whether both sides show one person, their LLRs add. So the fused score is::

    sum over runs of (slope_i * cosine_i + intercept_i)

The sum of ``slope_i * cosine_i`` is the dot product of the runs' unit embeddings, each times the root of its slope,
side by side. All of these have one length, so their cosine ranks as the sum does, and whatever scores embeddings scores
a fusion. Scores of one hand by two encoders are not independent: the sum may be over-confident. Cllr, beside Cllr-min,
says by how much.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.data.protocols import draw_once, name_draw, order_images
from clipreid_lib.scores import calibration, open_set, verification
from clipreid_lib.scores.assessment import Assessment
from clipreid_lib.scores.evaluation import evaluate
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.similarity import scale_to_unit

ACROSS = "common"  # the one protocol whose split of people is the same in all aspects
Line = tuple[float, float]  # slope and intercept: LLR = slope * cosine + intercept


@dataclass(frozen=True)
class Member:
    """A run as fusion needs it.

    Attributes:
        name: the run's id, for messages.
        aspect: that it is tested on.
        manifest: its protocol.
        draw_seed: of its draws.
        seen: the people it has trained on or chosen by.
    """

    name: str
    aspect: str
    manifest: Manifest
    draw_seed: int
    seen: set[int]


@dataclass(frozen=True)
class Questions:
    """What all runs are asked together.

    Attributes:
        manifest: a row is one image, or one image of each aspect.
        parts: (rows) by the row's ``path`` a column for each aspect: the path of its image.
        left_out: how many people ``missing`` in some aspect, people of ``few`` images, and ``images`` in no row.
    """

    manifest: Manifest
    parts: pd.DataFrame
    left_out: dict[str, int] = field(default_factory=dict)

    def take(self, embeddings: Embeddings, aspect: str) -> Embeddings:
        """Return the embeddings of the rows by their image of one aspect, (rows, D).

        Raises:
            UserError: an image has none, or one that is not finite (naming it).
        """
        return Embeddings(self.parts.index.tolist(), embeddings.of(pd.DataFrame({"path": self.parts[aspect]})))


@dataclass(frozen=True)
class Fused(Assessment):
    """All scores of one way to answer the questions, by one embedding.

    Attributes:
        embeddings: that are compared.
        line: from its cosine to its LLR; None where it has none.
    """

    embeddings: Embeddings
    line: Line | None

    @cached_property
    def flat(self) -> dict:
        """Every number; of pairs of test people ``cllr`` and ``cllr_min`` in bits, too, or why there is none."""
        found = {key: value for key, value in self.numbers.items() if key not in ("rows", "templates")}
        pairs = verification.keep_tested(self.pairs, self.manifest)
        if lack := calibration.explain_lack(pairs):
            return found | {"cllr": lack, "cllr_min": lack}
        few = verification.thin(pairs)
        cllr = calibration.find_cllr(self.find_ratio(few["score"]), few) if self.line else "no LLR"
        return found | {"cllr": cllr, "cllr_min": calibration.find_cllr_min(few)}

    def find_ratio(self, score: Any) -> Any:
        """Return the LLR of a cosine, a number or a column of numbers; the cosine itself without a line."""
        slope, intercept = self.line or (1.0, 0.0)
        return slope * score + intercept


def ask_together(members: Sequence[Member]) -> Questions:
    """Make the questions that all runs can be asked.

    Runs of one aspect must be tested alike; the questions are theirs. Over aspects, a person's images of each aspect
    are put in an order by chance, and those at one place are joined: as many as the aspect with the fewest has, so no
    image is asked twice. Whoever has fewer than two is left out.

    Raises:
        UserError: runs of one aspect are tested otherwise; runs of different aspects have other protocols than
            ``common``, other data sets or other draws, or one is of several aspects itself; a run has seen people whom
            another tests; fewer than two people are left.
    """
    first: dict[str, Member] = {}
    for each in members:
        _require_same("dataset", members[0], members[0].manifest.dataset, each, each.manifest.dataset)
        before = first.setdefault(each.aspect, each)
        if each.manifest.compared_sha != before.manifest.compared_sha:
            keys = "protocol, draw_seed and draws must be the same"
            raise UserError(f"{each.name}: asks other questions of {each.aspect} than {before.name}; {keys}")
    for each in members if len(first) > 1 else ():
        if each.manifest.protocol != ACROSS:
            hint = f"several aspects are fused under {ACROSS} alone: --set protocol={ACROSS}"
            raise UserError(f"{each.name}: protocol: {each.manifest.protocol}; {hint}")
        if each.manifest.test["aspect"].nunique() > 1:
            told = "is of several aspects itself; fuse it with runs of the same aspects"
            raise UserError(f"{each.name}: aspect: {each.aspect} {told}")
        _require_same("draw_seed", members[0], members[0].draw_seed, each, each.draw_seed)
        _require_same("draws", members[0], members[0].manifest.draws, each, each.manifest.draws)
    for each, other in product(members, repeat=2):
        if shared := each.seen & set(other.manifest.test["subject"]):
            who = f"{len(shared)} of the people that {other.name} tests, the first is {min(shared)}"
            raise UserError(f"{each.name}: has trained on {who}; fuse runs of one split of people")
    if len(first) > 1:
        return _join_images(list(first.values()))
    paths = members[0].manifest.in_tests["path"].to_numpy()
    return Questions(members[0].manifest, pd.DataFrame({members[0].aspect: paths}, index=paths))


def _require_same(key: str, one: Member, wanted: object, other: Member, found: object) -> None:
    if found != wanted:
        raise UserError(f"{other.name}: {key}: {found}, but {wanted} in {one.name}; it must be the same")


def _join_images(members: Sequence[Member]) -> Questions:
    """Join the images of every person tested in all aspects; a member stands for each aspect."""
    seed, tested, ordered = members[0].draw_seed, [], {}
    for each in members:
        images = each.manifest.images
        images = images[images["role"].isin(["test", "unpaired"])]  # who has one image alone is counted below
        images = images.iloc[order_images(images["path"], f"{seed}|fused")]
        place = images.groupby("identity").cumcount()
        ordered[each.aspect] = images.set_index(["identity", place])["path"]
        tested.append(images)
    joined, everybody = pd.concat(ordered, axis=1, join="inner").sort_index(), pd.concat(tested)
    number = joined.groupby(level=0).transform("size")  # of a person's rows
    kept = joined[number > 1]
    people = kept.index.get_level_values(0)
    left_out = {
        "missing": everybody["identity"].nunique() - joined.index.unique(0).size,
        "few": int((number == 1).sum()),
        "images": int(everybody["identity"].isin(people).sum()) - kept.size,
    }
    if people.nunique() < 2:
        told = f"{left_out['missing']} people are missing in an aspect, {left_out['few']} have one image alone in one"
        raise UserError(f"fuse: fewer than two people are left to be told apart; {told}")
    paths = kept.agg(" + ".join, axis=1).to_numpy()
    facts = {"dataset": members[0].manifest.dataset, "protocol": ACROSS, "role": "test", "subject": people}
    table = pd.DataFrame(facts | {"path": paths, "identity": people, "aspect": "+".join(ordered)})
    if "name" in everybody:
        table["name"] = people.map(everybody.drop_duplicates("identity").set_index("identity")["name"])
    for index in range(members[0].manifest.draws):
        table[f"draw_{index}"] = draw_once(table, name_draw(seed, index), ACROSS)
    return Questions(Manifest(table).check("the joined images"), kept.set_index(paths), left_out)


def join(embeddings: Sequence[Embeddings], weights: Sequence[float]) -> Embeddings:
    """Put embeddings of the same rows side by side, (rows, sum of D), so that their cosine is a mean of the cosines.

    Args:
        embeddings: of the same rows, in one order.
        weights: positive, of each one's cosine.

    Raises:
        UserError: an embedding has no length (naming its row).
    """
    sides = []
    for each, weight in zip(embeddings, weights, strict=True):
        unit = scale_to_unit(each.values.numpy())
        if not (there := unit.any(axis=1)).all():
            raise UserError(f"{each.paths[int(np.argmin(there))]}: its embedding is zero; it has no direction to fuse")
        sides.append(np.sqrt(weight / sum(weights)) * unit)
    joined = torch.from_numpy(np.concatenate(sides, axis=1)).float()  # as fine as every run's
    return Embeddings(embeddings[0].paths, joined)


def fuse(embeddings: Sequence[Embeddings], lines: Sequence[Line], questions: Questions) -> dict[str, Fused]:
    """Score the sum of LLRs and the mean of cosines of runs on the same questions.

    Args:
        embeddings: of each run, from :meth:`Questions.take`.
        lines: from each run's cosine to its LLR; slopes are positive.
        questions: that all are asked.

    Raises:
        UserError: as :func:`join` and :func:`~clipreid_lib.scores.evaluation.evaluate`.
    """
    slopes, intercepts = zip(*lines, strict=True)
    # The cosine of what is joined is the mean of the cosines, weighed by the slopes: times their sum it is their sum.
    added = measure(join(embeddings, slopes), questions.manifest, (sum(slopes), sum(intercepts)))
    mean = measure(join(embeddings, [1.0] * len(lines)), questions.manifest)
    return {"sum of LLRs": added, "mean of cosines": mean}


def measure(embeddings: Embeddings, manifest: Manifest, line: Line | None = None) -> Fused:
    """Score embeddings: identification, verification, open set; raises as ``evaluate``."""
    pairs = verification.list_pairs(embeddings, manifest)
    scores, searched = {"cosine": evaluate(embeddings, manifest)}, open_set.search(embeddings, manifest)
    return Fused(manifest, scores, pairs, verification.verify(pairs), searched, [], 0.0, embeddings, line)
