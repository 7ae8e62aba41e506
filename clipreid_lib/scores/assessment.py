"""Assessment: everything notebook 04 measures under one protocol, as one object and as one flat record."""

import time
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import open_set, subgroups, uncertainty, verification
from clipreid_lib.scores.evaluation import Evaluation, evaluate
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.open_set import OpenSet
from clipreid_lib.scores.score_names import SHOWN, in_words
from clipreid_lib.scores.verification import Pairs, Verification


@dataclass(frozen=True)
class Assessment:
    """All scores under one protocol.

    Attributes:
        manifest: the protocol.
        scores: identification by row of the table; the first is the run's own embedding by cosine similarity.
        pairs: what the draws compare, by the first embedding.
        verified: error rates of those pairs.
        searched: open-set searches, by the first embedding.
        seconds: it took.
    """

    manifest: Manifest
    scores: dict[str, Evaluation]
    pairs: Pairs
    verified: Verification
    searched: OpenSet
    seconds: float

    @property
    def own(self) -> Evaluation:
        """Identification by the run's own embedding."""
        return next(iter(self.scores.values()))

    @cached_property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % intervals over people of every identification score and of ``eer``."""
        return self.own.intervals() | {"eer": verification.eer_interval(self.pairs)}

    @cached_property
    def groups(self) -> pd.DataFrame:
        """Score subgroups of the test people; see :func:`clipreid_lib.scores.subgroups.by_attribute`."""
        return subgroups.by_attribute(self.own, self.pairs, self.manifest)

    def numbers(self) -> dict:
        """Return every number of the first embedding, flat, and the other rows' under ``rows``."""
        verified, searched = self.verified, self.searched
        counts = self.own.per_draw.iloc[0]
        found = {
            "protocol": self.manifest.protocol,
            "draws": self.manifest.draws,
            **{name: int(counts[name]) for name in ("queries", "gallery", "unmatched")},
            "distractors": int((self.manifest.draw(0)[1]["role"] == "distractor").sum()),
            "identities": int(self.manifest.test["identity"].nunique()),
            **self.own.summary(),
        }
        found["eer"] = verified.eer
        for score, both in self.intervals.items():
            low, high = map(_plain, both)
            found |= {f"{score}_low": low, f"{score}_high": high}
        found |= {"genuine_pairs": verified.genuine, "impostor_pairs": verified.impostor}
        for level, rate in verified.tpr_at.items():
            found[f"tpr_at_fpr_{level:g}"] = verified.why_not(level) if rate is None else rate
        for level in open_set.LEVELS:
            rate = searched.fnir(level)
            found[f"fnir_at_fpir_{level:g}"] = searched.why_not(level) if rate is None else rate
            low, high = (None, None) if rate is None else map(_plain, searched.interval(level))
            found |= {f"fnir_at_fpir_{level:g}_low": low, f"fnir_at_fpir_{level:g}_high": high}
        found |= {"manifest_sha": self.manifest.sha, "compared_sha": self.manifest.compared_sha}
        found["rows"] = {name: each.summary() for name, each in self.scores.items()}
        return found


def assess(embeddings: dict[str, Embeddings], manifest: Manifest) -> Assessment:
    """Score embeddings under one protocol: identification, verification, open set.

    Args:
        embeddings: by row of the table; of at least all images the draws use. The first is the run's own and is also
            compared by k-reciprocal re-ranking and by alpha query expansion.
        manifest: the protocol.

    Returns:
        All scores. The rows of identification are the first embedding's, the same re-ranked and with expanded queries,
        and then the other embeddings'.

    Raises:
        UserError: as :func:`~clipreid_lib.scores.evaluation.evaluate`.
    """
    began = time.perf_counter()
    name, own = next(iter(embeddings.items()))
    scores = {name: evaluate(own, manifest)}
    for how in ("re-ranked", "expanded"):
        scores[f"{name}, {how}"] = evaluate(own, manifest, how=how)
    scores |= {other: evaluate(each, manifest) for other, each in embeddings.items() if other != name}
    pairs = verification.pairs(own, manifest)
    verified, searched = verification.verify(pairs), open_set.search(own, manifest)
    return Assessment(manifest, scores, pairs, verified, searched, time.perf_counter() - began)


def by_protocol(assessments: dict[str, Assessment]) -> pd.DataFrame:
    """Return the run's own scores, a column per protocol, in per cent: mean ± deviation over draws [95 % interval]."""
    rows = {}
    for protocol, each in assessments.items():
        summary, ends = each.own.summary(), each.intervals
        counts = each.own.per_draw.iloc[0]
        row = {name: f"{counts[name]:.0f}" for name in ("queries", "gallery")}
        for score, shown in SHOWN.items():
            value = in_words(summary[score], summary[f"{score}_std"])
            row[shown] = f"{value} {uncertainty.in_words(ends[score])}"
        row["EER"] = f"{100 * each.verified.eer:.1f} {uncertainty.in_words(ends['eer'])}"
        rows[protocol] = row
    return pd.DataFrame(rows)


def error_rates(assessments: dict[str, Assessment]) -> pd.DataFrame:
    """Return verification and open-set error rates under every protocol, in per cent, or why one is not measurable."""
    rows = {}
    for protocol, each in assessments.items():
        verified, searched = each.verified, each.searched
        row = {"pairs": f"{verified.genuine:,} genuine, {verified.impostor:,} impostor"}
        for level, rate in verified.tpr_at.items():
            row[f"TPR at FPR {level:g}"] = verified.why_not(level) if rate is None else f"{100 * rate:.1f}"
        row["searches"] = f"{len(searched.mated):,} mated, {len(searched.non_mated):,} non-mated"
        for level in open_set.LEVELS:
            rate = searched.fnir(level)
            said = searched.why_not(level)
            if rate is not None:
                said = f"{100 * rate:.1f} {uncertainty.in_words(searched.interval(level))}"
            row[f"FNIR at FPIR {level:g}"] = said
        rows[protocol] = row
    return pd.DataFrame(rows)


def _plain(end: float) -> float | None:
    return None if np.isnan(end) else end  # JSON knows no NaN
