"""Cosine similarity: how alike two sets of features are.

**Equal features get equal scores**, wherever they stand and in whichever block. Features of length one are rounded to
whole multiples of 2^-26, so every product and every sum of products is a multiple of 2^-52 below 2. float64 holds all
of those, so the sum is exact in any order, on any processor. The price is an error of the cosine: at most
sqrt(D) * 2^-26 for D numbers per feature (3e-7 at 512), some 1e-8 for features of no special pattern.
"""

import numpy as np
import torch

from clipreid_lib.base.errors import UserError

Features = torch.Tensor | np.ndarray  # (N, D)
LARGEST, SMALLEST = 1e15, 1e-15  # beyond: an exploded network; below: a zero vector. Squares of both fit a float32.
FINE = 2.0**26  # steps of a feature's number in [-1, 1]: a product has 2^52, the most that float64 adds exactly
STEPS = 2.0**24  # steps of a similarity in [0, 1]: all that float32 holds, and coarse enough that a right angle is 0


def check_features(query: Features, gallery: Features) -> tuple[np.ndarray, np.ndarray]:
    """Return (Q, D) and (G, D) features as arrays, after looking at every value; float32 and float64 are not copied.

    Raises:
        UserError: another shape, different widths, no image, no numbers, or a value not finite or beyond 1e15.
    """
    arrays = _check(query, "query"), _check(gallery, "gallery")
    widths = [array.shape[1] for array in arrays]
    if widths[0] != widths[1]:
        raise UserError(f"query features have width {widths[0]}, gallery features {widths[1]}")
    return arrays


def scale_to_unit(features: np.ndarray) -> np.ndarray:
    """Return (N, D) features scaled to length one, in float64; zero vectors stay zero."""
    wide = features.astype(np.float64, order="C")  # so that equal features get equal lengths to the last digit
    norms = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    wide /= np.where(norms > SMALLEST, norms, np.inf)[:, None]
    return wide


def cosine_similarity(query: Features, gallery: Features) -> np.ndarray:
    """Cosine of every query with every gallery feature; equal features get equal scores, as the module says.

    Returns:
        For (Q, D) and (G, D) tensors or arrays, (Q, G) float32 multiples of 2^-24 in [-1, 1]. A zero vector has
        similarity 0 to everything.

    Raises:
        UserError: as :func:`check_features`.
    """
    query, gallery = check_features(query, gallery)
    product, theirs = np.empty((len(query), len(gallery)), np.float32), scale_to_whole(gallery)
    for start in range(0, len(query), 512):  # so that the float64 product never stands in memory as a whole
        part = slice(start, start + 512)
        np.divide(multiply_exactly(scale_to_whole(query[part]), theirs), STEPS, out=product[part])
    return product


def scale_to_whole(features: np.ndarray) -> torch.Tensor:
    """Scale (N, D) features to length 2^26 and round them to whole numbers, in float64; zero vectors stay zero."""
    return torch.from_numpy(scale_to_unit(features)).mul_(FINE).round_()


def multiply_exactly(query: torch.Tensor, gallery: torch.Tensor) -> np.ndarray:
    """Multiply (R, D) and (C, D) features of :func:`scale_to_whole`: the one product behind every similarity.

    Returns:
        (R, C) float32, the similarity in ``STEPS``, rounded to a whole number of them.
    """
    product = torch.mm(query * (STEPS / FINE**2), gallery.T)
    return product.round_().float().clamp_(-STEPS, STEPS).numpy()


def _check(features: Features, name: str) -> np.ndarray:
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
    sane = (array.min(axis=1) >= -LARGEST) & (array.max(axis=1) <= LARGEST)  # false for NaN as well
    if not sane.all():
        row = int(np.argmin(sane))
        raise UserError(f"{name} features: row {row} holds a value that is not finite or beyond {LARGEST:.0e}")
    return array
