"""Learning-rate schedules of CLIP-ReID (arXiv 2211.13977) and CLIP-HandID: the rate of all steps of an epoch.

They are pure functions. ``epoch`` is counted from 1, ``epochs`` is the length of the run.
"""

import math


def prompt_rate(epoch: int, epochs: int, peak: float, warm_up: float) -> float:
    """Cosine decay with a short warm-up, as CLIP-ReID (arXiv 2211.13977) learns prompts.

    For 120 epochs and a peak of 3.5e-4 it gives the published 7.8e-5 in epoch 1, 3.48e-4 in epoch 5 and
    1.755e-4 in epoch 60. The cosine starts from the peak. ``warm_up`` is a share of the run, but not less than one
    epoch: as published, 5 epochs of the ViT's 120 and of the ResNet's 60.
    """
    floor, start, warm_up = peak / 350, peak / 35, max(1.0, epochs * warm_up)  # 1e-6 and 1e-5 of 3.5e-4
    if epoch < warm_up:
        return start + (peak - start) * epoch / warm_up
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def encoder_rate(
    epoch: int,
    epochs: int,
    peak: float,
    start: float,
    steps: tuple[float, float],
) -> float:
    """Linear warm-up, then steps down by ten, as CLIP-ReID (arXiv 2211.13977) fine-tunes its image encoders.

    Warm-up goes from the share ``start`` of the peak to the peak. After each of the shares ``steps`` of the run the
    rate falls to a tenth. Published: warm-up over 10 epochs; the ViT's 60 start from a tenth and step at 30 and 50,
    the ResNet's 120 start from a hundredth and step at 40 and 70. Shorter runs keep the ViT's proportions (a sixth of
    the run warms up).
    """
    warm_up = min(10, epochs / 6)
    rate = peak * (start + (1 - start) * min(1.0, epoch / warm_up))
    # the two lower bounds: a run of one or two epochs, tried out for its speed, must not start at a hundredth
    first, second = (round(share * epochs, 6) for share in steps)  # 0.58333 x 120 is to be 70
    return rate * 0.1 ** ((epoch >= max(2, first)) + (epoch >= max(3, second)))


def handid_rate(epoch: int, epochs: int, peak: float) -> float:
    """Linear warm-up, then half the rate twice, as CLIP-HandID (arXiv 2506.12447) trains.

    Published for 70 epochs: from a hundredth of the peak in the first epoch to the peak in the eleventh, halves from
    the 41st and the 61st on. Other lengths keep the proportions.
    """
    done = (epoch - 1) * 70 / epochs
    if done < 10:
        return peak * (0.01 + 0.99 * done / 10)
    return peak * 0.5 ** ((done >= 40) + (done >= 60))
