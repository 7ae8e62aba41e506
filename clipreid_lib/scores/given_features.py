"""Features that another program made, where a run of our own has an encoder: found by image, with no network behind.

They lie in the run's folder, so that the run stands alone.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.clip.feed import Images
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import GIVEN
from clipreid_lib.scores.encoder import Encoder
from clipreid_lib.scores.features import Embeddings

KIND = "external features"  # what the file says it holds
ONLY = "this run has features only, made by another program; it has no network to look at photographs or read words"


@dataclass(frozen=True)
class GivenFeatures(Encoder):
    """Stands where an encoder stands and knows the features that were given, no others.

    Attributes:
        given: the features, (N, D).
        origin: where they came from, ready to print.
    """

    backbone: None  # type: ignore[assignment]  # nothing encodes
    given: Embeddings = field(kw_only=True)
    origin: str = field(kw_only=True)

    def embed(self, images: pd.DataFrame, mirrored: bool = False) -> Embeddings:
        """Return the features of images, (N, D), one per distinct image.

        Raises:
            UserError: an image has none (naming it), or its mirror image is asked for.
        """
        if mirrored:
            raise UserError(f"flip_test: {ONLY}")
        distinct = images.drop_duplicates("path")
        return Embeddings(distinct["path"].tolist(), self.given.of(distinct))

    def encode(self, images: pd.DataFrame, mirrored: bool = False, pixels: Images | None = None) -> Embeddings:
        """Refuse.

        Raises:
            UserError: always; nothing can be encoded anew.
        """
        raise UserError(ONLY)

    def project(self, embeddings: Embeddings) -> torch.Tensor:
        """Refuse.

        Raises:
            UserError: always; given features share no space with text.
        """
        raise UserError(ONLY)


def hash_features(features: Embeddings) -> str:
    """Return the SHA-256 of features and of the images' paths that they belong to."""
    hashed = hashlib.sha256("\n".join([*features.paths, str(tuple(features.values.shape))]).encode())
    hashed.update(features.values.numpy().astype("<f4").tobytes())
    return hashed.hexdigest()


def save(folder: Path, features: Embeddings, source: str) -> None:
    """Keep features, float32 (N, D), in a run's folder. ``source`` is the name of the file that they were read from.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    facts = {"kind": KIND, "source": source, "paths": features.paths, "sha": hash_features(features)}
    checkpoints.save(folder / GIVEN, {"embedding": features.values}, facts)


def load(folder: Path, params: Params, table: pd.DataFrame, photographs: Photographs) -> GivenFeatures:
    """Load what :func:`save` kept for a run of these params; ``table`` is the data set's image table.

    Raises:
        UserError: the file is missing, damaged, or holds other features than the run is of.
    """
    given, facts = _read(folder, params)
    numbers = f"{len(given.paths):,} images, {given.values.shape[1]:,} numbers each"
    origin = f"features from {facts['source']} ({numbers}); how they were made is not known"
    return GivenFeatures(None, facts["sha"], folder, table, photographs, given=given, origin=origin)


def list_paths(folder: Path, params: Params) -> list[str]:
    """Return the images that a run has features of; raises as :func:`load`."""
    return _read(folder, params)[0].paths


def name_weights(sha: str) -> str:
    """Return what params call features with this SHA-256: their ``pretrained``."""
    return f"features {sha[:16]}"


def _read(folder: Path, params: Params) -> tuple[Embeddings, dict]:
    tensors, facts = checkpoints.load(folder / GIVEN, KIND)
    given = Embeddings(facts["paths"], tensors["embedding"])
    if name_weights(hash_features(given)) != params.pretrained:
        raise UserError(
            f"{folder / GIVEN}: holds other features than this run is of; `clipreid score` makes another run"
        )
    return given, facts
