"""Contrastive losses between image and text features: supervised, as CLIP-ReID's, and CLIP's own."""

import torch

from clipreid_lib.method.prompt_bank import scale_pair


def contrast_both_ways(
    image: torch.Tensor, text: torch.Tensor, rows: torch.Tensor, logits: str, scale: float
) -> dict[str, torch.Tensor]:
    """Return the supervised contrast between images and their sentences, ``image_to_text`` and ``text_to_image``.

    Both are scalars. ``image`` and ``text`` are features (B, embed_dim), each of the identity that ``rows`` (B,) says.
    ``logits`` and ``scale`` are as :func:`~clipreid_lib.method.prompt_bank.scale_pair` takes them.
    """
    images, texts = scale_pair(image, text, logits, scale)
    return {
        "image_to_text": supervised_contrastive(images, texts, rows, rows),
        "text_to_image": supervised_contrastive(texts, images, rows, rows),
    }


def supervised_contrastive(
    anchors: torch.Tensor, contrasts: torch.Tensor, anchor_labels: torch.Tensor, contrast_labels: torch.Tensor
) -> torch.Tensor:
    """Pull each anchor (A, D) towards the contrasts (C, D) of its own identity, away from all others.

    For every anchor the log-softmax over all contrasts is averaged over those of the same identity, by integer labels
    (A,) and (C,). The loss, a scalar, is the negative mean over anchors that have at least one; 0 where none has.
    Khosla et al. 2020 (arXiv 2004.11362, eq. 2) in the two-sided form of CLIP-ReID (arXiv 2211.13977, eq. 1-3). Dot
    products are taken as they are: normalise the features first if cosines are meant.

    Raises:
        ValueError: shapes that do not fit.
    """
    if anchors.ndim != 2 or contrasts.ndim != 2 or anchors.shape[1] != contrasts.shape[1]:
        raise ValueError(f"anchors {tuple(anchors.shape)} and contrasts {tuple(contrasts.shape)} must share a width")
    if anchor_labels.shape != anchors.shape[:1] or contrast_labels.shape != contrasts.shape[:1]:
        raise ValueError("one label per row is needed on both sides")
    log_share = (anchors @ contrasts.T).log_softmax(dim=1)  # (A, C)
    same = (anchor_labels[:, None] == contrast_labels[None, :]).to(log_share.dtype)  # (A, C)
    positives = same.sum(dim=1)  # (A,)
    per_anchor = (log_share * same).sum(dim=1) / positives.clamp(min=1)  # 0 for an anchor without positives
    return -per_anchor.sum() / (positives > 0).sum().clamp(min=1)


def info_nce(anchors: torch.Tensor, contrasts: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """CLIP's loss in one direction (Radford et al. 2021, arXiv 2103.00020): each anchor has one positive, its own pair.

    Row by row, anchors (B, D) and contrasts (B, D) are pairs. Other pairs of the same identity, by integer ``ids``
    (B,), are neither positives nor negatives: they are left out of the sum, where CLIP, which knows no identities,
    would push them apart. Dot products are taken as they are. The loss is a scalar, the mean over the anchors.
    """
    logits = anchors @ contrasts.T  # (B, B)
    same = ids[:, None] == ids[None, :]
    itself = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
    logits = logits.masked_fill(same & ~itself, -torch.inf)
    return torch.nn.functional.cross_entropy(logits, torch.arange(len(ids), device=ids.device))
