"""Pixels: open any photograph as upright RGB, decode it to a square, read a table's images on all cores.

The whole picture is squashed to a square (hands fill most of the frame; a centre crop would cut fingers off)
and the same rule serves training, zero-shot and evaluation.
"""

import io
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import ExifTags, Image, UnidentifiedImageError

from clipreid_lib.errors import UnreadableImage
from clipreid_lib.image_store import ImageStore

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
RULE = "bicubic-1"  # names what decode does; goes up whenever the same file would give other pixels


# What Pillow raises on files that are broken in one way or another.
BROKEN = (UnidentifiedImageError, OSError, SyntaxError, ValueError, TypeError, struct.error)


def open_rgb(path: str | Path, side: int, content: bytes | None = None) -> Image.Image:
    """Open an image upright and as 8-bit RGB.

    EXIF rotation is applied; 16-bit grey loses its low byte; CMYK, palettes and grey are converted; what is
    transparent shows white.

    Args:
        path: the file.
        side: JPEGs may be decoded at a fraction that leaves both sides at least twice this, which is several
            times faster.
        content: the file's bytes, where they have been read already.

    Raises:
        UnreadableImage: the file is missing, is no image, ends early, or holds more than 16 bits per channel.
    """
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            image.draft("RGB", (2 * side, 2 * side))  # formats other than JPEG ignore it
            turn = UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
            image.load()
            image = image if turn is None else image.transpose(turn)
            if image.mode.startswith(("I", "F")):  # Pillow's own conversion would cut everything above 255 off
                deep = np.asarray(image)
                if image.mode == "F" or deep.min() < 0 or deep.max() > 65535:
                    raise UnreadableImage(f"{path}: holds more than 16 bits per channel; save it with 8")
                bits = 0 if image.mode == "I" and deep.max() < 256 else 8  # small numbers in a wide format
                image = Image.fromarray((deep.astype(np.uint16) >> bits).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
            return image.convert("RGB")
    except FileNotFoundError:
        raise UnreadableImage(f"{path}: image not found") from None
    except (*BROKEN, Image.DecompressionBombError) as error:
        reason = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise UnreadableImage(f"{path}: is not an image that can be read{reason}") from None


def decode(path: str | Path, size: int, content: bytes | None = None) -> np.ndarray:
    """Read one image and squash it to a square.

    Args:
        path: any file Pillow reads.
        size: side in pixels.
        content: the file's bytes, where they have been read already.

    Returns:
        (3, size, size) uint8, RGB.

    Raises:
        UnreadableImage: as :func:`open_rgb`.
    """
    image = open_rgb(path, size, content).resize((size, size), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def on_all_cores(task: Callable, items: Iterable) -> Iterator:
    """Map a task over items in threads, in order; Pillow and hashlib release the interpreter lock while at work."""
    pool = ThreadPoolExecutor(len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0)))
    try:
        yield from pool.map(task, items)
    finally:
        pool.shutdown(cancel_futures=True)  # after an error or Ctrl-C nobody waits for the rest


@dataclass(frozen=True)
class Photographs:
    """A data set's image files, and the store that may hold them decoded.

    Attributes:
        root: folder that the table's paths are relative to.
        store: folder of the :class:`~clipreid_lib.image_store.ImageStore`; None reads the files alone.
    """

    root: Path
    store: Path | None = None

    def load(self, table: pd.DataFrame, size: int) -> np.ndarray:
        """Read every row's image.

        Returns:
            (rows, 3, size, size) uint8, in the table's order. 1,000 images at 224 take 150 MB.

        Raises:
            UnreadableImage: as :func:`decode`, for the first image that fails.
        """
        pixels = np.empty((len(table), 3, size, size), dtype=np.uint8)
        store = self.at(size)

        def read(path: str) -> np.ndarray:
            return store.read(self.root / path) if store else decode(self.root / path, size)

        for row, image in enumerate(on_all_cores(read, table["path"])):
            pixels[row] = image
        return pixels

    def at(self, size: int, make: bool = False) -> ImageStore | None:
        """Return the store of one size; None where there is none and none is to be made."""
        if self.store is None:
            return None
        store = ImageStore(self.store, size, RULE, decode)
        return store if make or store.folder.is_dir() else None
