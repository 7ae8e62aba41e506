"""Augmenting a whole batch at once against torchvision's transforms image by image; the same images, bit by bit.

Both begin with uint8 pixels and end with normalised ones. The second row sets the same against normalising alone.
"""

import torch
from rows import Row, in_turn

from clipreid_lib.clip.encode import normalise
from clipreid_lib.method.augment import Augment

from torchvision.transforms import v2  # isort: skip

AIM, DEARER = 5, 3  # times as fast as one by one; at most times normalising alone
BATCH, SIZE, ROUNDS = 64, 224, 9
MEAN, STD = (0.481, 0.458, 0.408), (0.269, 0.261, 0.276)  # CLIP's


def rows() -> list[Row]:
    """Augment a batch of CLIP's usual size."""
    pixels = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    augment = Augment(SIZE, MEAN, STD)
    crop, erase = v2.RandomCrop(SIZE, padding=augment.pad, padding_mode="edge"), v2.RandomErasing(p=0.5, value=0)
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in (MEAN, STD))

    def one_by_one(number: int) -> torch.Tensor:
        torch.manual_seed(number)
        return torch.stack([erase(crop(image)) for image in (pixels.float() / 255 - mean) / std])

    def at_once(number: int) -> torch.Tensor:
        torch.manual_seed(number)
        return augment(pixels)

    pairs, answers = in_turn(one_by_one, at_once, ROUNDS)
    assert torch.equal(*answers)
    alone, _ = in_turn(lambda _: normalise(pixels, MEAN, STD), at_once, ROUNDS)
    note = f"batch of {BATCH} at {SIZE}, CPU"
    equal = f"{note}; equal bit by bit"
    reason = "on a CPU half of the time goes to normalising, which both ways must do"
    return [
        Row("augmentation", "image by image", "the batch at once", pairs, AIM, note=equal, reason=reason),
        Row("augmentation", "normalising alone", "the batch at once", alone, DEARER, about="times", note=note),
    ]
