"""Augmentation for training. Nothing is ever flipped: a mirrored right hand is a left hand."""

import torch

from clipreid_lib.base import import_fixes  # noqa: F401  before torchvision
from clipreid_lib.params.image_sizes import parse_size

from torchvision.transforms import v2  # isort: skip


class Augment:
    """CLIP-ReID's training augmentation without its flip: pad, random crop, then erase a rectangle.

    Erasing is random erasing (Zhong et al. 2017, arXiv 1708.04896), of every other image on average. It pads with the
    edge's colour, not black, and erases with the mean, not noise: hands lie on a plain backdrop. It draws from torch's
    global generator, which the training loop seeds per epoch.

    Args:
        size: of the images, (height, width) in pixels or a square's side.
    """

    def __init__(self, size: int | tuple[int, int]) -> None:
        """Build the transforms for one image size."""
        size = parse_size(size)
        pad = max(2, round(max(size) * 10 / 256))  # on all sides; 10 pixels for 256 x 128 in CLIP-ReID
        self.crop = v2.RandomCrop(size, padding=pad, padding_mode="edge")
        self.erase = v2.RandomErasing(p=0.5, value=0)  # after normalising, 0 is the mean colour

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Augment each image of a normalised batch (B, 3, H, W) on its own."""
        return torch.stack([self.erase(self.crop(image)) for image in images])
