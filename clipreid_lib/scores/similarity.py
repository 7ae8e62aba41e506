"""Cosine similarity: how alike two sets of features are, and which pairs a protocol does not compare.

**Equal features get equal scores**, wherever they stand and in whichever block. Features of length one are rounded to
whole multiples of 2^-26, so every product and every sum of products is a multiple of 2^-52 below 2. float64 holds all
of those, so the sum is exact in any order, on any processor. The price is an error of the cosine: at most
sqrt(D) * 2^-26 for D numbers per feature (3e-7 at 512), some 1e-8 for features of no special pattern.
"""

import numpy as np
import torch
from numpy.typing import ArrayLike

from clipreid_lib.base.errors import UserError

Features = torch.Tensor | np.ndarray  # (N, D)
BLOCK = 65_536  # features looked at together, so that checking a million of them needs little memory
LARGEST, SMALLEST = 1e15, 1e-15  # beyond: an exploded network; below: a zero vector. Squares of both fit a float32.
FINE = 2.0**26  # steps of a feature's number in [-1, 1]: a product has 2^52, the most that float64 adds exactly
STEPS = 2.0**24  # steps of a similarity in [0, 1]: all that float32 holds, and coarse enough that a right angle is 0


def check_features(features: Features, name: str) -> np.ndarray:
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


def require_same_width(query: np.ndarray, gallery: np.ndarray) -> None:
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
        UserError: as :func:`check_features`.
    """
    features = check_features(features, name)
    return features.astype(np.float64) / lengths(features)[:, None]


def cosine_similarity(query: Features, gallery: Features) -> np.ndarray:
    """Cosine of every query with every gallery feature; equal features get equal scores, as the module says.

    Args:
        query: (Q, D) tensor or array.
        gallery: (G, D) tensor or array.

    Returns:
        (Q, G) float32 multiples of 2^-24 in [-1, 1]. A zero vector has similarity 0 to everything.

    Raises:
        UserError: empty sets, different widths, or values that are not finite.
    """
    query, gallery = check_features(query, "query"), check_features(gallery, "gallery")
    require_same_width(query, gallery)
    return exact_product(query, gallery)


def exact_product(query: np.ndarray, gallery: np.ndarray) -> np.ndarray:
    """Return :func:`cosine_similarity` of (Q, D) and (G, D) features that are known to be in order."""
    product = np.empty((len(query), len(gallery)), np.float32)
    theirs = whole_numbers(gallery)
    for start in range(0, len(query), 512):  # so that the float64 product never stands in memory as a whole
        part = slice(start, start + 512)
        np.divide(multiply_exactly(whole_numbers(query[part]), theirs), STEPS, out=product[part])
    return product


def whole_numbers(features: np.ndarray) -> torch.Tensor:
    """Scale (N, D) features to length 2^26 and round them to whole numbers, in float64; zero vectors stay zero."""
    features = np.ascontiguousarray(features)  # so that equal features get equal lengths to the last digit
    size = torch.from_numpy(lengths(features))[:, None]  # (N, 1) float64
    return torch.div(torch.from_numpy(features), size).mul_(FINE).round_()


def multiply_exactly(query: torch.Tensor, gallery: torch.Tensor) -> np.ndarray:
    """Multiply (R, D) and (C, D) features of :func:`whole_numbers`: the one product behind every similarity.

    Returns:
        (R, C) float32, the similarity in ``STEPS``, rounded to a whole number of them.
    """
    product = torch.mm(query * (STEPS / FINE**2), gallery.T)
    return product.round_().float().clamp_(-STEPS, STEPS).numpy()


def without_same_camera(
    similarity: np.ndarray,
    query_labels: ArrayLike,
    gallery_labels: ArrayLike,
    query_cameras: ArrayLike,
    gallery_cameras: ArrayLike,
) -> np.ndarray:
    """Return (Q, G) similarities with -inf where a gallery image shows the query's person by the query's camera.

    Everything here takes a similarity of -inf as "not in this query's gallery".

    Args:
        similarity: (Q, G).
        query_labels: (Q,) labels.
        gallery_labels: (G,) labels.
        query_cameras: (Q,) cameras.
        gallery_cameras: (G,) cameras.

    Returns:
        (Q, G), a copy.
    """
    same_person = np.asarray(query_labels)[:, None] == np.asarray(gallery_labels)[None, :]
    same_camera = np.asarray(query_cameras)[:, None] == np.asarray(gallery_cameras)[None, :]
    return np.where(same_person & same_camera, -np.inf, similarity)
