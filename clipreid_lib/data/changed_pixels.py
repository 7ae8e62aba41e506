"""Photographs changed on purpose: one thing is taken out, so that a test can say what the network went by.

Each change takes a picture of (H, W, 3) uint8, the mask of its hand (H, W), and the picture's path, and returns a
picture of the same shape. What a change does not need, it leaves unread.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.data.hand_mask import Found, find_hand, fit_surface

WHITE = 255  # behind every hand alone and every silhouette: most photographs of 11k Hands have it
# Of the picture's side around a mask that is hand, too: soft edges, JPEG's ringing, fingertips behind a bleached band.
REACH = 1 / 8
# A pixel is seen if it differs from the backdrop by FAINT levels of 255 and, in a grainy picture, by GRAIN times the
# median difference. Traces of an outline name people: on 100 x 100 JPEGs of 11k Hands (dorsal right), frozen, rank-1
# was 28 % with all of them, 10 % with those that are seen, 2 % with none (measured).
FAINT, GRAIN = 8, 6
SQUARE = np.ones((3, 3), bool)  # neighbours of a pixel, and the smallest thing
LIGHT, TINT = (0.7, 1.3), (0.9, 1.1)  # factors of all channels, and of each: another lamp, not another world


class Change(NamedTuple):
    """One change: how it is made, whether it needs a mask, and whether the gallery stays as it is."""

    make: Callable[[np.ndarray, np.ndarray, str], np.ndarray]
    masked: bool = False
    queries_only: bool = False


def keep_hand(image: np.ndarray, mask: np.ndarray, path: str) -> np.ndarray:
    """Paint everything but the hand white."""
    return np.where(mask[..., None], image, np.uint8(WHITE))


def keep_background(image: np.ndarray, mask: np.ndarray, path: str) -> np.ndarray:
    """Paint the backdrop, a plane of colour fitted away from the hand, over all but things that stand clear of it.

    What is seen before the backdrop and hangs together with the mask's surroundings goes with the hand: its shadow, and
    what the mask missed.
    """
    near = ndimage.binary_dilation(mask, iterations=max(1, round(REACH * min(mask.shape))))
    if near.all():
        return np.full_like(image, WHITE)
    backdrop = fit_surface(image.astype(np.float32), ~near).round().clip(0, 255).astype(np.uint8)
    off = np.abs(image.astype(int) - backdrop).max(axis=2)
    seen = off >= max(FAINT, GRAIN * np.median(off[~near]))
    hand = ndimage.binary_propagation(near, SQUARE, near | seen)
    return np.where(ndimage.binary_opening(seen & ~hand, SQUARE)[..., None], image, backdrop)


def keep_silhouette(image: np.ndarray, mask: np.ndarray, path: str) -> np.ndarray:
    """Paint the hand black and everything else white."""
    return np.where(mask[..., None], np.uint8(0), np.full_like(image, WHITE))


def turn_grey(image: np.ndarray, mask: np.ndarray, path: str) -> np.ndarray:
    """Give all channels the luma of ITU-R 601."""
    grey = (image @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


def halve(image: np.ndarray, mask: np.ndarray, path: str) -> np.ndarray:
    """Halve the resolution: the means of two by two pixels, interpolated bilinearly to the size before."""
    height, width = mask.shape
    small = Image.fromarray(image).resize((max(1, width // 2), max(1, height // 2)), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR))


def relight(image: np.ndarray, mask: np.ndarray, path: str) -> np.ndarray:
    """Multiply brightness and colour by factors of the picture's own, always the same for one path."""
    draw = np.random.default_rng(stable_seed("brightness and colour", path)).uniform
    factors = draw(*LIGHT) * draw(*TINT, size=3)
    return (image * factors).round().clip(0, 255).astype(np.uint8)


def mirror(image: np.ndarray, mask: np.ndarray, path: str) -> np.ndarray:
    """Swap left and right."""
    return image[:, ::-1]


CHANGES = {
    "hand alone": Change(keep_hand, masked=True),
    "background alone": Change(keep_background, masked=True),
    "silhouette alone": Change(keep_silhouette, masked=True),
    "grey": Change(turn_grey),
    "half resolution": Change(halve),
    "brightness and colour": Change(relight),
    # As where a photocopy asks, or a camera without colour: the gallery stays as it is.
    "queries grey": Change(turn_grey, queries_only=True),
    # A network that sees everything mirrored sees everything alike: only against a gallery as it is, it is a question.
    "queries mirrored": Change(mirror, queries_only=True),
}


def change_all(image: np.ndarray, path: str) -> tuple[Found, dict[str, np.ndarray]]:
    """Find a picture's hand, and make every change of the picture that it can: without a mask, those that need none."""
    found = find_hand(image)
    needed = {name: change for name, change in CHANGES.items() if not (change.masked and found.refused)}
    return found, {name: change.make(image, found.mask, path) for name, change in needed.items()}
