"""The parts of the pretraining: loss, schedules, sampling, and what is prepared before the first picture."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.embedded import captions


def caption_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Compute CLIP's symmetric loss where a picture may have several true sentences and a sentence several pictures.

    Each true pair competes with the false ones of its row (and of its column), never with other true ones;
    with exactly one true entry per row and column this is CLIP's own cross-entropy. 0 is perfect.

    Args:
        logits: (B, C) scaled cosines of pictures and sentences.
        truth: (B, C) bool; rows and columns without any true entry are left out.

    Returns:
        () the mean of both directions.
    """
    total = torch.zeros(())
    for scores, true in ((logits, truth), (logits.T, truth.T)):
        scores, true = scores[true.any(dim=1)], true[true.any(dim=1)]
        rivals = scores.masked_fill(true, -1e4).logsumexp(dim=1, keepdim=True)
        per_pair = F.softplus(rivals - scores) * true
        total = total + (per_pair.sum(dim=1) / true.sum(dim=1)).mean()
    return total / 2


def schedule_rate(progress: float, peak: float, warm_up: float) -> float:
    """Give the learning rate at a share of the schedule in [0, 1]: linear rise to ``peak``, cosine to 1 % of it."""
    if progress < warm_up:
        return peak * max(progress, 1e-3) / warm_up
    fraction = min(1.0, (progress - warm_up) / (1 - warm_up))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))


def share_spoiled(progress: float) -> float:
    """Give the share of spoiled pictures: few at first, so that thumbs are found, 0.9 from a quarter on."""
    return min(0.9, 0.3 + 2.4 * progress)


def weigh_samples(facts: np.ndarray, rare: float) -> np.ndarray:
    """Give the chance (N,) of each picture to be drawn, by its facts (N, 7): what is rare comes more often.

    ``rare`` = 0 draws all pictures alike, 1 all values of each of skin, polish and ring.
    """
    weights = np.ones(len(facts))
    for fact in (captions.SKIN, captions.POLISH, captions.RING):
        _, value, counts = np.unique(facts[:, fact], return_inverse=True, return_counts=True)
        weights *= (counts**-rare)[value]
    return weights / weights.sum()


def learn_to_read(backbone: Backbone, facts: np.ndarray, steps: int, seed: int) -> list[float]:
    """Prepare the text tower alone: a sentence's feature becomes the sum of random codes of the facts it states.

    An untrained tower answers "left hand" and "right hand" with much the same vector (cosine about 0.9).
    What the text hardly expresses the images hardly learn: contrastive training from scratch found the skin and
    the view and then stood still. Two values of a fact get opposite codes, four get orthogonal ones.

    Args:
        backbone: the untrained model.
        facts: (N, 7) of the training pictures, to write sentences about.
        steps: of 64 sentences each.
        seed: of codes and sentences.

    Returns:
        The loss, 1 - cosine, of every step.
    """
    rng = np.random.default_rng([seed, 1])
    values = sum(len(options) for options in captions.FACTS.values())
    orthogonal, _ = np.linalg.qr(rng.standard_normal((backbone.clip.visual.output_dim, values)))
    unused, codes = iter(orthogonal.T), []  # of each fact, one code per value
    for options in captions.FACTS.values():
        first = next(unused)
        codes.append([first, -first] if len(options) == 2 else [first, *(next(unused) for _ in options[1:])])
    tower = [p for name, p in backbone.clip.named_parameters() if not name.startswith(("visual", "logit"))]
    optimiser, losses = torch.optim.AdamW(tower, lr=2e-3, weight_decay=0.0), []
    for step in range(steps):
        about = facts[rng.integers(len(facts), size=32)]
        sentences, stated = captions.write_captions(about, rng)
        sums = [sum(codes[fact][said[fact]] for fact in np.flatnonzero(said >= 0)) for said in stated]
        aims = F.normalize(torch.tensor(np.stack(sums), dtype=torch.float32), dim=1)
        loss = (1 - (F.normalize(backbone.encode_texts(sentences), dim=1) * aims).sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = schedule_rate(step / steps, 2e-3, 0.1)
        optimiser.step()
        losses.append(loss.item())
    return losses


@torch.no_grad()
def centre(backbone: Backbone, images: torch.Tensor) -> None:
    """Start with image features that differ: take their mean over (B, 3, S, S) images off the last bias."""
    backbone.clip.visual.attnpool.c_proj.bias -= backbone.image_features(images).f_proj.mean(0)
