"""Pixels: open any photograph as upright RGB, decode it to a network's size, read a table's images on all cores.

By default the whole picture is squashed (hands fill most of the frame; a centre crop would cut fingers off). The
same rule serves training, zero-shot and evaluation of a run.
"""

import io
import os
import re
import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, UnidentifiedImageError

from clipreid_lib.base.errors import UnreadableImage
from clipreid_lib.data.image_store import ImageStore
from clipreid_lib.params.image_sizes import parse_size

# What `decode` can do, by its name in params, and the name of the store that holds the outcome, whose number goes up
# whenever the same file would give other pixels.
RULES = {
    **{"squash": "bicubic-2", "crop": "bicubic-crop-2"},
    **{"squash, bilinear": "bilinear-2", "crop, bilinear": "bilinear-crop-2"},
}
# EXIF's orientation -> what turns the picture upright (Pillow's own helper rewrites all tags, and fails on odd ones).
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Of 16 bits' 65535: an image all of whose pixels lie below holds 14 bits or fewer. What its white is, it does not say.
WHITE = 2**14
BLANK = 0.01  # of grey's full range: the contrast (standard deviation) below which an image shows nothing
warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # Pillow warns at half of the limit that is told below

# What Pillow raises on files that are broken in one way or another.
BROKEN = (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, struct.error)


def open_rgb(path: str | Path, side: int, content: bytes | None = None) -> Image.Image:
    """Open an image upright and as 8-bit RGB.

    EXIF rotation is applied; 16 bits lose their low byte; CMYK, palettes and grey are converted; what is transparent
    shows white. Scanners and vein cameras write 8 to 14 bits into files of 16. Such an image is refused: only whoever
    made the set knows the scale, and guessed image by image it would differ between two images of one set.

    Args:
        path: the file.
        side: JPEGs may be decoded at a fraction that leaves both sides at least twice this: several times faster.
        content: the file's bytes, where they have been read already.

    Raises:
        UnreadableImage: the file is missing, is no image, ends early, is too large, holds more than 16 bits per
            channel, or is of 16 bits and uses 14 or fewer.
    """
    try:
        # Not by its name: Pillow would map the file into memory, and scrambles plain grey TIFFs that it also turns.
        with open(path, "rb") if content is None else io.BytesIO(content) as stream, Image.open(stream) as file:
            file.draft("RGB", (2 * side, 2 * side))  # formats other than JPEG ignore it
            cut = re.search(";16[BLN]", str(getattr(file, "tile", "")))  # Pillow keeps the high byte of each colour
            file.load()
            return turn_to_rgb(file, path, cut=cut is not None)
    except FileNotFoundError:
        raise UnreadableImage(f"{path}: image not found") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6
        raise UnreadableImage(
            f"{path}: is too large; at most {most:.0f} megapixels are read, save it smaller"
        ) from None
    except BROKEN as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UnreadableImage(f"{path}: is not an image that can be read{reason}") from None


def turn_to_rgb(image: Image.Image, name: str | Path, cut: bool = False) -> Image.Image:
    """Turn a loaded image upright and make it 8-bit RGB, as :func:`open_rgb` says.

    Args:
        image: of any kind that Pillow knows.
        name: what errors call it.
        cut: Pillow has kept the high byte alone of its 16 bits.

    Raises:
        UnreadableImage: it holds more than 16 bits per channel, or 16 of which it uses 14 or fewer.
    """
    # Asked for after the pixels are there: Pillow turns a TIFF while it loads, and then clears the tag.
    turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    image = image if turn is None else image.transpose(turn)
    if image.mode.startswith(("I", "F")):  # Pillow's own conversion would cut everything above 255 off
        deep = np.asarray(image)
        if image.mode == "F" or deep.min() < 0 or deep.max() > 65535:
            raise UnreadableImage(f"{name}: holds more than 16 bits per channel; save it with 8")
        _refuse_dark(name, int(deep.max()))
        image = Image.fromarray((deep.astype(np.uint16) >> 8).astype(np.uint8))
    elif cut:
        _refuse_dark(name, int(np.asarray(image.convert("RGB")).max()) << 8 | 255)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _refuse_dark(path: str | Path, brightest: int) -> None:
    if 0 < brightest < WHITE:
        raise UnreadableImage(
            f"{path}: is of 16 bits, but its brightest pixel is {brightest} of 65535, as if it held "
            f"{max(8, brightest.bit_length())} bits; save all images of the set with 8 bits, by one scale"
        )


def decode(
    path: str | Path, size: int | tuple[int, int], content: bytes | None = None, rule: str = "squash"
) -> np.ndarray:
    """Read one image at a size.

    Args:
        path: any file Pillow reads.
        size: (height, width) in pixels, or a square's side.
        content: the file's bytes, where they have been read already.
        rule: ``squash`` resizes the whole picture, whatever its shape. ``crop`` keeps its shape and cuts out the
            centre, as OpenAI prepares CLIP's images. ``squash, bilinear`` and ``crop, bilinear`` interpolate bilinearly
            (with antialiasing, as Pillow does), where the others are bicubic.

    Returns:
        (3, height, width) uint8, RGB.

    Raises:
        UnreadableImage: as :func:`open_rgb`.
    """
    return fit(open_rgb(path, max(parse_size(size)), content), size, rule)


def fit(image: Image.Image, size: int | tuple[int, int], rule: str = "squash") -> np.ndarray:
    """Bring an RGB image to a size as :func:`decode` does, whose arguments these are; (3, height, width) uint8."""
    height, width = parse_size(size)
    shape, _, bilinear = rule.partition(", ")
    how = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
    image = _cover(image, height, width, how) if shape == "crop" else image.resize((width, height), how)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def is_blank(pixels: np.ndarray) -> bool:
    """Whether an image (3, H, W) uint8 is of one colour, as of a lens cap or an empty scan."""
    return bool(pixels.mean(axis=0).std() / 255 < BLANK)


def _cover(image: Image.Image, height: int, width: int, how: Image.Resampling) -> Image.Image:
    """Resize until the picture just covers the size and cut the centre, rounding as torchvision does for OpenAI."""
    if width * image.height >= height * image.width:  # the picture is too high: its width decides
        scaled = width, max(height, int(width * image.height / image.width))
    else:
        scaled = max(width, int(height * image.width / image.height)), height
    image = image.resize(scaled, how)
    left, top = round((scaled[0] - width) / 2), round((scaled[1] - height) / 2)
    return image.crop((left, top, left + width, top + height))


def on_all_cores(task: Callable, items: Iterable) -> Iterator:
    """Map a task over items in threads, in order; Pillow and hashlib release the interpreter lock while at work."""
    pool = ThreadPoolExecutor(len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)))
    try:
        yield from pool.map(task, items)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C nobody waits for the rest


@dataclass(frozen=True)
class Photographs:
    """A data set's image files, and the store that may hold them decoded."""

    root: Path  # folder that the table's paths are relative to
    store: Path | None = None  # folder of the :class:`~clipreid_lib.data.image_store.ImageStore`; None: the files alone
    rule: str = "squash"  # how a picture gets to a size, as for :func:`decode`

    def load(self, table: pd.DataFrame, size: int | tuple[int, int]) -> np.ndarray:
        """Read the image of every ``path`` of a table at (height, width) pixels, or as squares of one side.

        Returns:
            (rows, 3, height, width) uint8, in the table's order. 1,000 images at 224 take 150 MB.

        Raises:
            UnreadableImage: as :func:`decode`, for the first image that fails.
        """
        pixels = np.empty((len(table), 3, *parse_size(size)), dtype=np.uint8)
        store = self.at(size)
        read = store.read if store else partial(decode, size=size, rule=self.rule)
        for row, image in enumerate(on_all_cores(read, [self.root / path for path in table["path"]])):
            pixels[row] = image
        return pixels

    def at(self, size: int | tuple[int, int], make: bool = False) -> ImageStore | None:
        """Return the store of one size and this rule; None where there is none and none is to be made."""
        if self.store is None:
            return None
        store = ImageStore(self.store, parse_size(size), RULES[self.rule], partial(decode, rule=self.rule))
        return store if make or store.folder.is_dir() else None
