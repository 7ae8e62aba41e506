"""2 waits: how often the host waits for the GPU in a training step, as CUDA's own debugging mode tells."""

import collections
import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from place import Place, count_steps, make_terms
from verdicts import Row, judge

from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.method.prompt_learning import PromptSettings, learn_prompts

EPOCHS = 3  # the first makes constants and is not counted
MOST = 1.0  # a step


def rows(place: Place) -> Iterator[Row]:
    """Train a few epochs of stages 2b and 2a and count."""
    clip = place.load("vitb16")
    images, labels = place.hands(clip)
    batch = place.pick(64, 8)
    prompts = PromptSettings(epochs=EPOCHS, batch_size=batch)
    steps = -(-len(images) // batch)
    yield row(place, "2a", steps, lambda watch: learn_prompts(clip, images, labels, prompts, watch=watch))
    for variant in ("clipid", "inversion"):
        clip = place.load("vitb16")
        precision = place.has("bf16")
        settings = EncoderSettings(epochs=EPOCHS, batch_size=batch, precision=precision)
        terms = make_terms(clip, variant, labels)

        def train(watch: Callable, clip=clip, terms=terms, settings=settings) -> object:
            return finetune(clip, images, labels, terms, settings, watch=watch)

        yield row(place, f"2b {variant}, {precision}", count_steps(labels, settings), train)


def row(place: Place, what: str, steps: int, train: Callable[[Callable[[str], None]], object]) -> Row:
    """Count the waits of a training between the ends of its first and its last epoch."""
    counts: list[int] = []
    with count_waits(place) as caught:
        train(lambda told: counts.append(len(caught)))
    within = [each for each in caught[counts[0] : counts[-1]] if "synchroniz" in str(each.message).lower()]
    where = collections.Counter(f"{Path(each.filename).name}:{each.lineno}" for each in within)
    note = ", ".join(f"{times} at {line}" for line, times in where.most_common(6))
    waits = len(within) / (EPOCHS - 1) / steps
    return place.on_gpu(judge(f"waits per step, {what}", waits, beside=f"{steps} steps", at_most=MOST, note=note))


@contextlib.contextmanager
def count_waits(place: Place) -> Iterator[list[warnings.WarningMessage]]:
    """Yield the list that warnings go to while the block runs; on a GPU each wait is one."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if place.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            yield caught
        finally:
            if place.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")
