"""Expectation: retrieval scores over all one-image galleries that a protocol could draw, without drawing any.

A draw puts one random image of every person into the gallery. Ten draws leave a choice to luck that need not be made.
Let a query and its own gallery image be as similar as ``s``, and let ``f`` be the share of another person's images that
are at least as similar to the query. That person stands before the match with probability ``f``, independently of all
others. So the number of wrong images before the match is Poisson-binomial, and with ``W`` for it::

    P(rank <= k) = P(W < k)                        the first k terms of its distribution
    E[AP] = E[1 / (1 + W)] = integral over t in [0, 1] of the product over people of (1 - f (1 - t))

because 1 / (1 + W) is the integral of t^W. The integrand is a polynomial; Gauss-Legendre quadrature integrates it. A
query has one match, so mINP is mAP, and MBA-Net's trapezoid mAP the mean of mAP and rank-1.

Ties count against the model, as in :mod:`~clipreid_lib.scores.metrics`; it compares the same numbers.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.special import roots_legendre

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import similarity
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.score_names import RANKS

DEEPEST = 20  # ranks of the CMC curve
LARGE = 4_000_000  # numbers of one array at most: 32 MB
PAIRS = 1024  # of query and own gallery image at a time, so that what is worked on stays in the cache
# Comparisons beyond which drawing is cheaper than waiting: some minutes of one core.
MOST = 3e10


@dataclass(frozen=True)
class Expectation:
    """Expected scores of every image that some gallery lets ask.

    Attributes:
        per_query: one row per image: ``path identity``; ``weight``, the share of all galleries in which it asks;
            ``rank1 rank5 rank10 map map_trapezoid minp``, its scores in [0, 1] over those.
        cmc: (20,) share of queries whose match stands at rank <= position + 1; people weigh by their queries.
    """

    per_query: pd.DataFrame
    cmc: np.ndarray


def is_expectable(manifest: Manifest, part: str = "test") -> bool:
    """Whether a manifest's galleries are drawn, one image per person, and few enough to be gone through."""
    if manifest.protocol == "given":
        return False
    own, others = manifest.pool(part)
    sizes = own.groupby("identity").size()
    return float((sizes**2).sum()) * (len(own) + len(others)) < MOST


def expect(
    embeddings: Embeddings, manifest: Manifest, part: str = "test", asking: Embeddings | None = None
) -> Expectation:
    """Score embeddings over every gallery of a protocol whose galleries :func:`is_expectable`.

    Args:
        embeddings: of at least all images of the part.
        manifest: the protocol.
        part: ``test``, with distractors, or ``validation``, without.
        asking: embeddings of the queries; None uses ``embeddings`` for queries and gallery.

    Raises:
        UserError: an image has no embedding, or one that is not finite (naming it); nobody is left who can ask.
    """
    images, asks, shown = find_chances(manifest, part)
    own, held = images.iloc[: len(asks)], shown > 0
    features = similarity.scale_to_whole(embeddings.of(images).numpy())  # (N, D)
    queries = features if asking is None else similarity.scale_to_whole(asking.of(own).numpy())  # (Q, D)
    features, people, column = features[held], _list_people(images[held]), held.cumsum() - 1  # H images, (N,)
    sessions = own["session"].to_numpy() if manifest.protocol == "cross_session" else None
    scores: list[np.ndarray] = []
    waiting: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # shares, images always before, rows of own

    def settle() -> None:
        shares, before, asked = (np.concatenate(each) for each in zip(*waiting, strict=True))
        waiting.clear()
        for start in range(0, len(asked), PAIRS):
            part = slice(start, start + PAIRS)
            scores.append(np.column_stack([asked[part], _score(shares[part], before[part]).T]))

    for person, images_of in enumerate(np.split(np.arange(len(own)), np.flatnonzero(np.diff(own["unit"])) + 1)):
        mine, ask = images_of[held[images_of]], images_of[asks[images_of] > 0]  # M that galleries hold, those that ask
        for some in np.array_split(ask, 1 + len(mine) * len(ask) * len(people[1]) // LARGE):  # n of those
            alike = similarity.multiply_exactly(queries[some], features)  # (n, H)
            mates = some[:, None] != mine if sessions is None else sessions[some][:, None] != sessions[mine]  # (n, M)
            shares, before = _count(alike, alike[:, column[mine]], people)  # (n, M, R), (n, M)
            asked = np.repeat(some, mates.sum(axis=1))
            waiting.append((np.delete(shares[mates], person, axis=1), before[mates], asked))
            if sum(len(each[1]) for each in waiting) >= PAIRS:
                settle()
    if waiting:
        settle()
    if not scores:
        raise UserError("nobody is left who can ask: each person has one image, or one session")
    table = pd.DataFrame(np.concatenate(scores)).groupby(0).mean()  # over a query's own gallery images
    rows = table.index.to_numpy(int)
    weight = asks[rows]
    curve = weight @ table.to_numpy()[:, 1:] / weight.sum()
    found = {f"rank{k}": table[k + 1].to_numpy() for k in RANKS}
    precision = table[1].to_numpy()
    found |= {"map": precision, "map_trapezoid": (precision + found["rank1"]) / 2, "minp": precision}
    who = own.iloc[rows][["path", "identity"]].reset_index(drop=True)
    return Expectation(who.assign(weight=weight, **found), curve)


def find_chances(manifest: Manifest, part: str = "test") -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Say how often an image asks and how often it is in a gallery.

    Returns:
        The N images that galleries are made of, those of people asked for first, each person's together, with a number
        per person (``unit``) and whether every gallery holds an image (``stays``); (Q,) the share of galleries in which
        one of people asked for asks; (N,) the share of galleries that hold an image. Either is 0 for an image that
        never does.
    """
    own, others = (side.sort_values(["identity", "path"], ignore_index=True) for side in manifest.pool(part))
    always = others["split"] == "distractor" if "split" in others else pd.Series(False, others.index)
    images = pd.concat([own.assign(stays=False), others.assign(stays=always)], ignore_index=True)
    images["unit"] = pd.factorize(images["role"].astype(str) + " " + images["identity"].astype(str))[0]
    size = images.groupby("unit")["unit"].transform("size").to_numpy()
    shown = np.where(images["stays"], 1.0, 1 / size)
    same = own.groupby("identity")["path"].transform("size")
    if "side" in own:
        answers = (own["side"] == "gallery").astype(float)
        shown[: len(own)] = answers / answers.groupby(own["identity"]).transform("sum")
        return images, 1.0 - answers.to_numpy(), shown
    if manifest.protocol == "cross_session":
        same_session = own.groupby(["identity", "session"])["path"].transform("size")
        return images, (1 - same_session / same).to_numpy(), shown
    return images, (1 - 1 / same).to_numpy(), shown


def _list_people(images: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Number the people of whom galleries hold one image, (N,), with the number of all for what always stays.

    Returns:
        And (R,) how many images each has.
    """
    drawn = ~images["stays"].to_numpy()
    codes = np.full(len(images), images.loc[drawn, "unit"].nunique())
    codes[drawn] = pd.factorize(images.loc[drawn, "unit"])[0]
    return codes, np.bincount(codes[drawn])


def _count(
    alike: np.ndarray, reach: np.ndarray, people: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Count the images that stand before a match.

    Args:
        alike: (n, H) similarity of queries to all images that galleries hold.
        reach: (n, M) their similarity to M possible matches: an image as similar as that stands before it.
        people: of :func:`_list_people`.

    Returns:
        (n, M, R) the share of each person's images, and (n, M) how many of those that every gallery holds.
    """
    codes, sizes = people
    (queries, matches), number = reach.shape, len(sizes) + 1
    order = np.argsort(reach, axis=1)
    ascending = torch.from_numpy(np.take_along_axis(reach, order, axis=1))
    passed = torch.searchsorted(ascending, torch.from_numpy(alike), right=True).numpy()  # (n, N) matches reached
    place = (np.arange(queries)[:, None] * number + codes) * (matches + 1) + passed
    found = np.bincount(place.ravel(), minlength=queries * number * (matches + 1))
    found = found.reshape(queries, number, matches + 1)[:, :, :0:-1].cumsum(axis=2)[:, :, ::-1]  # (n, R + 1, M)
    counts = np.empty((queries, matches, number))
    np.put_along_axis(counts, order[:, :, None], found.transpose(0, 2, 1), axis=1)
    return counts[:, :, :-1] / sizes, counts[:, :, -1]


def _score(shares: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return E[AP] and P(rank <= 1..DEEPEST), (DEEPEST + 1, L).

    Args:
        shares: (L, R) probability that each person stands before the match.
        before: (L,) images that stand there in every gallery.
    """
    shares = -np.sort(-shares, axis=1)  # most people are far off and stand nowhere before
    shares = np.ascontiguousarray(shares[:, : int((shares > 0).sum(axis=1).max(initial=0))].T)  # (R', L)
    degree = len(shares) + int(before.max(initial=0))  # of the polynomial
    number = int(min(degree // 2, 9 + 2.5 * degree**0.5)) + 1  # exact to 1e-10 relative up to 10,000 (measured)
    nodes, parts = roots_legendre(number)
    nodes, parts = (nodes + 1) / 2, parts / 2
    product = nodes[:, None] ** before  # (nodes, L)
    chance = (np.arange(DEEPEST)[:, None] == before).astype(float)  # (DEEPEST, L) that so many stand before
    factor, moved = np.empty_like(product), np.empty_like(chance[1:])
    for share in shares:
        np.multiply(share, nodes[:, None] - 1, out=factor)
        factor += 1
        product *= factor
        np.multiply(chance[:-1], share, out=moved)
        chance *= 1 - share
        chance[1:] += moved
    return np.vstack([parts @ product, np.minimum(chance.cumsum(axis=0), 1)])
