"""4 state: how large a resume state is, and what writing one a minute takes from the training."""

import time
from collections.abc import Iterator
from typing import Any

import torch
from place import Place, make_terms
from verdicts import Row, judge

from clipreid_lib.base import checkpoints
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.method.resume import MINUTE, Keep, ResumeWriter, trainable_state

SIZE = 1.02  # times the learning parameters, Adam's two moments of each, and the buffers
SHARE = 10.0  # per cent


def rows(place: Place) -> Iterator[Row]:
    """Write the state of a ViT-B-16 that has trained for an epoch."""
    clip = place.load("vitb16")
    images, labels = place.hands(clip, most=place.pick(128, 16))
    path = place.scratch / "state.pt"
    settings = EncoderSettings(epochs=2, batch_size=place.pick(64, 8), precision=place.has("bf16"))
    terms = make_terms(clip, "clipid", labels)
    model, log = finetune(clip, images, labels, terms, settings, keep=Keep(resume=path, every=0))
    stored = path.stat().st_size / 2**20
    learnt = sum(value.nbytes for value in trainable_state(model).values())
    moments = 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)
    needed = (learnt + moments) / 2**20
    yield judge(
        "bytes of a state", stored, "MiB", beside=f"{needed:.0f} MiB learnt", ratio=stored / needed,
        at_most=place.pick(SIZE, 1.1), of="ratio",
    )  # fmt: skip
    state = move(checkpoints.load_resume(path), place.device)  # as it lies during a training
    writer = ResumeWriter(Keep(resume=place.scratch / "again.pt", every=1e-6))
    time.sleep(1e-3)
    blocked = place.seconds(lambda: writer.write(lambda: state, last=False))
    behind = place.seconds(writer.close)
    yield place.on_gpu(Row("seconds a state takes", blocked + behind, "s", note=f"the training waits {blocked:.2f} s"))
    yield place.on_gpu(
        judge(
            "share of an epoch of 11k, one state a minute",
            100 * (blocked + behind) / MINUTE,
            "%",
            at_most=SHARE,
            beside=f"{100 * blocked / MINUTE:.1f} % waited for",
            note="as if the training stood still while the thread writes",
        )
    )


def move(value: Any, device: torch.device) -> Any:
    """Return nested tensors on a device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: move(each, device) for key, each in value.items()}
    return [move(each, device) for each in value] if isinstance(value, list) else value
