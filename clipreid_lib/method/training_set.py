"""The training images of a run: pixels, and which row of the label map each belongs to.

In an image table ``identity`` is the person; in a manifest it is the label compared (for the distractors of protocol
``mba`` one of their own per person and aspect or folder, for all other images the person), and ``subject`` stays the
person. Training images have the same number in both.
"""

from dataclasses import dataclass

import pandas as pd
import torch

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.runs.run import Run


@dataclass(frozen=True)
class TrainingSet:
    """The training images of a run, in memory.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        rows: (N,) each image's row in ``identities``.
        identities: the labels (people), ascending; the label map of prompts and heads.
        side: (N,) each image's row in the backbone's side information; None without.
    """

    pixels: torch.Tensor
    rows: torch.Tensor
    identities: list[int]
    side: torch.Tensor | None


def label_map(train: pd.DataFrame) -> tuple[list[int], torch.Tensor]:
    """Return the people of a table, ascending, and (N,) each image's row among them."""
    identities = sorted(train["identity"].unique().tolist())
    return identities, torch.from_numpy(pd.Index(identities).get_indexer(train["identity"]))


def load_training_set(run: Run, clip: Backbone) -> TrainingSet:
    """Decode the run's training images as its backbone wants them.

    Args:
        run: whose manifest names the images.
        clip: its backbone, whose input size and side information they get.

    Raises:
        UserError: an image cannot be read.
    """
    train = run.manifest.train
    identities, rows = label_map(train)
    pixels = torch.from_numpy(run.photographs.load(train, clip.image_size))
    return TrainingSet(pixels, rows, identities, clip.side_rows(train))
