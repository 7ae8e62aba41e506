"""Pixels: decode each image once into memory, normalise as the checkpoint wants, augment for training.

The whole picture is squashed to a square (hands fill most of the frame; a centre crop would cut fingers off)
and the same rule serves training, zero-shot and evaluation. Nothing is ever flipped: a mirrored right hand
is a left hand.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from clipreid_lib import _compat  # noqa: F401  torchvision must come in through the repaired door
from clipreid_lib.errors import UserError

from torchvision.transforms import v2  # isort: skip


def decode(path: Path, size: int) -> torch.Tensor:
    """Read one image, apply its EXIF rotation and squash it to a square.

    Args:
        path: any file Pillow reads.
        size: side in pixels.

    Returns:
        uint8 tensor of shape (3, size, size), RGB.

    Raises:
        UserError: the file is missing, is no image, or ends early.
    """
    try:
        with Image.open(path) as image:
            image.draft("RGB", (2 * size, 2 * size))  # lets JPEG decode at a fraction; other formats ignore it
            image = ImageOps.exif_transpose(image).convert("RGB")
            image = image.resize((size, size), Image.Resampling.BICUBIC)
    except FileNotFoundError:
        raise UserError(f"{path}: image not found") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UserError(f"{path}: is not an image that can be read{reason}") from None
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def load_pixels(table: pd.DataFrame, root: Path, size: int) -> torch.Tensor:
    """Decode every row's image, on all cores (Pillow releases the interpreter lock while it decodes).

    Returns:
        uint8 tensor of shape (rows, 3, size, size), in the table's order. 1,000 images at 224 take 150 MB.

    Raises:
        UserError: as :func:`decode`, for the first image that fails.
    """
    pixels = torch.empty((len(table), 3, size, size), dtype=torch.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, image in enumerate(pool.map(lambda path: decode(Path(root) / path, size), table["path"])):
            pixels[row] = image
    return pixels


def normalise(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Map uint8 pixels (B, 3, H, W) to float32 with the checkpoint's channel means and deviations."""
    mean = torch.tensor(mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float() / 255 - mean) / std


class Augment:
    """CLIP-ReID's training augmentation without its flip: pad, random crop, then erase a rectangle.

    Draws from torch's global generator, which the training loop seeds per epoch.

    Args:
        size: side of the images in pixels.
    """

    def __init__(self, size: int):
        """Build the transforms for one image size."""
        pad = max(2, round(size * 10 / 256))  # 10 pixels of 256 in CLIP-ReID
        self.crop = v2.RandomCrop(size, padding=pad, padding_mode="edge")  # edge: hands lie on a plain backdrop
        self.erase = v2.RandomErasing(p=0.5, value=0)  # after normalising, 0 is the mean colour

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Augment each image of a normalised batch (B, 3, H, W) on its own."""
        return torch.stack([self.erase(self.crop(image)) for image in images])
