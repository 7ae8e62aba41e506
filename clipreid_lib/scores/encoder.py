"""An image encoder with its weights' name and the store of its features: what turns images into embeddings."""

from dataclasses import dataclass

import pandas as pd
import torch

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.scores.feature_store import FeatureStore
from clipreid_lib.scores.features import Embeddings


@dataclass(frozen=True)
class Encoder:
    """An image encoder, the hash or tag of its weights, and the store that keeps its features."""

    backbone: Backbone
    sha: str
    store: FeatureStore

    def embed(self, images: pd.DataFrame, mirrored: bool = False) -> Embeddings:
        """Return CLIP-ReID's embedding of images: ``f`` and ``f_proj`` side by side, (N, D).

        Args:
            images: rows of the image table or of a manifest; each is encoded once and kept in the store.
            mirrored: add the mirrored image's features to each image's.

        Raises:
            UserError: an image cannot be read, or its embedding is not finite (naming it).
        """
        return self.store.embed(self.backbone, self.sha, images, mirrored)

    def project(self, embeddings: Embeddings) -> torch.Tensor:
        """Return the part of embeddings that lies in the space shared with text, (N, embed_dim)."""
        return embeddings.values[:, -self.backbone.clip.visual.output_dim :]
