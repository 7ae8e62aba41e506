"""9 sharing: how much several trainings at once get out of one GPU."""

import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection

from budget import CONTEXT
from place import Place, epoch_of, make_terms
from verdicts import Row

from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune

LONGEST = 60.0  # seconds to wait for the slowest


def rows(place: Place) -> Iterator[Row]:
    """Train a ViT-B-16 in 1, 2 and 4 processes."""
    alone = 0.0
    for number in place.pick((1, 2, 4), (1, 2)):
        found = train_together(place, number)
        total = sum(rate for rate, _ in found)
        alone = alone or total
        what = f"{number} training{'s' if number > 1 else ''} at once, vitb16 bf16"
        peak = sum(gib for _, gib in found)
        yield place.on_gpu(Row(what, total, "images/s", f"{peak:.1f} GiB at peak, all", total / alone))


def train_together(place: Place, number: int) -> list[tuple[float, float]]:
    """Start trainings, let them begin together, and return each one's images/s and peak in GiB."""
    pipes, children = [], []
    for _ in range(number):
        ours, theirs = CONTEXT.Pipe()
        child = CONTEXT.Process(target=train, args=(place, theirs, os.getpid()))
        child.start()
        theirs.close()
        pipes.append(ours)
        children.append(child)
    try:
        for pipe in pipes:
            receive(pipe)  # it has warmed up
        for pipe in pipes:
            pipe.send("go")
        return [receive(pipe) for pipe in pipes]
    finally:
        for child in children:
            child.join(5)
            child.kill()


def receive(pipe: Connection) -> tuple[float, float]:
    """Wait for what a training has to say."""
    if not pipe.poll(LONGEST):
        raise TimeoutError(f"a training said nothing for {LONGEST:.0f} s")
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError("a training died; the log says why") from None


def train(place: Place, pipe: Connection, group: int) -> None:
    """Train in a process of its own; the first epoch warms up."""
    if hasattr(os, "setpgid"):
        os.setpgid(0, group)  # so that who ends the section ends this too
    clip = place.load("vitb16")
    images, labels = place.hands(clip)
    epochs, began = place.pick(9, 2), 0.0
    settings = EncoderSettings(epochs=epochs, batch_size=place.pick(64, 16), precision=place.has("bf16"))

    def watch(told: str) -> None:
        nonlocal began
        place.wait()
        if epoch_of(told) == 1:
            pipe.send("warm")
            pipe.recv()
            began = time.perf_counter()

    finetune(clip, images, labels, make_terms(clip, "clipid", labels), settings, watch=watch)
    place.wait()
    pipe.send(((epochs - 1) * len(images) / (time.perf_counter() - began), place.memory_gib()))
