"""Supervised contrastive loss between two sets of features, the loss CLIP-ReID learns its prompts with."""

import torch


def supervised_contrastive(
    anchors: torch.Tensor,
    contrasts: torch.Tensor,
    anchor_ids: torch.Tensor,
    contrast_ids: torch.Tensor,
    temperature: float = 1.0,
) -> torch.Tensor:
    """Pull each anchor towards the contrasts of its own identity, away from all others.

    For every anchor the log-softmax over all contrasts is averaged over those of the same identity; the loss
    is the negative mean over anchors that have at least one. Khosla et al. 2020 (arXiv 2004.11362, eq. 2) in the
    two-sided form of CLIP-ReID (arXiv 2211.13977, eq. 1-3). Dot products are taken as they are: normalise the
    features first if cosines are meant.

    Args:
        anchors: (A, D).
        contrasts: (C, D).
        anchor_ids: (A,) integer identities.
        contrast_ids: (C,) integer identities.
        temperature: divides the dot products.

    Returns:
        Scalar loss; 0 where no anchor has a contrast of its identity.

    Raises:
        ValueError: shapes that do not fit.
    """
    if anchors.ndim != 2 or contrasts.ndim != 2 or anchors.shape[1] != contrasts.shape[1]:
        raise ValueError(f"anchors {tuple(anchors.shape)} and contrasts {tuple(contrasts.shape)} must share a width")
    if anchor_ids.shape != anchors.shape[:1] or contrast_ids.shape != contrasts.shape[:1]:
        raise ValueError("one identity per row is needed on both sides")
    log_share = (anchors @ contrasts.T / temperature).log_softmax(dim=1)  # (A, C)
    same = (anchor_ids[:, None] == contrast_ids[None, :]).to(log_share.dtype)  # (A, C)
    positives = same.sum(dim=1)  # (A,)
    has_any = positives > 0
    per_anchor = (log_share * same).sum(dim=1)[has_any] / positives[has_any]
    return -per_anchor.sum() / has_any.sum().clamp(min=1)
