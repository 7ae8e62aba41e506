"""The pixels of a table's images: all in memory where they fit, else read when they are asked for."""

from dataclasses import dataclass

import pandas as pd
import psutil
import torch

from clipreid_lib.data.photographs import Photographs
from clipreid_lib.params.image_sizes import parse_size

# Of the machine's free memory that one table's pixels may take: activations, the system's file cache, which saves
# reading files again, and runs beside this one need the rest.
SHARE = 1 / 3


@dataclass(frozen=True)
class PixelsOnDemand:
    """A table's pixels, (N, 3, H, W) uint8, of which none is held: rows are decoded, or found in the image store."""

    photographs: Photographs
    table: pd.DataFrame
    size: tuple[int, int]  # (height, width)

    def __len__(self) -> int:
        """Return N."""
        return len(self.table)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the (B, 3, H, W) uint8 of (B,) rows, read on all cores.

        Raises:
            UnreadableImage: as :meth:`Photographs.load`.
        """
        return torch.from_numpy(self.photographs.load(self.table.iloc[rows.numpy()], self.size))


def load_pixels(
    photographs: Photographs, table: pd.DataFrame, size: int | tuple[int, int]
) -> torch.Tensor | PixelsOnDemand:
    """Return a table's (N, 3, H, W) uint8, in the table's order: a tensor, or what is indexed by rows like one.

    A tensor takes 150 MB for 1,000 images at 224. Where it would take more than a third of the free memory, images are
    read batch by batch, and it is said.

    Raises:
        UnreadableImage: as :meth:`Photographs.load`; on demand, when the image's turn comes.
    """
    pair = parse_size(size)
    needed, free = len(table) * 3 * pair[0] * pair[1], psutil.virtual_memory().available
    if needed <= free * SHARE:
        return torch.from_numpy(photographs.load(table, pair))
    print(
        f"{len(table):,} images would take {needed / 1e9:.1f} GB of {free / 1e9:.1f} GB free memory; they are read "
        f"batch by batch{'' if photographs.at(pair) else ', faster after clipreid data prepare'}"
    )
    return PixelsOnDemand(photographs, table, pair)
