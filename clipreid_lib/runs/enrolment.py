"""Enrolment: which photographs a gallery is made of, where it is kept, and what of each photograph goes into it."""

import hashlib
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clipreid_lib.base.errors import UnreadableImage, UserError, counted
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.data.photographs import fit, is_blank, on_all_cores, open_rgb
from clipreid_lib.pages.thumbnails import to_jpeg
from clipreid_lib.runs.run import Run
from clipreid_lib.runs.sources import read_source
from clipreid_lib.scores.enrolled import Gallery, name_people

PICTURE = 160  # px, longest side of the picture that a gallery keeps of each image: 3 to 6 KB
TOLD = 5  # images left out that are told one by one


@dataclass(frozen=True)
class Enrolment:
    """Photographs to enrol.

    Attributes:
        table: one row per image, with the columns of :mod:`clipreid_lib.data.contract`.
        root: folder that the table's paths start from.
        about: what to call them, in the name of the gallery's file.
    """

    table: pd.DataFrame
    root: Path
    about: str

    @classmethod
    def find(cls, source: str | Path | None, run: Run | None, name: str) -> "Enrolment":
        """Find a source's photographs, or without one those of the gallery that a run is tested with.

        Args:
            source: as :func:`clipreid_lib.runs.sources.read_source` takes it, or None.
            run: whose test gallery it may be; None of a frozen backbone.
            name: of the run or the backbone, for messages.

        Raises:
            UserError: the source cannot be read, or nothing says which photographs are meant.
        """
        if source is not None:
            table, root = read_source(str(source))
            told = str(source).partition("=")[0] if not Path(source).is_dir() else root.name
            return cls(table, root, told)
        if run is None:
            raise UserError(f"{name}: a frozen backbone has no test gallery; give one")
        manifest = Manifest.load(run.folder / "manifest.csv")
        table = manifest.test[manifest.test["draw_0"] == "gallery"]
        drawn = table.columns.str.startswith("draw_") | table.columns.isin(["dataset", "protocol", "role", "subject"])
        return cls(table.loc[:, ~drawn].reset_index(drop=True), run.data_root, "test-gallery")

    def choose_file(self, folder: Path, model: str) -> Path:
        """Return the file in a folder that keeps what a model makes of them."""
        digest = hashlib.sha256(f"{self.about} {os.fsencode(self.root)!r}".encode()).hexdigest()[:8]
        told = re.sub(r"[^A-Za-z0-9_]+", "-", f"{model}-{self.about}")
        return folder / f"{told}-{digest}.safetensors"

    @cached_property
    def stamp(self) -> str:
        """Hash of files' names, sizes and times, and whose they are: another where one is added or replaced."""
        seen = []
        for path, person in zip(self.table["path"], name_people(self.table), strict=True):
            try:
                found = os.stat(self.root / path)
                seen.append(f"{path} {person} {found.st_size} {found.st_mtime_ns}")
            except OSError:
                seen.append(f"{path} {person} -")
        return hashlib.sha256("\n".join(seen).encode()).hexdigest()

    def enrol(
        self,
        encode: Callable[[Iterator[np.ndarray]], Iterable[torch.Tensor]],
        size: tuple[int, int],
        rule: str,
        key: str,
    ) -> Gallery:
        """Decode and encode them; leave out, and tell, those that show nothing.

        Args:
            encode: makes of images, (3, H, W) uint8 each, embeddings of unit length, (N, D) float32 for some at a time.
            size: (H, W) of these images.
            rule: how pictures get to it, as for :func:`clipreid_lib.data.photographs.decode`.
            key: of what encodes, see :class:`clipreid_lib.scores.enrolled.Gallery`.

        Raises:
            UserError: none can be enrolled.
        """
        stamp = self.stamp  # before they are read: one that is replaced meanwhile is noticed later
        pictures, lacking, kept = [], [], np.zeros(len(self.table), bool)
        paths = self.table["path"]

        def keep_readable() -> Iterator[np.ndarray]:
            read = partial(_read, size=size, rule=rule)
            for row, seen in enumerate(on_all_cores(read, [self.root / path for path in paths])):
                if isinstance(seen, str):
                    lacking.append(f"{paths.iloc[row]}: not enrolled, {seen}")
                else:
                    kept[row] = True
                    pictures.append(seen[1])
                    yield seen[0]

        parts = list(encode(keep_readable()))
        left = len(lacking) - TOLD
        told = [*lacking[:TOLD], *([f"{counted(left, 'image')} more not enrolled"] if left > 0 else [])]
        names = name_people(self.table)
        told += [f"{name}: has no image that can be enrolled" for name in sorted({*names} - {*names[kept]})]
        print(*told, sep="\n", end="\n" * bool(told), file=sys.stderr)
        if not parts:
            raise UserError(f"{self.root.name}: none of {counted(len(self.table), 'image')} can be enrolled")
        return Gallery(self.table[kept], torch.cat(parts), pictures, key, stamp)


def _read(path: Path, size: tuple[int, int], rule: str) -> tuple[np.ndarray, bytes] | str:
    """Return an image's pixels (3, H, W) uint8 and its small picture, or why it cannot be enrolled."""
    try:
        image = open_rgb(path, max(size))
    except UnreadableImage:
        return "it cannot be read"
    pixels = fit(image, size, rule)
    image.thumbnail((PICTURE, PICTURE))
    return (pixels, to_jpeg(image)) if not is_blank(pixels) else "it is of one colour"
