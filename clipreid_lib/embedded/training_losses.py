"""Losses of the pretraining: which sentences are true of which pictures, and which pictures are alike."""

import torch
import torch.nn.functional as F

TEMPERATURE = 0.1  # of the contrast between pictures: SimCLR's and SLIP's
NEVER = -1e4  # a logit that no softmax sees
COARSE = 12  # side of the small pictures whose likeness the features keep


def pair_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Compute CLIP's symmetric loss where a picture may have several true sentences and a sentence several pictures.

    Each true pair competes with the false ones of its row (and of its column), never with other true ones;
    with exactly one true entry per row and column this is CLIP's own cross-entropy. 0 is perfect.

    Args:
        logits: (B, C) scaled cosines of pictures and sentences, or of pictures and pictures.
        truth: (B, C) bool; rows and columns without any true entry are left out.

    Returns:
        () the mean of both directions.
    """
    total = logits.new_zeros(())
    for scores, true in ((logits, truth), (logits.T, truth.T)):
        scores, true = scores[true.any(dim=1)], true[true.any(dim=1)]
        rivals = scores.masked_fill(true, NEVER).logsumexp(dim=1, keepdim=True)
        per_pair = F.softplus(rivals - scores) * true
        total = total + (per_pair.sum(dim=1) / true.sum(dim=1)).mean()
    return total / 2


def contrast_loss(features: torch.Tensor, alike: torch.Tensor, apart: torch.Tensor) -> torch.Tensor:
    """Compute the loss between pictures: those alike are told from those apart.

    Where each picture is like one other and all the rest are apart it is SimCLR's (arXiv 2002.05709), SLIP's second.

    Args:
        features: (B, D) of the pictures.
        alike: (B, B) bool: which pairs to pull together; a picture with itself does not count.
        apart: (B, B) bool: which pairs to push apart; the others do not matter.

    Returns:
        () 0 is perfect.
    """
    unit = F.normalize(features, dim=1)
    alike = alike & ~torch.eye(len(alike), dtype=torch.bool, device=alike.device)
    return pair_loss((unit @ unit.T / TEMPERATURE).masked_fill(~(alike | apart), NEVER), alike)


def coarse_loss(features: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Compute how far the likeness of pictures by their features is from that of the pictures at 12 x 12 pixels.

    Coarse colour, pose and place tell bursts of photographs apart better than anything that is learnt of drawings
    alone. Here the pixels are the teacher of SEED (arXiv 2101.04731): each picture's similarities to the others,
    through a softmax, compared by the Kullback-Leibler divergence.

    Args:
        features: (B, D) of the pictures.
        images: (B, 3, S, S) the network's normalised input.

    Returns:
        () 0 is perfect.
    """
    coarse, chances = F.interpolate(images, size=COARSE, mode="area").flatten(1), []
    for each in (coarse, features):
        unit = F.normalize(each - each.mean(0).detach(), dim=1)
        logits = (unit @ unit.T / TEMPERATURE).fill_diagonal_(NEVER)
        chances.append(logits.log_softmax(dim=1))
    return F.kl_div(chances[1], chances[0], reduction="batchmean", log_target=True)
