"""7 memory: how much a training takes at its peak, and what is said when there is not enough."""

import contextlib
import gc
from collections.abc import Iterator
from unittest import mock

import torch
from place import Place, make_terms
from verdicts import Row, judge

from clipreid_lib.base.errors import UserError
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.method.loss_terms import Term

MOST = 24.0  # GiB, of a card that many have
# Model, number format, whether activations are computed again.
TRAININGS = (
    ("vitb16", "bf16", False),
    ("vitb16", "bf16", True),
    ("vitb16", "float32", False),
    ("vitl14", "bf16", False),
    ("vitl14", "bf16", True),
)
SPARE = 3 * 2**30  # bytes: enough for the model and Adam, not for a batch in float32


def rows(place: Place) -> Iterator[Row]:
    """Train two batches of 64 each time."""
    for model, precision, checkpointing in place.pick(TRAININGS, TRAININGS[:2]):
        peak = train(place, model, precision, checkpointing)
        what = f"peak of {model}, {precision}{', checkpointing' if checkpointing else ''}"
        judged = None if (model, checkpointing) == ("vitl14", False) else MOST
        yield place.on_gpu(judge(what, peak, "GiB", beside="batch 64 at 224", at_most=judged))
    yield name_the_remedy(place)


def train(place: Place, model: str, precision: str, checkpointing: bool = False, more: dict | None = None) -> float:
    """Train for an epoch of two batches; return the peak in GiB."""
    clip = place.load(model)
    images, labels = place.hands(clip, most=place.pick(128, 16))
    settings = EncoderSettings(
        epochs=1, batch_size=place.pick(64, 8), precision=place.has(precision), checkpointing=checkpointing
    )
    terms = make_terms(clip, "clipid", labels) | (more or {})
    gc.collect()  # what the training before has left
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    finetune(clip, images, labels, terms, settings)
    return place.memory_gib()


def name_the_remedy(place: Place) -> Row:
    """Let a training run out of memory and read what the user is told. Last: little memory is left after it."""
    with shorten(place) as more:
        try:
            train(place, "vitb16", "float32", more=more)
            told = "it did not run out of memory"
        except UserError as error:
            told = str(error)
    named = sum(word in told for word in ("batch_size", "checkpointing", "bf16", "accumulate"))
    return judge("out of memory: remedies named", named, "of 4", at_least=4, note=told)


@contextlib.contextmanager
def shorten(place: Place) -> Iterator[dict[str, Term]]:
    """Leave the GPU little memory while the block runs; on a CPU a loss term pretends that none is left."""
    gc.collect()
    if place.device.type == "cuda":
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + SPARE) / total)
        try:
            yield {}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        return

    def full(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("pretended")

    with mock.patch.object(torch.cuda, "mem_get_info", return_value=(2**30, 2**33)):
        yield {"full": Term(1.0, full)}
