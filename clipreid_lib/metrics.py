"""Retrieval metrics: CMC, standard mAP and mINP by cosine similarity."""

from dataclasses import dataclass

import numpy as np
import torch

from clipreid_lib.errors import UserError


@dataclass(frozen=True)
class RetrievalScores:
    """Scores of one (query, gallery) pair of sets. All shares lie in [0, 1].

    Attributes:
        cmc: (G,) share of queries whose first true match stands at rank <= position + 1.
        map: mean average precision, standard definition (mean over true matches of precision at each).
        minp: mean inverse negative penalty (Ye et al. 2021): matches / rank of the last match, averaged.
        average_precision: (Q,) per query; NaN where the gallery holds no match.
        first_hit: (Q,) rank of the first true match, from 1; 0 where there is none.
        unmatched: number of queries without a match; they take no part in any mean.
    """

    cmc: np.ndarray
    map: float
    minp: float
    average_precision: np.ndarray
    first_hit: np.ndarray
    unmatched: int

    def rank(self, k: int) -> float:
        """CMC at rank k; beyond the gallery's end its last value."""
        return float(self.cmc[min(k, len(self.cmc)) - 1])


def cosine_similarity(query, gallery) -> np.ndarray:
    """Cosine of every query with every gallery feature.

    Args:
        query: (Q, D) tensor or array.
        gallery: (G, D) tensor or array.

    Returns:
        (Q, G) float32, in [-1, 1]. A zero vector has similarity 0 to everything.

    Raises:
        UserError: empty sets, different widths, or values that are not finite.
    """
    sides = []
    for name, features in (("query", query), ("gallery", gallery)):
        features = torch.as_tensor(features, dtype=torch.float32)
        if features.ndim != 2 or not len(features):
            raise UserError(f"{name} features: shape {tuple(features.shape)}; (images, width) with at least one image")
        if not features.isfinite().all():
            row = int((~features.isfinite().all(dim=1)).nonzero()[0])
            raise UserError(f"{name} features: row {row} holds a value that is not finite")
        sides.append(torch.nn.functional.normalize(features, dim=1))
    if sides[0].shape[1] != sides[1].shape[1]:
        raise UserError(f"query features have width {sides[0].shape[1]}, gallery features {sides[1].shape[1]}")
    return (sides[0] @ sides[1].T).clamp(-1, 1).numpy()


def ranking(similarity: np.ndarray, match: np.ndarray) -> np.ndarray:
    """Order each row's gallery, best first.

    Ties are broken against the model: of equally similar images the wrong ones come first. The order of the
    gallery therefore never matters, and a constant feature scores the worst a ranking can.

    Args:
        similarity: (Q, G).
        match: (Q, G) whether query and gallery image show one identity.

    Returns:
        (Q, G) gallery positions.
    """
    return np.lexsort((match, -similarity), axis=-1)


def score_retrieval(
    query, query_ids, gallery, gallery_ids, *, query_cameras=None, gallery_cameras=None
) -> RetrievalScores:
    """Score query features against gallery features by cosine similarity.

    Args:
        query: (Q, D) tensor or array.
        query_ids: (Q,) identities.
        gallery: (G, D) tensor or array.
        gallery_ids: (G,) identities; distractors carry identities no query has.
        query_cameras: (Q,) cameras; with ``gallery_cameras``, a query's own person seen by its own camera is left
            out of its gallery, as Market-1501 asks (Zheng et al. 2015).
        gallery_cameras: (G,) cameras.

    Raises:
        UserError: as :func:`cosine_similarity`; ids or cameras that do not fit; no query has a match.
    """
    if (query_cameras is None) != (gallery_cameras is None):
        raise UserError("cameras: give them for query and gallery both, or for neither")
    similarity = cosine_similarity(query, gallery)
    if query_cameras is not None:
        cameras = np.asarray(query_cameras), np.asarray(gallery_cameras)
        if similarity.shape != (len(cameras[0]), len(cameras[1])):
            raise UserError(f"{len(cameras[0])} query and {len(cameras[1])} gallery cameras for {similarity.shape}")
        similarity = without_same_camera(similarity, query_ids, gallery_ids, *cameras)
    return score_similarity(similarity, np.asarray(query_ids), np.asarray(gallery_ids))


def without_same_camera(similarity, query_ids, gallery_ids, query_cameras, gallery_cameras) -> np.ndarray:
    """Return (Q, G) similarities with -inf where a gallery image shows the query's person by the query's camera.

    Everything here takes a similarity of -inf as "not in this query's gallery".
    """
    same_person = np.asarray(query_ids)[:, None] == np.asarray(gallery_ids)[None, :]
    same_camera = np.asarray(query_cameras)[:, None] == np.asarray(gallery_cameras)[None, :]
    return np.where(same_person & same_camera, -np.inf, similarity)


def score_similarity(similarity: np.ndarray, query_ids: np.ndarray, gallery_ids: np.ndarray) -> RetrievalScores:
    """Score a (Q, G) similarity matrix; larger means more alike. See :func:`score_retrieval`.

    A similarity of -inf takes the gallery image out of that query's gallery.
    """
    if similarity.shape != (len(query_ids), len(gallery_ids)):
        raise UserError(f"{len(query_ids)} query and {len(gallery_ids)} gallery ids for {similarity.shape} scores")
    match = np.asarray(query_ids)[:, None] == np.asarray(gallery_ids)[None, :]  # (Q, G)
    match &= similarity > -np.inf
    hits = np.take_along_axis(match, ranking(similarity, match), axis=1)  # (Q, G), best first
    relevant = hits.sum(axis=1)  # (Q,)
    matched = relevant > 0
    if not matched.any():
        raise UserError("no query identity is in the gallery; nothing can be scored")
    ranks = np.arange(1, hits.shape[1] + 1)
    with np.errstate(invalid="ignore"):
        average_precision = (hits * hits.cumsum(axis=1) / ranks).sum(axis=1) / relevant
    first = np.where(matched, hits.argmax(axis=1) + 1, 0)
    last = hits.shape[1] - hits[:, ::-1].argmax(axis=1)
    return RetrievalScores(
        cmc=(first[matched][:, None] <= ranks).mean(axis=0),
        map=float(average_precision[matched].mean()),
        minp=float((relevant[matched] / last[matched]).mean()),
        average_precision=np.where(matched, average_precision, np.nan),
        first_hit=first,
        unmatched=int((~matched).sum()),
    )
