"""An enrolled gallery: embeddings of images, whose they are, and a small picture of each; in memory and as one file.

The file is a safetensors file that says in its description what it holds. It holds no path outside the data's own
folder. Whoever has it can find these people again and can see their hands: keep it as the photographs must be kept.
"""

import difflib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UnreadableImage, UserError, counted
from clipreid_lib.data.contract import read_kept
from clipreid_lib.data.photographs import open_rgb
from clipreid_lib.scores.similarity import STEPS, multiply_exactly, scale_to_whole

BLOCK = 16_384  # gallery images compared at once: in float64, 100 MB at 768 numbers each
HOLDS = "biometric data: for {images} of {people}, an embedding that can find the person again, a picture and a row"


class Gallery:
    """Enrolled images. It may be searched by several threads at once, while none adds to it or forgets somebody.

    Attributes:
        table: one row per image, with the columns of :mod:`clipreid_lib.data.contract`.
        embeddings: (N, D) float32 of unit length.
        checkpoint: what made them, :attr:`clipreid_lib.runs.recognizer.Recognizer.key`.
        people: (N,) each image's person: the name where the data has names, else the number.
        names: (P,) of the people, sorted.
        person: (N,) each image's place in ``names``.
        root: folder that the table's paths start from; None where it is not known. No file keeps it.
        stamp: tells the photographs that it was enrolled from; empty where nobody compares.
        files: where it was read from or saved.
        searched: its own images searched for in it, by their number, once a threshold was asked for.
    """

    def __init__(
        self, table: pd.DataFrame, embeddings: torch.Tensor, pictures: list[bytes], checkpoint: str, stamp: str = ""
    ) -> None:
        """Enrol a table's rows, with an embedding and a JPEG of each."""
        content = np.frombuffer(b"".join(pictures), np.uint8)
        self._fill(table, embeddings, torch.from_numpy(content.copy()), torch.tensor([0, *map(len, pictures)]))
        self.checkpoint, self.stamp = checkpoint, stamp
        self.root: Path | None = None
        self.files: list[Path] = []

    def _fill(self, table: pd.DataFrame, embeddings: torch.Tensor, pictures: torch.Tensor, sizes: torch.Tensor) -> None:
        self.table, self.embeddings = table.reset_index(drop=True), embeddings
        self._pictures, self._ends = pictures, sizes.cumsum(0)  # JPEGs one after the other, (bytes,) uint8; (N + 1,)
        self.people = name_people(self.table)
        self.person, self.names = pd.factorize(self.people, sort=True)
        self.searched: dict[int, Any] = {}

    def __len__(self) -> int:
        """Return how many images are enrolled."""
        return len(self.table)

    def describe(self) -> dict[str, Any]:
        """Say what it holds: numbers of images and people, aspects, and what that is good for."""
        images, people = len(self), len(self.names)
        holds = HOLDS.format(images=counted(images, "image"), people=counted(people, "person"))
        return {"holds": holds, "images": images, "people": people, "aspects": sorted(set(self.table["aspect"]))}

    def save(self, file: str | Path) -> None:
        """Write it into one safetensors file, atomically.

        Raises:
            UserError: the folder cannot be written or the disk is full.
        """
        text = self.table.to_csv(index=False, lineterminator="\n").encode()
        tensors = {
            "embeddings": self.embeddings,
            "table": torch.frombuffer(bytearray(text), dtype=torch.uint8),
            "pictures": self._pictures,
            "sizes": self._ends.diff(prepend=self._ends.new_zeros(1)),
        }
        facts = {"kind": "gallery", "checkpoint": self.checkpoint, "stamp": self.stamp, **self.describe()}
        checkpoints.save(Path(file), tensors, facts)
        self.files = [*dict.fromkeys([*self.files, Path(file).resolve()])]

    @classmethod
    def load(cls, file: str | Path) -> "Gallery":
        """Read what :meth:`save` wrote; embeddings and pictures are read when they are asked for.

        Raises:
            UserError: the file is missing, damaged, or no gallery.
        """
        tensors, facts = checkpoints.load(Path(file), "gallery")
        try:
            table = read_kept(io.BytesIO(tensors["table"].numpy().tobytes()))
            gallery = cls(table.iloc[:0], tensors["embeddings"][:0], [], facts["checkpoint"], facts["stamp"])
            gallery._fill(table, tensors["embeddings"], tensors["pictures"], tensors["sizes"])
        except (KeyError, ValueError) as error:
            raise UserError(f"{file}: is a gallery that cannot be read ({' '.join(str(error).split())})") from None
        gallery.files = [Path(file).resolve()]
        return gallery

    def add(self, other: "Gallery") -> None:
        """Enrol the images of another gallery too, in memory; people are the same where they are called the same.

        Raises:
            UserError: another checkpoint made it, or both hold an image of the same path.
        """
        if other.checkpoint != self.checkpoint:
            raise UserError(f"gallery: one is of checkpoint {self.checkpoint}, the other of {other.checkpoint}")
        twice = self.table["path"][self.table["path"].isin(other.table["path"])]
        if len(twice):
            raise UserError(f"gallery: both hold an image {twice.iloc[0]}; rename one before it is enrolled")
        table = pd.concat([self.table, other.table], ignore_index=True)
        names, numbers = name_people(table), table["identity"]
        if (numbers.groupby(names).nunique() > 1).any() or (pd.Series(names).groupby(numbers).nunique() > 1).any():
            table["identity"] = pd.factorize(names, sort=True)[0] + 1  # folders count their people by name
            table["name"] = names
        sizes = [each._ends.diff() for each in (self, other)]
        pictures = torch.cat([self._pictures, other._pictures])
        embeddings = torch.cat([self.embeddings, other.embeddings])
        self._fill(table, embeddings, pictures, torch.cat([self._ends.new_zeros(1), *sizes]))
        self.root = self.root if self.root == other.root else None

    def forget(self, person: str | int) -> None:
        """Remove a person's rows, embeddings and pictures, here and in every file of :attr:`files`.

        Whatever else was made of it, such as sheets and copies of a file, is not found by this. Photographs that lie
        in a folder are enrolled again where somebody enrols the folder again.

        Raises:
            UserError: nobody is called so, or a file cannot be written.
        """
        if str(person) not in self.names:
            near = difflib.get_close_matches(str(person), self.names, n=3)
            offered = f"; nearest: {', '.join(near)}" if near else ""
            raise UserError(f"forget: nobody of {len(self.names):,} people enrolled is called {person!r}{offered}")
        for file in filter(Path.exists, self.files):
            kept = Gallery.load(file)
            if str(person) in kept.names:
                kept._drop(str(person))
                kept.save(file)
        self._drop(str(person))

    def _drop(self, person: str) -> None:
        rows, sizes = torch.from_numpy(np.flatnonzero(self.people != person)), self._ends.diff()
        pictures = self._pictures[torch.repeat_interleave(torch.from_numpy(self.people != person), sizes)]
        kept = torch.cat([self._ends.new_zeros(1), sizes[rows]])
        self._fill(self.table.iloc[rows.numpy()], self.embeddings[rows], pictures, kept)

    def compare(self, asked: torch.Tensor) -> np.ndarray:
        """Return the cosine of (Q, D) embeddings with every enrolled image, (Q, N) float32, computed block by block.

        As :func:`clipreid_lib.scores.similarity.cosine_similarity`; an image takes 4 bytes per question beside itself.
        """
        query, alike = scale_to_whole(asked.numpy()), np.empty((len(asked), len(self)), np.float32)
        for start in range(0, len(self), BLOCK):
            block = slice(start, start + BLOCK)
            alike[:, block] = multiply_exactly(query, scale_to_whole(self.embeddings[block].numpy())) / STEPS
        return alike

    def open_picture(self, row: int, side: int) -> Image.Image:
        """Open an enrolled photograph as RGB where its file is at hand, else its small picture.

        ``side`` is as for :func:`clipreid_lib.data.photographs.open_rgb`.
        """
        if self.root:
            try:
                return open_rgb(self.root / self.table["path"].iloc[row], side)
            except UnreadableImage:
                pass
        return Image.open(io.BytesIO(self.read_picture(row))).convert("RGB")

    def read_picture(self, row: int) -> bytes:
        """Return one row's small picture, a JPEG."""
        return self._pictures[int(self._ends[row]) : int(self._ends[row + 1])].numpy().tobytes()


def name_people(table: pd.DataFrame) -> np.ndarray:
    """Return each row's person, (N,) str: the name where there is one, else the number."""
    people = table["identity"].astype(str)
    if "name" in table:
        people = table["name"].where(table["name"].fillna("") != "", people)
    return people.to_numpy(str)
