"""The training images of a run: pixels, and which row of the label map each belongs to."""

from dataclasses import dataclass

import torch

from clipreid_lib.backbone import Backbone
from clipreid_lib.runs import Run


@dataclass(frozen=True)
class TrainingSet:
    """The training images of a run, in memory.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        rows: (N,) each image's row in ``identities``.
        identities: the people, ascending; the label map of prompts and heads.
        side: (N,) each image's row in the backbone's side information; None without.
    """

    pixels: torch.Tensor
    rows: torch.Tensor
    identities: list[int]
    side: torch.Tensor | None


def load_training_set(run: Run, clip: Backbone) -> TrainingSet:
    """Decode the run's training images as its backbone wants them.

    Raises:
        UserError: an image cannot be read.
    """
    train = run.manifest.train
    identities = sorted(train["identity"].unique().tolist())
    row = {identity: index for index, identity in enumerate(identities)}
    pixels = torch.from_numpy(run.photographs.load(train, clip.image_size))
    rows = torch.tensor([row[i] for i in train["identity"]])
    return TrainingSet(pixels, rows, identities, clip.side_rows(train))
