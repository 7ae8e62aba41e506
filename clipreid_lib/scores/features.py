"""Embeddings of images, found by the rows of a table; and those that no network made: the pixel floor."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch.nn import functional

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.photographs import Photographs


@dataclass(frozen=True)
class Embeddings:
    """Image paths and one embedding per path.

    Attributes:
        paths: (N,) paths of the images, spelt as in the image table.
        values: (N, D) floating point, row by row as ``paths``; they need not be normalised.
    """

    paths: list[str]
    values: torch.Tensor

    def of(self, table: pd.DataFrame) -> torch.Tensor:
        """Return the embeddings of a table's rows, (rows, D).

        Raises:
            UserError: an image has none, or one that is not finite (naming it).
        """
        rows = pd.Index(self.paths).get_indexer(table["path"])
        lacking = table["path"][rows < 0]
        if len(lacking):
            raise UserError(f"{lacking.iloc[0]}: has no embedding; encode it first ({len(lacking)} images lack one)")
        values = self.values[rows]
        sane = values.isfinite().all(dim=1)
        if not sane.all():
            raise UserError(f"{table['path'].iloc[int(sane.int().argmin())]}: its embedding is not finite")
        return values


def pixel_floor(table: pd.DataFrame, photographs: Photographs) -> Embeddings:
    """Embed a table's distinct images as 32 x 32 grey pixels with the mean removed: what to beat first.

    Returns:
        (N, 1024) of unit length.

    Raises:
        UserError: an image cannot be read.
    """
    distinct = table.drop_duplicates("path")
    pixels = torch.from_numpy(photographs.load(distinct, 32)).float()  # (N, 3, 32, 32)
    grey = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1).flatten(1)  # ITU-R 601
    return Embeddings(distinct["path"].tolist(), functional.normalize(grey - grey.mean(dim=1, keepdim=True)))
