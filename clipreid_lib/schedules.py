"""Learning-rate schedules as pure functions of the epoch."""

import math


def prompt_rate(epoch: int, epochs: int, peak: float) -> float:
    """Cosine decay with a short warm-up, as CLIP-ReID learns prompts.

    For 120 epochs and a peak of 3.5e-4 it gives the published 7.8e-5 in epoch 1, 3.48e-4 in epoch 5 and
    1.755e-4 in epoch 60. Warm-up lasts 5 epochs (of 120; a twenty-fourth of the run, but not less than one).

    Args:
        epoch: counted from 1.
        epochs: length of the run.
        peak: rate the cosine starts from.

    Returns:
        Rate for every step of that epoch.
    """
    floor, start, warm_up = peak / 350, peak / 35, max(1.0, epochs * 5 / 120)  # 1e-6 and 1e-5 of 3.5e-4
    if epoch < warm_up:
        return start + (peak - start) * epoch / warm_up
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def encoder_rate(epoch: int, epochs: int, peak: float) -> float:
    """Linear warm-up, then steps down by ten, as CLIP-ReID fine-tunes its ViT.

    Published for 60 epochs: warm-up over 10 starting from a tenth, steps at 30 and 50. Other lengths keep the
    proportions.

    Args:
        epoch: counted from 1.
        epochs: length of the run.
        peak: rate after warm-up.

    Returns:
        Rate for every step of that epoch.
    """
    warm_up = epochs / 6
    rate = peak * (0.1 + 0.9 * min(1.0, epoch / warm_up))
    # the two minima keep runs of one or two epochs, tried out for their speed, from starting at a hundredth
    return rate * 0.1 ** ((epoch >= max(2, epochs / 2)) + (epoch >= max(3, epochs * 5 / 6)))
