"""Evaluation of embeddings under a manifest: every query's score over all galleries, and every draw's as papers print.

The score is the expectation over all one-image galleries where the protocol draws them (:mod:`.expectation`). A way to
compare that depends on the whole gallery, such as re-ranking, has no such expectation: its score is the mean of the
draws. So is a data set's own split, which is one draw. ``over`` says which it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import expectation, metrics, similarity, uncertainty
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.reranking import expand_queries, rerank
from clipreid_lib.scores.score_names import ALL_GALLERIES, EACH_PERSON, IN_DRAWS, SCORES

EACH = {"map": "average_precision", "map_trapezoid": "average_precision_trapezoid", "minp": "inverse_penalty"}


@dataclass(frozen=True)
class Evaluation:
    """Scores of one embedding under one manifest; all shares lie in [0, 1].

    Attributes:
        per_query: one row per query image: ``path identity``; ``weight``, the share of galleries it is a query for;
            ``rank1 rank5 rank10 map map_trapezoid minp``, its mean over those galleries, NaN where no gallery holds a
            match.
        drawn: the same over the draws alone.
        per_draw: one row per draw: the scores, ``queries gallery unmatched``.
        cmc: (ranks,) share of queries whose match stands at rank <= position + 1, at most 20 ranks.
        over: the galleries of ``per_query`` and ``cmc``: ``all galleries``, ``10 draws``, ``1 draw``.
    """

    per_query: pd.DataFrame
    drawn: pd.DataFrame
    per_draw: pd.DataFrame
    cmc: np.ndarray
    over: str

    def summary(self, wanted: Sequence[str] = SCORES) -> dict[str, Any]:
        """Return scores, by default all, as ``metrics.json`` names them.

        ``<score>`` is the mean over queries, ``<score>_per_person`` the mean over people of each one's mean,
        ``<score>_draws`` and ``<score>_draws_std`` mean and standard deviation over draws; the last is None with one.
        """
        means, spread = self.per_draw.mean(), self.per_draw.std(ddof=1)
        found: dict[str, Any] = {}
        for score in wanted:
            sums, counts = self._sum(score)
            found[score] = float(sums.sum() / counts.sum())
            found[f"{score}{EACH_PERSON}"] = float((sums / counts).mean())
            found[f"{score}{IN_DRAWS}"] = float(means[score])
            found[f"{score}{IN_DRAWS}_std"] = float(spread[score]) if len(self.per_draw) > 1 else None
        return found

    def _sum(self, score: str) -> tuple[np.ndarray, np.ndarray]:
        queries = self.per_query
        return uncertainty.sum_by_person(queries[score], queries["identity"], queries["weight"])

    def intervals(self, wanted: Sequence[str] = SCORES) -> dict[str, tuple[float, float]]:
        """95 % interval over people of scores, by default all, with one vote per query and with one per person."""
        found = {}
        for score in wanted:
            sums, counts = self._sum(score)
            found[score] = uncertainty.find_interval_of(sums, counts)
            found[f"{score}{EACH_PERSON}"] = uncertainty.find_interval_of(sums / counts, np.ones(len(sums)))
        return found


def compare_draw(
    embeddings: Embeddings, manifest: Manifest, index: int
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Compare the test queries of a manifest's draw, by its index, with the draw's gallery.

    The embeddings are of at least the draw's images.

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
    asking: Embeddings | None = None,
) -> Evaluation:
    """Score embeddings over all galleries of a manifest, where there is such a mean, and in every draw.

    Args:
        embeddings: of at least all images of the part.
        manifest: the protocol's roles and draws.
        part: ``test``, or ``validation`` for choosing epochs and rates.
        how: ``cosine``; ``re-ranked``, by k-reciprocal re-ranking; ``expanded``, by alpha query expansion.
        neighbours: k1 and k2 of re-ranking, as :func:`~clipreid_lib.scores.reranking.rerank` takes them.
        asking: embeddings of the queries, where these differ from those of the gallery; None uses ``embeddings`` for
            both.

    Returns:
        The scores: by query and by draw, with the CMC curve. Its ``summary()`` has the means and its ``intervals()``
        their 95 % intervals over people.

    Raises:
        UserError: as :func:`compare_draw`; a gallery shows one identity alone, so that nothing can be confused.
    """
    draws = []
    for index in range(manifest.draws):
        query, gallery = manifest.draw(index, part)
        if part == "test" and gallery["identity"].nunique() < 2:
            raise UserError(f"draw {index}: its gallery shows one person alone; there is nobody to tell them from")
        mine: similarity.Features
        mine, theirs = (asking or embeddings).of(query), embeddings.of(gallery)
        asked, shown = query["identity"], gallery["identity"]
        cameras = (query["camera"], gallery["camera"]) if part == "test" and manifest.same_camera_rule else None
        if how == "re-ranked":
            scores = metrics.score_similarity(-rerank(mine, theirs, *neighbours), asked, shown, cameras)
        else:
            mine = expand_queries(mine, theirs) if how == "expanded" else mine
            scores = metrics.score_retrieval(mine, asked, theirs, shown, cameras)
        draws.append((query, scores))
    found = average_draws(draws)
    if how == "cosine" and expectation.is_expectable(manifest, part):
        mean = expectation.expect(embeddings, manifest, part, asking)
        curve = mean.cmc[: len(found.cmc)]
        return Evaluation(mean.per_query, found.drawn, found.per_draw, curve, ALL_GALLERIES)
    return found


def average_draws(draws: Sequence[tuple[pd.DataFrame, metrics.RetrievalScores]]) -> Evaluation:
    """Return the mean over draws of what each scored; ``path identity`` say of each draw's queries which they are."""
    rows, queries, curves = [], [], []
    for index, (query, scores) in enumerate(draws):
        ranks = {f"rank{k}": share for k, share in scores.at.items()}
        means = {score: getattr(scores, score) for score in EACH}
        sizes = {"queries": len(query), "gallery": len(scores.cmc), "unmatched": scores.unmatched}
        rows.append({"draw": index, **ranks, **means, **sizes})
        hits = {f"rank{k}": np.where(scores.first_hit > 0, scores.first_hit <= k, np.nan) for k in scores.at}
        each = hits | {score: getattr(scores, name) for score, name in EACH.items()}
        queries.append(query[["path", "identity"]].assign(**each))
        curves.append(scores.cmc[: expectation.DEEPEST])
    per_draw, drawn = pd.DataFrame(rows).set_index("draw"), _pool(queries)
    asked = per_draw["queries"] - per_draw["unmatched"]
    longest = max(map(len, curves))  # smaller galleries have found everybody before
    curves = [np.pad(each, (0, longest - len(each)), "edge") for each in curves]
    curve = np.average(curves, axis=0, weights=asked)  # every query one vote, as in the scores
    return Evaluation(drawn, drawn, per_draw, curve, counted(len(draws), "draw"))


def _pool(draws: list[pd.DataFrame]) -> pd.DataFrame:
    """Return each query's mean over the draws in which it asks, and the share of these."""
    asked = pd.concat(draws, ignore_index=True).groupby(["path", "identity"], sort=False)
    weight = (asked.size() / len(draws)).rename("weight")
    return pd.concat([weight, asked[list(SCORES)].mean()], axis=1).reset_index()
