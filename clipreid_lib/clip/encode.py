"""From pixels to features: normalise as the checkpoint wants, and run many images through the image tower."""

import contextlib
from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from clipreid_lib.clip.clip_towers import Backbone
from clipreid_lib.clip.device import allow_tf32, move
from clipreid_lib.clip.feed import Images, feed
from clipreid_lib.clip.image_features import ImageFeatures

BATCH = 128  # images at once


def normalise(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Map uint8 pixels (B, 3, H, W) to float32, where they lie, by means and deviations of each channel in [0, 1]."""
    middle, spread = (_per_channel(values, pixels.device) for values in (mean, std))
    # In place: new memory for each step would take longer than the arithmetic.
    return pixels.to(torch.float32, copy=True).div_(255).sub_(middle).div_(spread)


@lru_cache
def _per_channel(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Make the constants once: each copy to a GPU would be a wait."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


@torch.no_grad()
def encode(
    backbone: Backbone,
    pixels: Images,
    side: torch.Tensor | None = None,
    mirrored: bool = False,
    composer: nn.Module | None = None,
) -> ImageFeatures:
    """Return CLIP-ReID's features of many images, computed in float32 (on CUDA without TF32).

    Args:
        backbone: with any image tower.
        pixels: (N, 3, H, W) uint8, or anything indexed like it.
        side: (N,) each image's row of side information, from the backbone's ``side_rows``; None adds none.
        mirrored: add the mirrored image's features, as MBA-Net and CLIP-HandID do in their tests.
        composer: PromptSG's, which makes ``composed`` of the features and places of images; None composes nothing.

    Returns:
        Features of (N, D), un-normalised, float32 on the CPU; their ``embedding`` is what tests compare.
    """
    backbone.eval()
    if composer is not None:
        composer.eval()

    def see(images: torch.Tensor, mine: torch.Tensor | None) -> dict[str, torch.Tensor]:
        features = see_images(backbone, images, mine, composer)[0]
        return {name: value for name, value in vars(features).items() if value is not None}

    rows = []
    side = None if side is None else move(side, backbone.device)
    with allow_tf32(False):
        for part, seen in feed(pixels, torch.arange(len(pixels)).split(BATCH), backbone.device):
            images, mine = normalise(seen, *backbone.normalisation), None if side is None else side[part]
            found = see(images, mine)
            if mirrored:
                other = see(images.flip(3), mine)
                found = {name: found[name] + other[name] for name in found}
            rows.append(found)  # they stay on the device until all are there: no wait per batch
    given = {name: torch.cat([row[name] for row in rows]).cpu() for name in rows[0]}
    return ImageFeatures(**given)


def see_images(
    backbone: Backbone,
    images: torch.Tensor,
    side: torch.Tensor | None = None,
    composer: nn.Module | None = None,
    number: torch.dtype = torch.float32,
) -> tuple[ImageFeatures, torch.Tensor | None]:
    """Run the image tower in a number format, and PromptSG's composer, if there is one, in float32.

    Args:
        backbone: with any image tower.
        images: (B, 3, H, W), normalised.
        side: (B,) rows of side information; None adds none.
        composer: as for :func:`encode`.
        number: format of the tower's products.

    Returns:
        The features in float32, and with a composer each image's text feature, (B, embed_dim).
    """
    half = torch.autocast(images.device.type, number) if number is not torch.float32 else contextlib.nullcontext()
    if composer is None:
        with half:
            return backbone.image_features(images, side).to_float32(), None
    with half:
        features, tokens = backbone.image_tokens(images, side)
    features = features.to_float32()
    with allow_tf32(False):
        composed, text = composer(backbone, features, tokens.float())
    return replace(features, composed=composed), text
