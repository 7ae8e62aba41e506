"""Features of images: encoding them, and finding those of a table's rows."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.photographs import Photographs

if TYPE_CHECKING:  # slow to import, and reports need no network
    from clipreid_lib.clip.backbone import Backbone, ImageFeatures


@dataclass(frozen=True)
class Embeddings:
    """Image paths and one embedding per path, (N, D), un-normalised."""

    paths: list[str]
    values: torch.Tensor

    def of(self, table: pd.DataFrame) -> torch.Tensor:
        """Return the embeddings of a table's rows, (rows, D).

        Raises:
            UserError: an image has none, or one that is not finite (naming it).
        """
        place, wanted = self._place, table["path"].tolist()
        lacking = [path for path in wanted if path not in place]
        if lacking:
            raise UserError(f"{lacking[0]}: has no embedding; encode it first ({len(lacking)} images lack one)")
        values = self.values[[place[path] for path in wanted]]
        sane = np.isfinite(values.numpy()).all(axis=1)
        if not sane.all():
            raise UserError(f"{table['path'].iloc[int(sane.argmin())]}: its embedding is not finite")
        return values

    @cached_property
    def _place(self) -> dict[str, int]:
        """Each image's row."""
        return {path: row for row, path in enumerate(self.paths)}


def embed_table(
    backbone: "Backbone", table: pd.DataFrame, photographs: Photographs, mirrored: bool = False
) -> "tuple[list[str], ImageFeatures]":
    """Decode and encode every distinct image of a table, with the side information its columns give it.

    Args:
        backbone: with any image tower.
        table: with ``path``.
        photographs: the image files.
        mirrored: as for :func:`encode`.

    Returns:
        The images' paths and their features, in the same order.

    Raises:
        UserError: an image cannot be read, or its embedding is not finite (naming it).
    """
    from clipreid_lib.clip.encode import encode

    distinct = table.drop_duplicates("path")
    pixels = torch.from_numpy(photographs.load(distinct, backbone.image_size))
    encoded = encode(backbone, pixels, backbone.side_rows(distinct), mirrored)
    broken = ~encoded.embedding.isfinite().all(dim=1)
    if broken.any():
        raise UserError(
            f"{photographs.root / distinct['path'].iloc[int(broken.nonzero()[0])]}: its embedding is not finite"
        )
    return distinct["path"].tolist(), encoded


def pixel_floor(table: pd.DataFrame, photographs: Photographs) -> Embeddings:
    """Embed images as 32 x 32 grey pixels with the mean removed: what no network has to beat first.

    Args:
        table: with ``path``.
        photographs: the image files.

    Returns:
        (N, 1024) of unit length, one per distinct image.

    Raises:
        UserError: an image cannot be read.
    """
    distinct = table.drop_duplicates("path")
    pixels = torch.from_numpy(photographs.load(distinct, 32)).float()  # (N, 3, 32, 32)
    grey = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1).flatten(1)  # ITU-R 601
    return Embeddings(distinct["path"].tolist(), functional.normalize(grey - grey.mean(dim=1, keepdim=True)))
