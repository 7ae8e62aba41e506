"""Tip-Adapter: a classifier that is a cache of the training features, with nothing to train.

Its cache alone: the original adds CLIP's zero-shot logits of class names, which identities do not have.
"""

import torch
from torch.nn import functional

SHARPNESS = 5.5  # beta of Tip-Adapter (arXiv 2111.03930): how fast a training image's say falls with distance


def cache_logits(
    features: torch.Tensor, keys: torch.Tensor, rows: torch.Tensor, identities: int, sharpness: float = SHARPNESS
) -> torch.Tensor:
    """Let every training image vote for its identity, the nearer the louder: votes (B, identities) in (0, 1].

    Zhang et al. 2022 (arXiv 2111.03930, eq. 4), each identity's votes averaged, since here people have between one
    and dozens of training images, where Tip-Adapter has the same number of each class. ``features`` (B, D) are of the
    images to classify. Training images have ``keys`` (N, D), and ``rows`` (N,), their identities from 0. ``sharpness``
    is the paper's beta.
    """
    cosine = functional.normalize(features, dim=1) @ functional.normalize(keys, dim=1).T  # (B, N)
    votes = (-sharpness * (1 - cosine)).exp()
    belongs = functional.one_hot(rows, identities).to(votes.dtype)  # (N, identities)
    return votes @ (belongs / belongs.sum(dim=0).clamp(min=1))
