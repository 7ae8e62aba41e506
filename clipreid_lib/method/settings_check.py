"""Checks the settings and images of a training before it begins."""

import math
from numbers import Integral, Real

import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip.feed import Images
from clipreid_lib.params.schema import allowed_words

WORDS = {key: allowed_words(key) for key in ("schedule", "sampler", "padding", "erasing", "precision")}
WORDS |= {key: allowed_words(f"prompt_{key}") for key in ("form", "loss", "logits")}
WORDS["compose"] = ("none", "word", "fixed")
COUNTS = ("epochs", "batch_size", "num_prompts", "images_per_identity", "accumulate", "prompt_dim")
RATES = ("lr", "head_lr", "bias_factor")


def check_settings(settings: object) -> None:
    """Refuse settings of a stage or a loss that hold a misspelt word, a count below one or a rate not above zero.

    Raises:
        UserError: naming the field, its value and what is allowed.
    """
    for key, value in vars(settings).items():
        if key in WORDS and value not in WORDS[key]:
            raise UserError(f"{key}: {value!r} is not allowed; use {', '.join(WORDS[key])}")
        real = isinstance(value, Real) and not isinstance(value, bool)
        whole = isinstance(value, Integral) and real
        if key in COUNTS and not (whole and int(value) >= 1) and not (key == "prompt_dim" and value is None):
            raise UserError(f"{key}: {value!r} is not allowed; use a whole number from 1")
        if key in RATES and not (real and 0 < float(value) < math.inf):
            raise UserError(f"{key}: {value!r} is not allowed; use a number above 0")


def check_images(images: Images, size: tuple[int, int]) -> None:
    """Refuse images that are not (N, 3, H, W) uint8 of the ``size`` (H, W) that a network takes, by the first of them.

    Raises:
        ValueError: they are of another type, shape or size.
    """
    if not len(images):
        return
    first, wanted = images[torch.tensor([0])], (3, *size)
    if not isinstance(first, torch.Tensor) or first.dtype != torch.uint8 or first.shape[1:] != wanted:
        kind = str(getattr(first, "dtype", type(first).__name__)).removeprefix("torch.")
        has = ", ".join(["N", *map(str, getattr(first, "shape", ())[1:])])
        raise ValueError(
            f"images: ({has}) of {kind} are not allowed; give a tensor of (N, {', '.join(map(str, wanted))}) uint8"
        )
