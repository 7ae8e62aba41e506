"""Cosine similarity: how alike two sets of features are, and which pairs a protocol does not compare."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike

from clipreid_lib.base.errors import UserError

Features = torch.Tensor | np.ndarray  # (N, D)
BLOCK = 65_536  # features looked at together, so that checking a million of them needs little memory
LARGEST, SMALLEST = 1e15, 1e-15  # beyond: an exploded network; below: a zero vector. Squares of both fit a float32.

ROUND = 1.5 * 2.0**12  # added to a float64 and taken away again, it rounds to 2^-40


def checked(features: Features, name: str) -> np.ndarray:
    """Return features as an array, after looking at every value.

    Args:
        features: (N, D) tensor or array. float32 and float64 arrays are not copied.
        name: whose features they are, for messages.

    Raises:
        UserError: another shape, no image, no numbers, or a value that is not finite or beyond 1e15.
    """
    if isinstance(features, torch.Tensor):
        features = features.detach().cpu()
        features = features if features.dtype in (torch.float32, torch.float64) else features.float()
    try:
        array = np.asarray(features)
        array = array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
    except (TypeError, ValueError):
        raise UserError(f"{name} features: are not an array of numbers; give (images, width)") from None
    if array.ndim != 2 or 0 in array.shape:
        raise UserError(f"{name} features: shape {array.shape}; (images, width) with at least one image")
    for start in range(0, len(array), BLOCK):
        sane = (np.abs(array[start : start + BLOCK]) <= LARGEST).all(axis=1)  # false for NaN as well
        if not sane.all():
            row = start + int(np.argmin(sane))
            raise UserError(f"{name} features: row {row} holds a value that is not finite or beyond {LARGEST:.0e}")
    return array


def same_width(query: np.ndarray, gallery: np.ndarray) -> None:
    """Check that two sets of features can be compared.

    Args:
        query: (Q, D).
        gallery: (G, D).

    Raises:
        UserError: their widths differ.
    """
    if query.shape[1] != gallery.shape[1]:
        raise UserError(f"query features have width {query.shape[1]}, gallery features {gallery.shape[1]}")


def lengths(features: np.ndarray) -> np.ndarray:
    """Return every feature's Euclidean norm, (N,) float64; infinite for a zero vector, so that it divides to zero."""
    blocks = (features[start : start + BLOCK].astype(np.float64) for start in range(0, len(features), BLOCK))
    norms = np.concatenate([np.sqrt(np.einsum("nd,nd->n", block, block)) for block in blocks])
    return np.where(norms > SMALLEST, norms, np.inf)


def unit_features(features: Features, name: str) -> np.ndarray:
    """Return features scaled to length one, (N, D) float64; zero vectors stay zero.

    Args:
        features: (N, D) tensor or array.
        name: whose features they are, for messages.

    Raises:
        UserError: as :func:`checked`.
    """
    features = checked(features, name)
    return features.astype(np.float64) / lengths(features)[:, None]


def cosine_similarity(query: Features, gallery: Features) -> np.ndarray:
    """Cosine of every query with every gallery feature.

    Summed in float64 and rounded to float32 afterwards, so that equal images get equal scores wherever they stand in
    the gallery: a float32 product may differ in its last digit from column to column, and break ties by accident.

    Args:
        query: (Q, D) tensor or array.
        gallery: (G, D) tensor or array.

    Returns:
        (Q, G) float32, in [-1, 1]. A zero vector has similarity 0 to everything.

    Raises:
        UserError: empty sets, different widths, or values that are not finite.
    """
    sides = unit_features(query, "query"), unit_features(gallery, "gallery")
    same_width(*sides)
    return exact_product(*sides)


def exact_product(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Multiply unit features in float64 and round to float32, (Q, G) in [-1, 1]; a right angle is exactly 0.

    Args:
        query: (Q, D) float64, of length one or zero.
        gallery: (G, D) float64, likewise.

    Returns:
        (Q, G) float32.
    """
    product = np.empty((len(query), len(gallery)), np.float32)
    for start in range(0, len(query), 512):  # so that the float64 product never stands in memory as a whole
        part = slice(start, start + 512)
        exact = query[part] @ gallery.T
        exact += ROUND  # in float64 a right angle may come out as 1e-17, which would break its ties with others
        exact -= ROUND
        product[part] = np.clip(exact, -1, 1)
    return product


def fast_product(query: np.ndarray, gallery: np.ndarray, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield blocks of the (Q, G) cosine similarity in float32: for counting, where near ties are looked at again.

    Args:
        query: (Q, D) as from :func:`checked`.
        gallery: (G, D) as from :func:`checked`; where it is float32 no copy of it is made.
        rows: queries per block.

    Yields:
        The number of the block's first query, and (rows, G) similarities, which are the reader's to overwrite until
        the next block comes.
    """
    columns = torch.from_numpy((1 / lengths(gallery)).astype(np.float32))  # (G,)
    theirs = torch.from_numpy(np.ascontiguousarray(gallery, dtype=np.float32)).T  # (D, G)
    mine = torch.from_numpy((query / lengths(query)[:, None]).astype(np.float32))  # (Q, D)
    room = torch.empty(
        min(rows, len(mine)), theirs.shape[1]
    )  # one for all blocks: fresh memory costs as much as counting
    for start in range(0, len(mine), rows):
        part = mine[start : start + rows]
        yield start, torch.mm(part, theirs, out=room[: len(part)]).mul_(columns).numpy()


def without_same_camera(
    similarity: np.ndarray,
    query_ids: ArrayLike,
    gallery_ids: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
) -> np.ndarray:
    """Return (Q, G) similarities with -inf where a gallery image shows the query's person by the query's camera.

    Everything here takes a similarity of -inf as "not in this query's gallery".

    Args:
        similarity: (Q, G).
        query_ids: (Q,) identities.
        gallery_ids: (G,) identities.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.

    Returns:
        (Q, G), a copy.
    """
    same_person = np.asarray(query_ids)[:, None] == np.asarray(gallery_ids)[None, :]
    same_camera = np.asarray(query_cameras)[:, None] == np.asarray(gallery_cameras)[None, :]
    return np.where(same_person & same_camera, -np.inf, similarity)
