"""Evaluation of embeddings under a manifest: every draw scored, then mean and spread."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from clipreid_lib import metrics
from clipreid_lib.features import Embeddings
from clipreid_lib.manifest import Manifest

RANKS = (1, 5, 10)


@dataclass(frozen=True)
class Evaluation:
    """Scores of one embedding under one manifest.

    Attributes:
        per_draw: one row per draw: ``rank1 rank5 rank10 map minp`` in [0, 1], ``queries gallery``.
        per_query: one row per draw and query: ``path identity first_hit average_precision``.
        cmc: (draws, G) CMC curve of each draw.
    """

    per_draw: pd.DataFrame
    per_query: pd.DataFrame
    cmc: np.ndarray

    def summary(self) -> dict[str, float]:
        """Mean over draws of every score, with its standard deviation over draws as ``<score>_std``."""
        means, spread = self.per_draw.mean(), self.per_draw.std(ddof=1).fillna(0)  # one draw has no spread
        scores = [f"rank{k}" for k in RANKS] + ["map", "minp"]
        return {s: float(means[s]) for s in scores} | {f"{s}_std": float(spread[s]) for s in scores}


def compared(
    embeddings: Embeddings, manifest: Manifest, index: int, part: str = "test"
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Compare one draw's queries with its gallery.

    Returns:
        The query table, the gallery table and their (Q, G) cosine similarity; -inf where the protocol leaves a
        gallery image out of a query's gallery (the same person by the same camera).
    """
    query, gallery = manifest.draw(index, part)
    similarity = metrics.cosine_similarity(embeddings.of(query), embeddings.of(gallery))
    if part == "test" and manifest.same_camera_rule:
        ids, cameras = (query["identity"], gallery["identity"]), (query["camera"], gallery["camera"])
        similarity = metrics.without_same_camera(similarity, *ids, *cameras)
    return query, gallery, similarity


def evaluate(embeddings: Embeddings, manifest: Manifest, part: str = "test") -> Evaluation:
    """Score every draw of a manifest.

    Args:
        embeddings: of at least all images the draws use.
        manifest: the protocol's roles and draws.
        part: ``test``, or ``validation`` for choosing epochs and rates.
    """
    draws, queries, curves = [], [], []
    for index in range(manifest.draws):
        query, gallery, similarity = compared(embeddings, manifest, index, part)
        scores = metrics.score_similarity(similarity, query["identity"].to_numpy(), gallery["identity"].to_numpy())
        ranks = {f"rank{k}": scores.rank(k) for k in RANKS}
        draws.append(
            {"draw": index, **ranks, "map": scores.map, "minp": scores.minp}
            | {"queries": len(query), "gallery": len(gallery)}
        )
        queries.append(
            query[["path", "identity"]].assign(
                draw=index, first_hit=scores.first_hit, average_precision=scores.average_precision
            )
        )
        curves.append(scores.cmc)
    return Evaluation(pd.DataFrame(draws).set_index("draw"), pd.concat(queries, ignore_index=True), np.stack(curves))
