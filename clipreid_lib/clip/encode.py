"""From pixels to features: normalise as the checkpoint wants, and run many images through the image tower."""

import torch

from clipreid_lib.clip.clip_towers import Backbone, ImageFeatures

BATCH = 128  # images at once


def normalise(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Map pixels (B, 3, H, W) uint8 to float32, by the channels' means and deviations of values in [0, 1]."""
    middle = torch.tensor(mean, device=pixels.device).view(1, 3, 1, 1)
    spread = torch.tensor(std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float() / 255 - middle) / spread


@torch.no_grad()
def encode(
    backbone: Backbone, pixels: torch.Tensor, side: torch.Tensor | None = None, mirrored: bool = False
) -> ImageFeatures:
    """Return CLIP-ReID's features of many images.

    Args:
        backbone: with any image tower.
        pixels: (N, 3, H, W) uint8.
        side: (N,) each image's row of side information, from the backbone's ``side_rows``; None adds none.
        mirrored: add the mirrored image's features, as MBA-Net and CLIP-HandID do in their tests.

    Returns:
        Features of (N, D), un-normalised, float32 on the CPU; their ``embedding`` is what tests compare.
    """
    backbone.eval()
    rows = []
    for start in range(0, len(pixels), BATCH):
        part = slice(start, start + BATCH)
        images = normalise(pixels[part].to(backbone.device), *backbone.normalisation)
        mine = None if side is None else side[part]
        three = vars(backbone.image_features(images, mine).to_float32())
        if mirrored:
            other = vars(backbone.image_features(images.flip(3), mine).to_float32())
            three = {name: three[name] + other[name] for name in three}
        rows.append([each.cpu() for each in three.values()])
    return ImageFeatures(*(torch.cat(column) for column in zip(*rows, strict=True)))
