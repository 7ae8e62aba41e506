"""Embeddings: encode each image a protocol needs once, keep them with what made them."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch.nn import functional

from clipreid_lib import augment, checkpoints
from clipreid_lib.backbone import Backbone, ImageFeatures
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
def encode(
    backbone: Backbone, pixels: torch.Tensor, side: torch.Tensor | None = None, batch: int = 128
) -> ImageFeatures:
    """Return CLIP-ReID's features of many images.

    Args:
        backbone: with any image tower.
        pixels: (N, 3, H, W) uint8.
        side: (N,) each image's row of side information, from the backbone's ``side_rows``; None adds none.
        batch: images at once.

    Returns:
        Features of (N, D), un-normalised, float32 on the CPU; ``embedding`` of them is the paper's for tests.
    """
    backbone.eval()
    rows = []
    for start in range(0, len(pixels), batch):
        part = slice(start, start + batch)
        normalised = augment.normalise(pixels[part].to(backbone.device), *backbone.normalisation)
        out = backbone.image_features(normalised, None if side is None else side[part])
        rows.append([each.float().cpu() for each in (out.f_last, out.f, out.f_proj)])
    return ImageFeatures(*(torch.cat(column) for column in zip(*rows, strict=True)))


def embed_table(backbone: Backbone, table: pd.DataFrame, photographs: Photographs) -> tuple[list[str], ImageFeatures]:
    """Decode and encode every distinct image of a table, with the side information its columns give it.

    Returns:
        The images' paths and their features, in the same order.

    Raises:
        UserError: an image cannot be read, or its embedding is not finite (naming it).
    """
    distinct = table.drop_duplicates("path")
    pixels = torch.from_numpy(photographs.load(distinct, backbone.image_size))
    encoded = encode(backbone, pixels, backbone.side_rows(distinct))
    broken = ~encoded.embedding.isfinite().all(dim=1)
    if broken.any():
        raise UserError(
            f"{photographs.root / distinct['path'].iloc[int(broken.nonzero()[0])]}: its embedding is not finite"
        )
    return distinct["path"].tolist(), encoded


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
