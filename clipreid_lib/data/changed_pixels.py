"""Photographs changed on purpose: one thing is taken out, so that a test can say what the network went by.

Each change takes a picture of (H, W, 3) uint8, the mask of its hand (H, W), and the picture's path, and returns a
picture of the same shape. What a change does not need, it leaves unread.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import ndimage

from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.data.hand_mask import fit_surface
from clipreid_lib.data.pixels import PixelsOnDemand

WHITE = 255  # behind every hand alone and every silhouette: most photographs of 11k Hands have it
MARGIN = 1 / 16  # of the picture's side around the hand that goes with it: soft edges, JPEG's ringing, its shadow
# Levels of 255 by which a pixel must differ from the backdrop to be kept. Fainter traces of the hand's outline are
# invisible and yet name people: on 100 x 100 JPEGs of 11k Hands rank-1 was 28 % with them, 10 % without (measured).
FAINT = 8
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
    """Paint the hand and a margin around it over with the backdrop: a plane of colour, fitted to what is left.

    What is left shows where it differs from that plane visibly: shadows, light, things in a corner.
    """
    reach = max(1, round(MARGIN * min(mask.shape)))
    gone = ndimage.binary_dilation(mask, iterations=reach)
    if gone.all():
        return np.full_like(image, WHITE)
    backdrop = fit_surface(image.astype(np.float32), ~gone).round().clip(0, 255).astype(np.uint8)
    gone |= np.abs(image.astype(int) - backdrop).max(axis=2) < FAINT
    return np.where(gone[..., None], backdrop, image)


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
    # A network that sees everything mirrored sees everything alike: only against a gallery as it is, it is a question.
    "queries mirrored": Change(mirror, queries_only=True),
}


@dataclass(frozen=True)
class ChangedPixels:
    """Some of a table's pixels with a change, (N, 3, H, W) uint8, made when they are asked for."""

    pixels: torch.Tensor | PixelsOnDemand
    rows: torch.Tensor  # (N,) of the pixels, which of them there are
    masks: np.ndarray  # of all pixels, (all, H, W) bool
    paths: list[str]  # of all pixels
    change: Change

    def __len__(self) -> int:
        """Return N."""
        return len(self.rows)

    def __getitem__(self, places: torch.Tensor) -> torch.Tensor:
        """Return the (B, 3, H, W) uint8 at (B,) places."""
        rows = self.rows[places]
        images = self.pixels[rows].permute(0, 2, 3, 1).numpy()
        each = zip(images, rows.tolist(), strict=True)
        made = [self.change.make(image, self.masks[row], self.paths[row]) for image, row in each]
        return torch.from_numpy(np.ascontiguousarray(np.stack(made).transpose(0, 3, 1, 2)))
