"""From pixels to features: normalise as the checkpoint wants, and run many images through the image tower."""

from functools import lru_cache

import torch

from clipreid_lib.clip.clip_towers import Backbone, ImageFeatures
from clipreid_lib.clip.device import allow_tf32, move
from clipreid_lib.clip.feed import Images, feed

BATCH = 128  # images at once


def normalise(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Map uint8 pixels (B, 3, H, W) to float32 with the checkpoint's channel means and deviations.

    Args:
        pixels: (B, 3, H, W) uint8.
        mean: of each channel, of values in [0, 1].
        std: of each channel, likewise.

    Returns:
        (B, 3, H, W) float32, on the pixels' device.
    """
    middle, spread = (_per_channel(values, pixels.device) for values in (mean, std))
    # In place: new memory for each step would take longer than the arithmetic.
    return pixels.to(torch.float32, copy=True).div_(255).sub_(middle).div_(spread)


@lru_cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Make the constants once: each copy to a GPU would be a wait."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


@torch.no_grad()
def encode(
    backbone: Backbone, pixels: Images, side: torch.Tensor | None = None, mirrored: bool = False
) -> ImageFeatures:
    """Return CLIP-ReID's features of many images, computed in float32 (on CUDA without TF32).

    Args:
        backbone: with any image tower.
        pixels: (N, 3, H, W) uint8, or anything indexed like it.
        side: (N,) each image's row of side information, from the backbone's ``side_rows``; None adds none.
        mirrored: add the mirrored image's features, as MBA-Net and CLIP-HandID do in their tests.

    Returns:
        Features of (N, D), un-normalised, float32 on the CPU; their ``embedding`` is what tests compare.
    """
    backbone.eval()
    rows = []
    side = None if side is None else move(side, backbone.device)
    with allow_tf32(False):
        for part, seen in feed(pixels, torch.arange(len(pixels)).split(BATCH), backbone.device):
            images, mine = normalise(seen, *backbone.normalisation), None if side is None else side[part]
            three = _list(backbone.image_features(images, mine))
            if mirrored:
                other = _list(backbone.image_features(images.flip(3), mine))
                three = [one + its for one, its in zip(three, other, strict=True)]
            rows.append(three)  # they stay on the device until all are there: no wait per batch
    found = [torch.cat(column).cpu() for column in zip(*rows, strict=True)]
    return ImageFeatures(*found, *[None] * (3 - len(found)))


def _list(features: ImageFeatures) -> list[torch.Tensor]:
    """Return those features that the tower has: three, or two without a projection."""
    return [each for each in vars(features.to_float32()).values() if each is not None]
