"""Feature store: every image encoded once per checkpoint, whichever protocols, draws and notebooks ask for it.

::

    outputs/features/<key>.safetensors

The key is a hash of everything that decides a feature: the checkpoint's weights, the backbone's shape and statistics,
the resize rule and mirroring, and the data set's image table. A file states them again and is refused where one
differs, so features of another checkpoint or preprocessing are never picked up. Each image's size and time stamp are
kept as well: an image that was changed since is encoded anew, one that is gone or can no longer be read keeps its
feature. The folder may be deleted at any time.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UnreadableImage, UserError
from clipreid_lib.base.files import locked
from clipreid_lib.clip import backbone
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.data.photographs import Photographs, open_rgb
from clipreid_lib.scores import features
from clipreid_lib.scores.features import Embeddings

TABLE_COLUMNS = ["path", "identity", "aspect", "camera"]  # what an image is; sessions depend on params
GONE = (-1, -1)


@dataclass(frozen=True)
class FeatureStore:
    """A folder of stored embeddings.

    Attributes:
        folder: where the files are.
        table: the data set's image table, whole.
        photographs: its image files.
    """

    folder: Path
    table: pd.DataFrame
    photographs: Photographs

    def made_by(self, clip: Backbone, checkpoint_sha: str, mirrored: bool = False) -> dict[str, str | bool]:
        """Return everything that decides a feature.

        Args:
            clip: the backbone.
            checkpoint_sha: hash or tag of its weights.
            mirrored: whether the mirrored image's features are added.
        """
        text = self.table[TABLE_COLUMNS].to_csv(index=False, lineterminator="\n")
        return {
            "checkpoint": checkpoint_sha,
            "backbone": json.dumps(backbone.describe(clip), sort_keys=True),
            "resize": self.photographs.rule,
            "mirrored": mirrored,
            "table": hashlib.sha256(text.encode()).hexdigest(),
        }

    def path(self, made_by: dict) -> Path:
        """File for embeddings that these facts decide."""
        key = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()[:16]
        return self.folder / f"{key}.safetensors"

    def embed(self, clip: Backbone, checkpoint_sha: str, images: pd.DataFrame, mirrored: bool = False) -> Embeddings:
        """Return the embeddings of images, encoding those that are not stored yet.

        Args:
            clip: the backbone.
            checkpoint_sha: hash or tag of its weights.
            images: rows of the image table or of a manifest.
            mirrored: add the mirrored image's features to each image's.

        Raises:
            UserError: an image cannot be read, or its embedding is not finite (naming it); the disk is full.
        """
        made_by = self.made_by(clip, checkpoint_sha, mirrored)
        path = self.path(made_by)
        wanted = images.drop_duplicates("path")
        stamps = {name: _stamp(self.photographs.root / name) for name in wanted["path"]}
        known = self._known(path, made_by)
        lacking = wanted[[not self._still(name, known.get(name), stamp) for name, stamp in stamps.items()]]
        if len(lacking):
            names, encoded = features.embed_table(clip, lacking, self.photographs, mirrored)
            fresh = {name: (stamps[name], row) for name, row in zip(names, encoded.embedding, strict=True)}
            self.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.folder / ".lock"):  # a run beside this one may have added images meanwhile
                known = self._known(path, made_by) | fresh
                checkpoints.save(
                    path,
                    {
                        "embeddings": torch.stack([row for _, row in known.values()]),
                        "stamps": torch.tensor([stamp for stamp, _ in known.values()]),
                    },
                    {"kind": "features", "paths": list(known), **made_by},
                )
        return Embeddings(list(stamps), torch.stack([known[name][1] for name in stamps]))

    def _still(self, name: str, known: tuple | None, stamp: tuple[int, int]) -> bool:
        """Whether the stored feature holds: of the same file, or of one that is gone or broken since."""
        if known is None or stamp in (known[0], GONE):
            return known is not None
        try:
            open_rgb(self.photographs.root / name, 32)
        except UnreadableImage:
            return True
        return False

    def _known(self, path: Path, made_by: dict) -> dict[str, tuple[tuple[int, int], torch.Tensor]]:
        if not path.exists():
            return {}
        try:
            tensors, facts = checkpoints.load(path, "features")
            stamps = map(tuple, tensors["stamps"].tolist())
            known = dict(zip(facts["paths"], zip(stamps, tensors["embeddings"], strict=True), strict=True))
        except (UserError, KeyError, ValueError):  # cut short by a full disk or a pulled plug: encode again
            return {}
        checkpoints.require(path, facts, made_by)
        return known


def _stamp(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return GONE
    return found.st_size, found.st_mtime_ns
