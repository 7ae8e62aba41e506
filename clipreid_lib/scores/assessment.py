"""Assessment: everything notebook 04 measures under each protocol that may test what a run has trained."""

import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.data import protocols
from clipreid_lib.data.manifest import PROTOCOLS, Manifest
from clipreid_lib.params.run_params import Params
from clipreid_lib.scores import open_set, subgroups, templates, verification
from clipreid_lib.scores.evaluation import Evaluation, evaluate
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.open_set import OpenSet
from clipreid_lib.scores.score_names import (
    COUNTS,
    EACH_PERSON,
    IN_DRAWS,
    SHOWN,
    VOTES,
    format_score,
    format_share,
    name_interval,
    name_rates,
    name_score,
    replace_nan,
)
from clipreid_lib.scores.verification import Verification


@dataclass(frozen=True)
class Assessment:
    """All scores under one protocol.

    Attributes:
        manifest: the protocol.
        scores: identification by row of the table; the first is the run's own embedding by cosine similarity.
        pairs: by the first embedding, from :func:`~clipreid_lib.scores.verification.list_pairs`.
        verified: error rates of those pairs.
        searched: open-set searches, by the first embedding.
        several: what several images of a person give, by the first embedding, if it is asked here; rows of
            :func:`~clipreid_lib.scores.templates.measure_all`.
        seconds: it took.
    """

    manifest: Manifest
    scores: dict[str, Evaluation]
    pairs: pd.DataFrame
    verified: Verification
    searched: OpenSet
    several: list[dict[str, Any]]
    seconds: float

    @property
    def own(self) -> Evaluation:
        """Identification by the run's own embedding."""
        return next(iter(self.scores.values()))

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals over people of every identification score, of ``eer`` and of TPR."""
        return self.own.intervals() | verification.find_intervals(self.pairs, self.verified)

    @cached_property
    def groups(self) -> pd.DataFrame:
        """Score subgroups of the test people; see :func:`clipreid_lib.scores.subgroups.score_groups`."""
        return subgroups.score_groups(self.own, self.pairs, self.manifest, self.verified.thresholds_at)

    @cached_property
    def numbers(self) -> dict:
        """Every number of the first embedding, flat, and the other rows' under ``rows``; None stands for NaN."""
        verified, searched = self.verified, self.searched
        found: dict[str, Any] = {"protocol": self.manifest.protocol, "over": self.own.over}
        found |= count_test(self.manifest) | {"unmatched": int(self.own.per_draw["unmatched"].iloc[0])}
        found |= self.own.summary() | {"eer": verified.eer_lacks or verified.eer}
        found |= {f"tpr_at_fpr_{level:g}": rate for level, rate in verified.tpr_at.items()}
        for score, ends in self.intervals.items():
            found |= {f"{score}_low": ends[0], f"{score}_high": ends[1]}
        found |= {"genuine_pairs": verified.genuine, "impostor_pairs": verified.impostor}
        for level in open_set.LEVELS:
            found |= name_interval(f"fnir_at_fpir_{level:g}", searched.find_fnir(level))
        found["enrolled"] = " or ".join(dict.fromkeys(map(str, searched.enrolled)))
        found["cmc"] = [float(share) for share in self.own.cmc]
        found |= {"manifest_sha": self.manifest.sha, "compared_sha": self.manifest.compared_sha}
        found["rows"] = {name: {"over": each.over} | each.summary() for name, each in self.scores.items()}
        found["templates"] = self.several
        return replace_nan(found)


def choose_protocols(
    table: pd.DataFrame, own: Manifest, params: Params, seen: set[int]
) -> tuple[dict[str, Manifest], dict[str, str]]:
    """Build the manifest of every protocol that tests nobody used in the run's training.

    Args:
        table: the data set's image table; ``attrs`` may name images without features as ``featureless``.
        own: the manifest the run was trained under.
        params: of the run.
        seen: the people used in its training, validation included.

    Returns:
        Manifests by protocol, the run's own first, and for every other protocol the reason why it is left out. A run of
        several aspects is tested under its own protocol by each of them alone, ``common, dorsal_r``.
    """
    fit: dict[str, Manifest] = {params.protocol: own}
    unfit: dict[str, str] = {}
    asked = {name: (name, params.aspect) for name in PROTOCOLS}
    if len(aspects := protocols.split_aspects(params.aspect, set(table["aspect"]))) > 1:
        asked = {f"{params.protocol}, {each}": (params.protocol, each) for each in aspects}
    for name, (protocol, aspect) in asked.items():
        if name in fit:
            continue
        draws = {"seed": params.draw_seed, "draws": params.draws}
        try:
            other = protocols.build(table, protocol, aspect, validation="none", **draws)
        except UserError as error:
            unfit[name] = str(error).removeprefix("protocol: ")
            continue
        shared = seen & set(other.test["subject"])
        lacking = other.in_tests["path"][other.in_tests["path"].isin(table.attrs.get("featureless", []))]
        twin = next((mine for mine, each in fit.items() if each.compared_sha == other.compared_sha), None)
        if shared:
            verb = "was" if len(shared) == 1 else "were"
            unfit[name] = f"{len(shared)} of its test people {verb} used in training"
        elif twin:
            unfit[name] = f"it compares the same images as {twin}"
        elif len(lacking):
            unfit[name] = f"{counted(len(lacking), 'image')} of it have no features, the first is {lacking.iloc[0]}"
        else:
            fit[name] = other
    return fit, unfit


def count_test(manifest: Manifest) -> dict[str, int]:
    """Count whom a protocol tests, and how much draw 0 compares."""
    query, gallery = manifest.draw(0)
    distractors = gallery[gallery["role"] == "distractor"]
    return {
        "draws": manifest.draws,
        "identities": int(manifest.test["identity"].nunique()),
        "queries": len(query),
        "gallery": len(gallery),
        "distractors": len(distractors),
        "own_other_aspects": int(distractors["subject"].isin(manifest.test["subject"]).sum()),
    }


def assess(embeddings: dict[str, Embeddings], manifest: Manifest, params: Params) -> Assessment:
    """Score embeddings under one protocol: identification, verification, open set, templates.

    Args:
        embeddings: by row of the table; of at least all images that are tested. The first is the run's own and is also
            compared by k-reciprocal re-ranking and by alpha query expansion.
        manifest: the protocol.
        params: of the run: neighbours of re-ranking, images per template, the seed of the draws.

    Returns:
        All scores. The rows of identification are the first embedding's, the same re-ranked and with expanded queries,
        and then the other embeddings'.

    Raises:
        UserError: as :func:`~clipreid_lib.scores.evaluation.evaluate`.
    """
    began = time.perf_counter()
    name, own = next(iter(embeddings.items()))
    scores = {name: evaluate(own, manifest)}
    neighbours = params.rerank_k1, params.rerank_k2
    for how in ("re-ranked", "expanded"):
        scores[f"{name}, {how}"] = evaluate(own, manifest, how=how, neighbours=neighbours)
    scores |= {other: evaluate(each, manifest) for other, each in embeddings.items() if other != name}
    pairs = verification.list_pairs(own, manifest)
    verified, searched = verification.verify(pairs), open_set.search(own, manifest)
    several = templates.measure_all(own, manifest, params)
    return Assessment(manifest, scores, pairs, verified, searched, several, time.perf_counter() - began)


def tabulate_own(evaluation: Evaluation) -> pd.DataFrame:
    """Return one embedding's scores in per cent, a row per way to take the mean; see ``definitions.yaml``."""
    scores, drawn = evaluation.summary(), f"as papers print, {counted(len(evaluation.per_draw), 'draw')}"
    for score, ends in evaluation.intervals().items():
        scores |= {f"{score}_low": ends[0], f"{score}_high": ends[1]}
    ways = {f"{evaluation.over}, one vote per query": "", f"{evaluation.over}, one vote per person": EACH_PERSON}
    ways[drawn] = IN_DRAWS
    rows = {
        way: {shown: format_score(scores, f"{key}{end}") for key, shown in SHOWN.items()} for way, end in ways.items()
    }
    return pd.DataFrame(rows).T


def tabulate_rows(scores: dict[str, Evaluation]) -> pd.DataFrame:
    """Return the scores of several embeddings in per cent, one row each; two columns give every person one vote."""
    rows = {}
    for name, each in scores.items():
        found = each.summary()
        rows[name] = {"mean over": each.over} | {shown: format_share(found[key]) for key, shown in SHOWN.items()}
        rows[name] |= {name_score(key): format_share(found[key]) for key in VOTES}
    return pd.DataFrame(rows).T


def tabulate_protocols(assessments: dict[str, Assessment]) -> pd.DataFrame:
    """Return the run's own scores, a column per protocol, in per cent [95 % interval]; draws as mean ± deviation."""
    columns = {}
    keys = [*SHOWN, *VOTES, *(f"{score}{IN_DRAWS}" for score in ("rank1", "map")), "eer"]
    for protocol, each in assessments.items():
        shown = {name_score(key): format_score(each.numbers, key) for key in keys}
        counts = ("queries", "gallery", "distractors", "own_other_aspects")
        columns[protocol] = (
            {COUNTS[name]: str(each.numbers[name]) for name in counts} | {"mean over": each.own.over} | shown
        )
    return pd.DataFrame(columns)


def tabulate_errors(assessments: dict[str, Assessment]) -> pd.DataFrame:
    """Return verification and open-set error rates under every protocol, in per cent, or why one is not measurable."""
    columns = {}
    for protocol, each in assessments.items():
        verified, searched = each.verified, each.searched
        rates = {name: format_score(each.numbers, key) for key, name in name_rates(each.numbers).items()}
        columns[protocol] = {
            "pairs": f"{verified.genuine:,} genuine, {verified.impostor:,} impostor",
            **{name: rate for name, rate in rates.items() if name.startswith("TPR")},
            COUNTS["enrolled"]: each.numbers["enrolled"],
            "searches": f"{len(searched.mated):,} mated, {len(searched.non_mated):,} non-mated",
            **{name: rate for name, rate in rates.items() if name.startswith("FNIR")},
        }
    return pd.DataFrame(columns)
