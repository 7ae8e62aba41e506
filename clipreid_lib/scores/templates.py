"""Templates: a person enrolled with several photographs, or asked for with several, instead of one.

An analysis of embeddings that are there; training, protocol and draws stay as they are. In each draw the images of a
person stand in the order of the draw, whose first is the gallery image of the protocol. The first k of them are the
person's template in the gallery, and of the others every q make a template that asks. So k = q = 1 is the protocol
itself. Rank, CMC, mAP, EER and FNIR are what they are elsewhere, with templates for images, as means over the draws.

- Test people with fewer than k + q images are left out of queries and gallery both, and counted.
- Across sessions, a template of the gallery is of one session, one sitting: the first in the order of the draw that has
  k images. The images of all other sessions ask.
- Distractors (protocol ``mba``, or people of one session) are enrolled with k images too, and left out with fewer.
- Templates are compared with the first image of each: the same people, the same queries. Scores of another k are of
  other people, and of a gallery of another size.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from typing import Any

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import counted
from clipreid_lib.data import protocols
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.params.run_params import Params
from clipreid_lib.scores import metrics, open_set, similarity, uncertainty, verification
from clipreid_lib.scores.evaluation import Evaluation, average_draws
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.score_names import ENDS, replace_nan

NUMBERS = (1, 2, 3, 5)  # gallery images per person that are always shown
# One image of several is most like the query in light and pose; a mean dilutes it. Measured among training people, with
# frozen embedded CLIP, one image that asks: rank-1 of best score minus mean embedding, in points, at k = 2, 3, 5 was
# +0.2, +5.6, +13.5 on drawings (demo_seed 7), +1.8, +3.8 across their sessions (three images each), and on photographs
# +2.2, +4.8, +0.5 (dorsal right) and -1.6, +0.5, +0.4 (palmar right). Mean score was behind both, and across sessions
# level with mean embedding. `clipreid identify` takes the best of a gallery's images, too.
FUSION, *OTHERS = "best score", "mean embedding", "mean score"
SCORED = ("rank1", "map")
Compared = tuple[pd.DataFrame, pd.DataFrame, np.ndarray]  # queries, gallery, (Q, G) similarity


@dataclass(frozen=True)
class Templates:
    """One draw's templates, as places in a table of images.

    Attributes:
        images: (N,) rows of the manifest.
        query: (Q, q) of templates that ask.
        gallery: (G, k) of templates that may answer, distractors among them.
        asked: (Q,) what a template that asks is called: by its image, or with several by its person and a number. One
            name in several draws is one trial, for rates that need so many.
    """

    images: pd.DataFrame
    query: np.ndarray
    gallery: np.ndarray
    asked: np.ndarray

    @cached_property
    def sides(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Tables of the templates that ask and that may answer: ``path identity subject``; path names whoever asks."""
        facts = self.images[["path", "identity", "subject"]]
        query, gallery = (facts.iloc[side[:, 0]] for side in (self.query, self.gallery))
        return query.assign(path=self.asked), gallery

    def take_first(self) -> "Templates":
        """Return the same templates of one image each, the first."""
        return replace(self, query=self.query[:, :1], gallery=self.gallery[:, :1])


def build_templates(manifest: Manifest, gallery_images: int, query_images: int, draw: int, seed: int) -> Templates:
    """Build one draw's templates of the test people and the distractors; see the module for who is left out.

    Args:
        manifest: a protocol that draws its galleries, so any but ``given``.
        gallery_images: k, images of each template in the gallery.
        query_images: q, images of each template that asks.
        draw: its index.
        seed: of the draws, ``draw_seed``: with the manifest's own, k = 1 and q = 1 make its draw.
    """
    images = manifest.in_tests.reset_index(drop=True)
    order = protocols.order_images(images["path"], protocols.name_draw(seed, draw))
    stays = (images["split"] == "distractor").to_numpy() if "split" in images else np.zeros(len(images), bool)
    sessions = images["session"].to_numpy() if manifest.protocol == "cross_session" else None
    query, gallery, asked = [], [], []
    for (role, person), places in images.iloc[order].groupby(["role", "identity"]).indices.items():
        mine = order[places]  # in the order of the draw
        if role == "distractor":
            whole = _cut(mine, gallery_images)
            gallery.append(whole if stays[mine[0]] else whole[:1])  # what every gallery holds is not drawn
            continue
        for there in _list_parts(mine, gallery_images, sessions):
            if there.sum() >= gallery_images and (~there).sum() >= query_images:
                gallery.append(mine[there][None, :gallery_images])
                query.append(_cut(mine[~there], query_images))
                asked += [f"{person}, {number}" for number in range(len(query[-1]))]
                break
    asking = np.concatenate(query) if query else np.empty((0, query_images), int)
    shown = np.concatenate(gallery) if gallery else np.empty((0, gallery_images), int)
    names = images["path"].to_numpy()[asking[:, 0]] if query_images == 1 else np.array(asked, object)
    sort = np.argsort(asking[:, 0], kind="stable")  # as a draw of the manifest has them
    return Templates(images, asking[sort], shown, names[sort])


def _list_parts(mine: np.ndarray, number: int, sessions: np.ndarray | None) -> Iterator[np.ndarray]:
    """List what may be enrolled of a person's images, (n,) each; all others ask. The first that fits is taken."""
    if sessions is None:
        yield np.arange(len(mine)) < number
    else:
        yield from (sessions[mine] == each for each in dict.fromkeys(sessions[mine]))


def _cut(rows: np.ndarray, size: int) -> np.ndarray:
    """Cut rows into templates of so many, (rows // size, size); what is left over takes no part."""
    number = len(rows) // size
    return rows[: number * size].reshape(number, size)


@dataclass(frozen=True)
class Likeness:
    """How alike the images are that templates are made of, so that no template is compared number by number.

    Attributes:
        alike: (R, N) cosines of the images that may ask with all.
        row: (N,) where in it an image that may ask stands.
        whole: (N, D) unit features as whole numbers, whose sums are exact in any order.
    """

    alike: np.ndarray
    row: np.ndarray
    whole: np.ndarray

    @classmethod
    def of(cls, embeddings: Embeddings, images: pd.DataFrame) -> "Likeness":
        """Compare the images of a manifest's tests.

        Raises:
            UserError: an image has no embedding, or one that is not finite (naming it).
        """
        features, asks = embeddings.of(images), (images["role"] == "test").to_numpy()
        alike = similarity.cosine_similarity(features[np.flatnonzero(asks)], features)
        return cls(alike, asks.cumsum() - 1, similarity.scale_to_whole(features.numpy()).numpy())


def compare_templates(likeness: Likeness, templates: Templates, fusion: str = FUSION) -> np.ndarray:
    """Compare templates, (Q, G); equal templates get equal scores, in whatever order their images stand.

    Args:
        likeness: of the images.
        templates: of one draw.
        fusion: ``best score`` or ``mean score``, the highest or the mean of the q x k cosines of their images; ``mean
            embedding``, the cosine of the means of the images' unit embeddings.
    """
    query, gallery = templates.query, templates.gallery
    pairs = [likeness.alike[np.ix_(mine, shown)] for mine in likeness.row[query].T for shown in gallery.T]
    if fusion == "best score" or len(pairs) == 1:
        return reduce(np.maximum, pairs)
    total = reduce(np.add, [pair.astype(np.float64) for pair in pairs])
    if fusion == "mean score":
        return total / len(pairs)
    sums = [likeness.whole[side].sum(axis=1) / similarity.FINE for side in (query, gallery)]  # (Q, D), (G, D)
    lengths = [np.maximum(np.sqrt(np.einsum("td,td->t", each, each)), similarity.SMALLEST) for each in sums]
    return total / np.multiply.outer(*lengths)


def compare_draws(likeness: Likeness, draws: Sequence[Templates], fusion: str = FUSION) -> list[Compared]:
    """Return each draw's templates that ask, that may answer, and their similarity by :func:`compare_templates`."""
    return [(*templates.sides, compare_templates(likeness, templates, fusion)) for templates in draws]


def identify(compared: Sequence[Compared]) -> Evaluation:
    """Score :func:`compare_draws` as a draw's images are scored."""
    return average_draws(
        [
            (query, metrics.score_similarity(alike, query["identity"], gallery["identity"]))
            for query, gallery, alike in compared
        ]
    )


def list_pairs(query: pd.DataFrame, gallery: pd.DataFrame, alike: np.ndarray) -> pd.DataFrame:
    """List one draw's pairs as :func:`~clipreid_lib.scores.verification.list_pairs` does images'.

    ``query`` is what a template that asks is called, ``gallery`` the label of one that may answer.
    """
    genuine, same = (np.equal.outer(query[key].to_numpy(), gallery[key].to_numpy()) for key in ("identity", "subject"))
    row, column = np.nonzero(genuine | ~same)  # one person under two numbers is neither
    names = {"query": query["path"].to_numpy()[row], "gallery": gallery["identity"].to_numpy()[column]}
    people = [side["subject"].to_numpy()[at] for side, at in ((query, row), (gallery, column))]
    names |= {"query_subject": people[0], "gallery_subject": people[1]}
    return pd.DataFrame(names | {"score": alike[row, column], "genuine": genuine[row, column], "weight": 1.0})


def score(compared: Sequence[Compared], intervals: bool) -> tuple[Evaluation, dict[str, Any]]:
    """Score :func:`compare_draws` in every way.

    Args:
        compared: draws, the galleries of which show two people or more.
        intervals: whether to find 95 % intervals over people.

    Returns:
        Identification, and scores by key as ``metrics.json`` has them: rank-1, mAP, EER and FNIR.
    """
    evaluation = identify(compared)
    summary, ends = evaluation.summary(SCORED), evaluation.intervals(SCORED) if intervals else {}
    found: dict[str, Any] = {key: summary[key] for key in SCORED}
    pairs = pd.concat([verification.thin(list_pairs(*each)) for each in compared], ignore_index=True)
    if verification.has_both(pairs):
        # Another draw's pair of the same two, with the same images asking, is hardly another trial.
        lacks = verification.verify(pairs.drop_duplicates(["query", "gallery"])).eer_lacks
        verified = replace(verification.verify(pairs), eer_lacks=lacks, tpr_at={})
        found["eer"] = lacks or verified.eer
        ends |= verification.find_intervals(pairs, verified) if intervals and not lacks else {}
    searched = open_set.search_draws(compared)
    for level in open_set.LEVELS:
        name = f"fnir_at_fpir_{level:g}"
        found[name], low, high = searched.find_fnir(level)
        ends |= {name: (low, high)} if intervals and low is not None and high is not None else {}
    bounds = {f"{key}{end}": value for key in found for end, value in zip(ENDS[1:], ends.get(key, ()), strict=False)}
    return evaluation, found | bounds


def measure(
    likeness: Likeness, manifest: Manifest, seed: int, gallery_images: int, query_images: int = 1
) -> dict[str, Any]:
    """Measure one number of images per template.

    Args:
        likeness: of all images of the test.
        manifest: the protocol.
        seed: of its draws.
        gallery_images: k, images of each template in the gallery.
        query_images: q, images of each template that asks.

    Returns:
        ``gallery_images query_images``; ``people`` kept, ``left_out`` test people, ``queries`` and ``gallery``
        templates of draw 0. Then ``lacks``, why these are too few for a test, or: scores by key with their intervals,
        and the curve ``cmc``; ``one``, the scores of one image in place of each template; ``<score>_gain``, what the
        templates add to them, paired over people; ``others``, identification by the other fusions.
    """
    row: dict[str, Any] = {"gallery_images": gallery_images, "query_images": query_images}
    if manifest.protocol == "given":
        return row | {"lacks": "protocol given brings its own gallery, from which no images are drawn"}
    draws = [build_templates(manifest, gallery_images, query_images, draw, seed) for draw in range(manifest.draws)]
    (query, gallery), tested = draws[0].sides, manifest.test["identity"].nunique()
    kept = query["identity"].nunique()
    row |= {"people": kept, "left_out": tested - kept, "queries": len(query), "gallery": len(gallery)}
    if not kept or gallery["identity"].nunique() < 2:
        where = " of one session" if manifest.protocol == "cross_session" else ""
        needed = f"{counted(gallery_images, 'image')}{where} to enrol and {query_images} more to ask with"
        return row | {"lacks": f"too few people: {kept} of {tested} have {needed}"}
    own, scores = score(compare_draws(likeness, draws), intervals=True)
    row |= scores | {"cmc": [float(share) for share in own.cmc]}
    if gallery_images * query_images > 1:
        one, row["one"] = score(compare_draws(likeness, [each.take_first() for each in draws]), intervals=False)
        for key in SCORED:
            before, after = (each.per_query[key] for each in (one, own))
            gain, _ = uncertainty.compare(before, after, own.per_query["identity"], own.per_query["weight"])
            row |= dict(zip((f"{key}_gain{end}" for end in ENDS), (gain.mean, gain.low, gain.high), strict=True))
        others = {fusion: identify(compare_draws(likeness, draws, fusion)).summary(SCORED) for fusion in OTHERS}
        row["others"] = {fusion: {key: each[key] for key in SCORED} for fusion, each in others.items()}
    return replace_nan(row)


def measure_all(embeddings: Embeddings, manifest: Manifest, params: Params) -> list[dict[str, Any]]:
    """Measure 1, 2, 3 and 5 gallery images, and what ``gallery_images`` and ``query_images`` ask for besides.

    Returns:
        Rows of :func:`measure`; none under other protocols than the run's own and ``cross_session``, which tells what
        several images of one session give from what several sessions give. The others would double the time of 04.

    Raises:
        UserError: as :meth:`Likeness.of`.
    """
    if manifest.protocol not in (params.protocol, "cross_session"):
        return []
    likeness = Likeness.of(embeddings, manifest.in_tests)
    asked = dict.fromkeys([*((number, 1) for number in NUMBERS), (params.gallery_images, params.query_images)])
    return [measure(likeness, manifest, params.draw_seed, *each) for each in asked]
