"""Evaluation of embeddings under a manifest: every draw scored, then mean, spread and interval."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import metrics, similarity, uncertainty
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.reranking import expand_queries, rerank
from clipreid_lib.scores.score_names import SCORES

EACH = {"map": "average_precision", "map_trapezoid": "average_precision_trapezoid", "minp": "inverse_penalty"}


@dataclass(frozen=True)
class Evaluation:
    """Scores of one embedding under one manifest.

    Attributes:
        per_draw: one row per draw: ``rank1 rank5 rank10 map map_trapezoid minp`` in [0, 1], ``queries gallery
            unmatched``.
        per_query: one row per draw and query: ``path identity first_hit average_precision
            average_precision_trapezoid inverse_penalty``.
        cmc: (draws, G) CMC curve of each draw.
    """

    per_draw: pd.DataFrame
    per_query: pd.DataFrame
    cmc: np.ndarray

    def summary(self) -> dict[str, Any]:
        """Mean over draws of every score, and its standard deviation as ``<score>_std``; None with a single draw."""
        means, spread = self.per_draw.mean(), self.per_draw.std(ddof=1)
        found = {score: float(means[score]) for score in SCORES}
        return found | {f"{score}_std": float(spread[score]) if len(self.per_draw) > 1 else None for score in SCORES}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % interval of every score by bootstrap over identities, all draws together."""
        return {score: uncertainty.find_interval(self.of(score), self.per_query["identity"]) for score in SCORES}

    def of(self, score: str) -> pd.Series:
        """Return what each query of each draw adds to a score's mean; NaN where it has no match."""
        if score in EACH:
            return self.per_query[EACH[score]]
        first = self.per_query["first_hit"]
        return (first <= int(score.removeprefix("rank"))).astype(float).where(first > 0)


def compare_draw(
    embeddings: Embeddings, manifest: Manifest, index: int
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Compare one draw's test queries with its gallery.

    Args:
        embeddings: of at least the draw's images.
        manifest: the protocol's roles and draws.
        index: number of the draw.

    Returns:
        The query table, the gallery table and their (Q, G) cosine; -inf where the protocol leaves a gallery image out
        of a query's gallery (the same person by the same camera).

    Raises:
        UserError: an image has no embedding, or one that is not finite (naming it).
    """
    query, gallery = manifest.draw(index)
    alike = similarity.cosine_similarity(embeddings.of(query), embeddings.of(gallery))
    if manifest.same_camera_rule:
        person, camera = (
            np.equal.outer(query[key].to_numpy(), gallery[key].to_numpy()) for key in ("identity", "camera")
        )
        alike = np.where(person & camera, -np.inf, alike)
    return query, gallery, alike


def evaluate(
    embeddings: Embeddings,
    manifest: Manifest,
    part: str = "test",
    how: str = "cosine",
    neighbours: tuple[int, int] = (20, 6),
) -> Evaluation:
    """Score every draw of a manifest.

    Args:
        embeddings: of at least all images the draws use.
        manifest: the protocol's roles and draws.
        part: ``test``, or ``validation`` for choosing epochs and rates.
        how: ``cosine``; ``re-ranked``, by k-reciprocal re-ranking; ``expanded``, by alpha query expansion.
        neighbours: k1 and k2 of re-ranking, as :func:`~clipreid_lib.scores.reranking.rerank` takes them.

    Returns:
        Scores of every draw and of every query of every draw, as shares in [0, 1].

    Raises:
        UserError: as :func:`compare_draw`; a gallery shows one identity alone, so that nothing can be confused.
    """
    draws, queries, curves = [], [], []
    for index in range(manifest.draws):
        query, gallery = manifest.draw(index, part)
        if part == "test" and gallery["identity"].nunique() < 2:
            raise UserError(f"draw {index}: its gallery shows one person alone; there is nobody to tell them from")
        mine: similarity.Features
        mine, theirs = embeddings.of(query), embeddings.of(gallery)
        asked, shown = query["identity"], gallery["identity"]
        cameras = (query["camera"], gallery["camera"]) if part == "test" and manifest.same_camera_rule else None
        if how == "re-ranked":
            scores = metrics.score_similarity(-rerank(mine, theirs, *neighbours), asked, shown, cameras)
        else:
            mine = expand_queries(mine, theirs) if how == "expanded" else mine
            scores = metrics.score_retrieval(mine, asked, theirs, shown, cameras)
        ranks = {f"rank{k}": share for k, share in scores.at.items()}
        means = {score: getattr(scores, score) for score in EACH}
        sizes = {"queries": len(query), "gallery": len(gallery), "unmatched": scores.unmatched}
        draws.append({"draw": index, **ranks, **means, **sizes})
        each = {name: getattr(scores, name) for name in ("first_hit", *EACH.values())}
        queries.append(query[["path", "identity"]].assign(draw=index, **each))
        curves.append(scores.cmc)
    return Evaluation(pd.DataFrame(draws).set_index("draw"), pd.concat(queries, ignore_index=True), np.stack(curves))
