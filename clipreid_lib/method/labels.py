"""Label maps: which row of the heads and prompts each training image's identity has."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import torch

Labels: TypeAlias = Sequence[Any] | np.ndarray | torch.Tensor  # (N,) one identity per image, all numbers or all text


def map_labels(labels: Labels) -> tuple[list, torch.Tensor]:
    """Number the identities of training images, whose labels (N,) are numbers or text.

    Returns:
        The identities, ascending, and (N,) int64, each image's row among them.

    Raises:
        ValueError: there is no label, or one is missing.
    """
    values = labels.cpu().numpy() if isinstance(labels, torch.Tensor) else labels
    column = pd.Series(values)
    if not len(column) or column.isna().any():
        raise ValueError("labels: give one identity per image, none of them missing")
    identities = sorted(column.unique().tolist())
    return identities, torch.from_numpy(pd.Index(identities).get_indexer(column)).long()
