"""Embeddings: encode each image a protocol needs once, keep them with what made them."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional

from clipreid_lib import augment, checkpoints
from clipreid_lib.backbone import Backbone
from clipreid_lib.errors import UserError
from clipreid_lib.images import Photographs


@dataclass(frozen=True)
class Embeddings:
    """Image paths and one embedding per path, (N, D), un-normalised."""

    paths: list[str]
    values: torch.Tensor

    def of(self, table: pd.DataFrame) -> torch.Tensor:
        """Return the embeddings of a table's rows, (rows, D)."""
        place = {path: row for row, path in enumerate(self.paths)}
        return self.values[[place[path] for path in table["path"]]]


@torch.no_grad()
def encode(backbone: Backbone, pixels: torch.Tensor, batch: int = 128) -> torch.Tensor:
    """Return CLIP-ReID's test embedding, ``f`` and ``f_proj`` side by side.

    Args:
        backbone: with any image tower.
        pixels: (N, 3, H, W) uint8.
        batch: images at once.

    Returns:
        (N, D), un-normalised, on the CPU.
    """
    backbone.eval()
    rows = []
    for start in range(0, len(pixels), batch):
        part = pixels[start : start + batch].to(backbone.device)
        normalised = augment.normalise(part, *backbone.normalisation)
        rows.append(backbone.image_features(normalised).embedding.float().cpu())
    return torch.cat(rows)


def embed_table(backbone: Backbone, table: pd.DataFrame, photographs: Photographs) -> Embeddings:
    """Decode and encode every distinct image of a table.

    Raises:
        UserError: an image cannot be read, or its embedding is not finite (naming it).
    """
    distinct = table.drop_duplicates("path")
    values = encode(backbone, torch.from_numpy(photographs.load(distinct, backbone.image_size)))
    broken = ~values.isfinite().all(dim=1)
    if broken.any():
        raise UserError(
            f"{photographs.root / distinct['path'].iloc[int(broken.nonzero()[0])]}: its embedding is not finite"
        )
    return Embeddings(distinct["path"].tolist(), values)


def pixel_floor(table: pd.DataFrame, photographs: Photographs) -> Embeddings:
    """Embed images as 32 x 32 grey pixels with the mean removed: what no network has to beat first."""
    distinct = table.drop_duplicates("path")
    pixels = torch.from_numpy(photographs.load(distinct, 32)).float()  # (N, 3, 32, 32)
    grey = (pixels * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1).flatten(1)  # ITU-R 601
    return Embeddings(distinct["path"].tolist(), functional.normalize(grey - grey.mean(dim=1, keepdim=True)))


def save(path: Path, embeddings: Embeddings, facts: dict) -> None:
    """Keep embeddings with the facts that say what made them."""
    checkpoints.save(
        path,
        {"embeddings": embeddings.values},
        {"kind": "embeddings", "paths": embeddings.paths, **facts},
    )


def load(path: Path, wanted: dict) -> Embeddings:
    """Read kept embeddings, refusing those that something else made.

    Raises:
        UserError: the file is missing or broken, or a fact differs.
    """
    tensors, facts = checkpoints.load(path, "embeddings")
    checkpoints.require(path, facts, wanted)
    return Embeddings(facts["paths"], tensors["embeddings"])
