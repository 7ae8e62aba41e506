"""Batch-hard triplet loss."""

import torch


def batch_hard_triplet(features: torch.Tensor, identities: torch.Tensor, margin: float) -> torch.Tensor:
    """For each image take its farthest positive and nearest negative in the batch and keep them apart.

    Hermans et al. 2017 (arXiv 1703.07737), Euclidean distance on un-normalised features, as CLIP-ReID uses it.
    An image never counts as its own positive; an anchor without a positive or a negative takes no part.

    Args:
        features: (B, D).
        identities: (B,) integer identities. Rows that repeat the same picture must not share a batch.
        margin: how much farther the negative must be, in the features' own unit.

    Returns:
        Scalar mean over the anchors that take part; 0 where none does.
    """
    squared = (features[:, None] - features[None, :]).pow(2).sum(dim=2)  # (B, B); small batches, so plainly
    distance = squared.clamp(min=1e-12).sqrt()  # the root's slope at 0 is infinite
    same = identities[:, None] == identities[None, :]
    itself = torch.eye(len(features), dtype=torch.bool, device=features.device)
    positive, negative = same & ~itself, ~same
    farthest = distance.masked_fill(~positive, -torch.inf).amax(dim=1)
    nearest = distance.masked_fill(~negative, torch.inf).amin(dim=1)
    takes_part = positive.any(dim=1) & negative.any(dim=1)
    losses = (margin + farthest - nearest).clamp(min=0)  # (B,); -inf, so 0, for who takes no part
    return losses.sum() / takes_part.sum().clamp(min=1)  # no indexing by a mask: a GPU would have to wait for it
