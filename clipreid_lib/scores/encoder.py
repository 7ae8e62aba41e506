"""An image encoder whose features are kept on disk: each image is encoded once per checkpoint, whoever asks for it.

::

    outputs/features/<key>.safetensors

The key is a hash of everything that decides a feature: the checkpoint's weights, the backbone's shape and statistics,
the resize rule and mirroring, and the data set's image table. A file states them again and is refused where one
differs, so features of another checkpoint or preprocessing are never picked up. In it each feature stands under its
image's path and content: an image that was changed since is encoded anew, one that is gone or can no longer be read
keeps its feature. The folder may be deleted at any time.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import locked
from clipreid_lib.clip import backbone
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import encode
from clipreid_lib.clip.feed import Images
from clipreid_lib.data.content_hashes import hash_images
from clipreid_lib.data.photographs import RULES, Photographs
from clipreid_lib.data.pixels import load_pixels
from clipreid_lib.scores.features import Embeddings

TABLE_COLUMNS = ["path", "identity", "aspect", "camera"]  # what an image is; sessions depend on params
STATISTICS = ("running_mean", "running_var", "weight", "bias")  # of a batch norm
Stored = dict[tuple[str, str], torch.Tensor]  # embeddings by an image's path and the hash of its content


@dataclass(frozen=True)
class Encoder:
    """An image encoder, the images it encodes, and where their features are kept.

    Attributes:
        backbone: with any image tower.
        sha: hash or tag of its weights.
        folder: of the stored features.
        table: the data set's image table, whole.
        photographs: its image files.
        neck: the heads' batch norms, which features pass before they are compared, as in CLIP-HandID: each of
            STATISTICS for the features side by side, (D,). None compares the features before them. The store
            holds features before them.
        composer: PromptSG's, of the same checkpoint; None composes nothing.
    """

    backbone: Backbone
    sha: str
    folder: Path
    table: pd.DataFrame
    photographs: Photographs
    neck: dict[str, torch.Tensor] | None = None
    composer: nn.Module | None = None

    def embed(self, images: pd.DataFrame, mirrored: bool = False) -> Embeddings:
        """Return CLIP-ReID's embedding of images, ``f`` and ``f_proj`` side by side; encode those not stored yet.

        With a composer, PromptSG's composed feature stands before them.

        Args:
            images: rows of the image table or of a manifest.
            mirrored: add the mirrored image's features to each image's.

        Returns:
            (N, D), one per distinct image.

        Raises:
            UserError: an image cannot be read, or its embedding is not finite (naming it); the disk is full.
        """
        made_by = self._describe(mirrored)
        key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
        path, wanted = self.folder / f"{key}.safetensors", images.drop_duplicates("path")
        contents = hash_images(self.photographs.root, wanted["path"], self.folder)
        known = _read(path, made_by)
        lacking = wanted[[image not in known for image in contents.items()]]
        if len(lacking):
            encoded = self.encode(lacking, mirrored)
            fresh = {(name, contents[name]): row for name, row in zip(encoded.paths, encoded.values, strict=True)}
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / ".lock"):  # a run beside this one may have added images meanwhile
                known = _read(path, made_by) | fresh
                paths, hashes = zip(*known, strict=True)
                facts = {"kind": "features", "paths": paths, "contents": hashes, **made_by}
                checkpoints.save(path, {"embeddings": torch.stack(list(known.values()))}, facts)
        values = torch.stack([known[image] for image in contents.items()])
        return Embeddings(list(contents), pass_neck(values / (1 + mirrored), self.neck) * (1 + mirrored))

    def encode(self, images: pd.DataFrame, mirrored: bool = False, pixels: Images | None = None) -> Embeddings:
        """Do what :meth:`embed` does without store and neck, with the side information that the images' columns give.

        Args:
            images: rows of the image table or of a manifest.
            mirrored: as for :meth:`embed`.
            pixels: (N, 3, H, W) uint8 of the distinct images, in place of their photographs'.
        """
        distinct = images.drop_duplicates("path")
        pixels = load_pixels(self.photographs, distinct, self.backbone.image_size) if pixels is None else pixels
        encoded = encode(self.backbone, pixels, self.backbone.side_rows(distinct), mirrored, self.composer)
        made = Embeddings(distinct["path"].tolist(), encoded.embedding)
        made.of(distinct)  # raises where one is not finite
        return made

    def project(self, embeddings: Embeddings) -> torch.Tensor:
        """Return the part of embeddings that lies in the space shared with text, (N, embed_dim)."""
        return embeddings.values[:, -self.backbone.embed_dim :]

    def _describe(self, mirrored: bool) -> dict[str, str | bool]:
        """Return everything that decides a feature."""
        text = self.table[TABLE_COLUMNS].to_csv(index=False, lineterminator="\n")
        return {
            "checkpoint": self.sha,
            "backbone": json.dumps(backbone.describe(self.backbone), sort_keys=True),
            "resize": RULES[self.photographs.rule],
            "mirrored": mirrored,
            "computed": f"float32 on {self.backbone.device.type}",  # two kinds of devices differ in the last digits
            "table": hashlib.sha256(text.encode()).hexdigest(),
        }


def join_necks(norms: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Put the heads' batch norms side by side, in the order of the features; on the CPU."""
    each = list(norms)
    return {name: torch.cat([norm[name].detach().cpu() for norm in each]) for name in STATISTICS}


def pass_neck(values: torch.Tensor, neck: dict[str, torch.Tensor] | None) -> torch.Tensor:
    """Return (N, D) features after a neck, or as they are without one."""
    if neck is None:
        return values
    mean, var, weight, bias = (neck[name] for name in STATISTICS)
    return functional.batch_norm(values, mean, var, weight, bias)


def _read(path: Path, made_by: dict) -> Stored:
    if not path.exists():
        return {}
    try:
        tensors, facts = checkpoints.load(path, "features")
        images = zip(facts["paths"], facts["contents"], strict=True)
        known = dict(zip(images, tensors["embeddings"], strict=True))
    except (UserError, KeyError, ValueError):  # cut short by a full disk or a pulled plug: encode again
        return {}
    checkpoints.require(path, facts, made_by)
    return known
