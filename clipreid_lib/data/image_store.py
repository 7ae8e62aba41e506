"""The image store: each image decoded once, kept under the hash of its file, its size and the resampling.

A JPEG of 1600x1200 takes some ten milliseconds to decode however small it is wanted; its pixels at 224 can be read
in a fraction of one. ``clipreid data prepare`` fills the store, training and feature extraction read it where
it is there. The key is the content of the source file, so a changed image is decoded again::

    outputs/image_store/224-bicubic-2/3f/3fa9…c2.u8          3 x 224 x 224 bytes
    outputs/image_store/256x128-bicubic-2/3f/3fa9…c2.u8      3 x 256 x 128 bytes
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clipreid_lib.base.errors import UnreadableImage
from clipreid_lib.base.files import replacing
from clipreid_lib.params.image_sizes import spell

STORE = "image_store"  # its folder under outputs_root


@dataclass(frozen=True)
class ImageStore:
    """Decoded images of one size."""

    root: Path  # folder of all sizes
    size: tuple[int, int]  # (height, width) in pixels
    rule: str  # name of what ``decode`` does
    decode: Callable[[Path, tuple[int, int], bytes], np.ndarray]  # to (3, height, width) uint8

    @property
    def folder(self) -> Path:
        """Folder of this size and resampling."""
        return self.root / f"{spell(self.size)}-{self.rule}"

    @property
    def bytes_each(self) -> int:
        """What one image takes."""
        return 3 * self.size[0] * self.size[1]

    def read(self, source: Path) -> np.ndarray:
        """Return an image's pixels, (3, height, width) uint8, from the store where it has them, else from the file.

        Raises:
            UnreadableImage: the file is missing or no image.
        """
        content, _, kept = self._look(source)
        return self.decode(source, self.size, content) if kept is None else kept

    def prepare(self, source: Path) -> bool:
        """Decode an image into the store unless it is there; return whether it had to be.

        Raises:
            UnreadableImage: as :meth:`read`.
            UserError: the store cannot be written.
        """
        content, place, kept = self._look(source)
        if kept is None:
            pixels = self.decode(source, self.size, content)
            with replacing(place) as temporary:  # whoever is killed here leaves no half image behind
                pixels.tofile(temporary)
        return kept is None

    def _look(self, source: Path) -> tuple[bytes, Path, np.ndarray | None]:
        """Return a file's bytes, its place in the store, and the pixels that lie there."""
        try:
            content = source.read_bytes()
        except OSError as error:
            what = "image not found" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
            raise UnreadableImage(f"{source}: {what}") from None
        key = hashlib.sha256(content).hexdigest()
        place = self.folder / key[:2] / f"{key}.u8"
        try:
            pixels = np.fromfile(place, dtype=np.uint8)
        except OSError:
            return content, place, None
        whole = pixels.size == self.bytes_each  # a file cut short is no image
        return content, place, pixels.reshape(3, *self.size) if whole else None
