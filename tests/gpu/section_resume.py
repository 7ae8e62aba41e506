"""5 resume: a training that is killed and goes on ends with the bits of one left alone."""

import os
from collections.abc import Iterator
from pathlib import Path

import torch
from place import Place, epoch_of, make_terms
from verdicts import Row, judge

from clipreid_lib.clip.device import compute_repeatably
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.method.resume import Keep, trainable_state

EPOCHS, KILLED_AFTER = 4, 2
RUNGS = (("clipid", "bf16"), ("inversion", "bf16"), ("classifier", "fp16"))


class Killed(Exception):
    """Stands for the end of a process."""


def rows(place: Place) -> Iterator[Row]:
    """Train each rung whole, whole again, and in two parts."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # before this process's first product
    compute_repeatably()
    for variant, wanted in RUNGS:
        precision = place.has(wanted)
        whole = train(place, variant, precision)
        again = train(place, variant, precision)
        yield compare(f"{variant}, {wanted}: whole and whole again", again, whole)
        keep = Keep(resume=place.scratch / f"{variant}.resume.pt", key=variant, every=0)
        try:
            train(place, variant, precision, keep, KILLED_AFTER)
        except Killed:
            pass
        resumed = train(place, variant, precision, keep)
        yield compare(f"{variant}, {wanted}: whole and resumed", resumed, whole)
        Path(keep.resume).unlink()


def train(
    place: Place, variant: str, precision: str, keep: Keep | None = None, killed_after: int = 0
) -> dict[str, torch.Tensor]:
    """Return the weights at the end, on the CPU.

    Raises:
        Killed: after that epoch.
    """
    clip = place.load("vitb16")
    images, labels = place.hands(clip, most=place.pick(448, 24))  # 7 batches of 64
    lengths = EncoderSettings(epochs=EPOCHS, batch_size=place.pick(64, 8), precision=precision)
    told: list[str] = []

    def watch(line: str) -> None:
        told.append(line)
        if killed_after and epoch_of(line) == killed_after:
            raise Killed

    model, log = finetune(clip, images, labels, make_terms(clip, variant, labels), lengths, keep=keep, watch=watch)
    if keep and not any("going on after epoch 2" in line for line in told):
        raise AssertionError(f"it did not go on from the state: {told[0]}")
    weights = {name: value.detach().cpu().clone() for name, value in trainable_state(model).items()}
    return weights | {"log": torch.tensor(log["loss"].tolist(), dtype=torch.float64)}


def compare(what: str, found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> Row:
    """Return the greatest difference of any weight; none is allowed."""
    apart = {name: float((found[name] - value).abs().max()) for name, value in expected.items()}
    differ = [name for name, value in expected.items() if not torch.equal(found[name], value)]
    note = f"{len(differ)} of {len(apart)} tensors differ, {differ[0]} first" if differ else ""
    worst = max(apart.values())
    if differ and not worst > 0:  # not numbers
        worst = float("nan")
    return judge(what, worst, at_most=0, beside=f"{len(apart)} tensors", note=note)
