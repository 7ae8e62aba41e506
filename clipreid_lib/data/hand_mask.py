"""Where the hand is: what differs from a plain backdrop, or a reason why that cannot be told.

The backdrop is a smooth surface of colour, fitted where the border of the picture shows it; hands reach in over one
side, which is left out. A pixel's distance to it is split in two by Otsu's threshold, and the largest connected part
of the far ones is the hand, with a sleeve where there is one. This needs a plain backdrop, and says so where it has
none: a mask that is not to be trusted is worse than none.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import ndimage

RING = 1 / 24  # of the picture's sides: the border that is looked at
PLAIN = 6.0  # of colour distance that four in five pixels of three sides keep to; a visible step is about 2
# A painted nail is farther off than skin, but no more certainly the hand: beyond this all is equally far.
FAR = 30.0
APART = 8.0  # between the mean colour distances of hand and backdrop; below, nothing stands out
SEPARATED = 0.75  # of the variance that the two classes must explain (Otsu's measure); an even spread has 0.75
SIDES = 2  # of the picture that a hand touches at most: a wrist in a corner touches two
SMALLEST, LARGEST = 0.08, 0.75  # of the picture's area
WHOLE = 0.85  # of all far pixels that the largest part must hold; else there are several things
# Shadows change lightness and hardly colour, skin changes both: lightness counts half.
LIGHTNESS = 0.5
# From linear sRGB to XYZ (IEC 61966-2-1), each row divided by the white D65's.
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
TO_XYZ = (TO_XYZ / TO_XYZ.sum(axis=1, keepdims=True)).astype(np.float32)
LINEAR = np.arange(256) / 255.0  # of each 8-bit value
LINEAR = np.where(LINEAR <= 0.04045, LINEAR / 12.92, ((LINEAR + 0.055) / 1.055) ** 2.4).astype(np.float32)


@dataclass(frozen=True)
class Found:
    """What was found in one picture.

    Attributes:
        mask: (H, W) bool, true on the hand; nothing is true where it is refused.
        refused: why there is no mask that can be trusted; empty where there is one.
    """

    mask: np.ndarray
    refused: str = ""


def find_hand(image: np.ndarray) -> Found:
    """Find the hand on a plain backdrop.

    Otsu (1979), "A threshold selection method from gray-level histograms", gives the threshold and the measure of how
    well it separates.

    Args:
        image: (H, W, 3) uint8, RGB; from some 48 pixels a side on.

    Returns:
        The mask. It is refused where the border is not plain, where nothing stands out, and where what stands out is
        no single thing, touches three sides, or fills less than 8 or more than 75 per cent of the picture.
    """
    colours = to_lab(image)
    nothing = np.zeros(image.shape[:2], bool)
    border = _choose_border(colours)
    if border is None:
        return Found(nothing, "the border is not plain")
    outside = border
    for _ in range(2):  # the second time with all of the backdrop, for light that falls off
        far = measure_distance(colours, fit_surface(colours, outside))
        threshold, share = split(far)
        mask = far > threshold
        if not mask.any() or mask.all() or far[mask].mean() - far[~mask].mean() < APART:
            return Found(nothing, "nothing stands out from the backdrop")
        outside = ~ndimage.binary_dilation(mask, iterations=2)
        if outside.sum() < 0.1 * outside.size:
            return Found(nothing, "it fills the picture")
    if share < SEPARATED:
        return Found(nothing, "hand and backdrop are not separated")
    parts, number = ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=number + 1)[1:]
    if sizes.max() < WHOLE * sizes.sum():
        return Found(nothing, "several things stand out")
    hand = ndimage.binary_fill_holes(parts == sizes.argmax() + 1)
    if sum(edge.any() for edge in (hand[0], hand[-1], hand[:, 0], hand[:, -1])) > SIDES:
        return Found(nothing, "it reaches across the picture")
    if not SMALLEST <= hand.mean() <= LARGEST:
        return Found(nothing, "what stands out is too small or too large")
    return Found(hand)


def to_lab(image: np.ndarray) -> np.ndarray:
    """Turn sRGB (H, W, 3) uint8 into CIELAB (CIE 1976, white D65), (H, W, 3) float32, whose distances are seen ones."""
    ratio = LINEAR[image] @ TO_XYZ.T
    bent = np.where(ratio > (6 / 29) ** 3, np.cbrt(ratio), ratio / (3 * (6 / 29) ** 2) + 4 / 29)
    x, y, z = np.moveaxis(bent, 2, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=2)


def measure_distance(colours: np.ndarray, backdrop: np.ndarray) -> np.ndarray:
    """Return the distance of CIELAB colours (..., 3) to the backdrop's, (...), lightness counting half, at most FAR."""
    gap = (colours - backdrop) * np.array([LIGHTNESS, 1, 1], np.float32)
    return np.minimum(np.sqrt((gap * gap).sum(axis=-1)), FAR)


def fit_surface(values: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Fit a plane to each channel of (H, W, C) values where a mask (H, W) is true, and return it everywhere.

    Fitted twice, the second time without the tenth of the pixels that lies farthest off.
    """
    known, flat, terms = np.flatnonzero(where), values.reshape(where.size, -1).T, _lay_plane(*where.shape)  # (3, H * W)
    for _ in range(2):
        mine, seen = terms.take(known, 1), flat.take(known, 1)
        factors = np.linalg.lstsq(mine @ mine.T, mine @ seen.T, rcond=None)[0]  # 3 x 3, and well conditioned
        off = np.abs(seen - factors.T @ mine).sum(axis=0)
        known = known[off <= np.quantile(off, 0.9)]
    return (terms.T @ factors).reshape(values.shape).astype(values.dtype)


@lru_cache(4)  # all pictures of a set have one size
def _lay_plane(height: int, width: int) -> np.ndarray:
    """Return the terms of a plane, (3, H * W): 1, and where a pixel stands, down and across, from -1 to 1."""
    down, across = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
    return np.stack([np.ones_like(down), down, across]).reshape(3, -1)


def split(values: np.ndarray) -> tuple[float, float]:
    """Return Otsu's threshold of non-negative values, and the share of their variance between the two classes."""
    top = float(values.max()) or 1.0
    counts = np.bincount((values.ravel() * (255 / top)).astype(int), minlength=256).astype(float)
    middles = (np.arange(256) + 0.5) * top / 255
    below, total = counts.cumsum()[:-1], counts.sum()
    moment = (counts * middles).cumsum()
    mean = moment[-1] / total
    both = below * (total - below)  # 0 where one class is empty
    between = np.where(both > 0, (mean * below - moment[:-1]) ** 2 / np.maximum(both, 1), 0)
    place = int(between.argmax())
    variance = float((counts * (middles - mean) ** 2).sum() / total)
    return (place + 1) * top / 255, float(between[place]) / variance if variance else 0.0


def _choose_border(colours: np.ndarray) -> np.ndarray | None:
    """Return the border's pixels on the three sides that agree best, (H, W); None where they are not of one colour."""
    height, width = colours.shape[:2]
    deep = max(2, round(RING * min(height, width)))
    down, across = np.ogrid[:height, :width]
    top, bottom, left, right = down < deep, down >= height - deep, across < deep, across >= width - deep
    found = []
    for three in (left | right | bottom, left | right | top, top | bottom | right, top | bottom | left):
        off = measure_distance(colours[three], np.median(colours[three], axis=0))
        found.append((float(np.quantile(off, 0.8)), three, off))
    spread, three, off = min(found, key=lambda each: each[0])
    if spread > PLAIN:
        return None
    three[three] = off <= spread
    return three
