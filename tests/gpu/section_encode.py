"""8 encode: features against the bare forward pass, and how long an epoch of stage 2a takes."""

import statistics
import time
from collections.abc import Iterator

import torch
from place import Place
from verdicts import Row, judge

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.device import allow_tf32
from clipreid_lib.clip.encode import encode, normalise
from clipreid_lib.method.prompt_learning import PromptSettings, learn_prompts

BARE = 0.8  # of the bare forward pass's images/s
EPOCH = 0.15  # s, of 72 people with 890 images
IMAGES = 890


def rows(place: Place) -> Iterator[Row]:
    """Time both with ViT-B-16 in float32."""
    clip = place.load("vitb16")
    images, labels = place.hands(clip)
    ours, bare = take_turns(place, clip, images)
    ratio = ours / bare
    said = f"bare {bare:.0f} images/s"
    yield place.on_gpu(judge("encode", ours, "images/s", beside=said, ratio=ratio, at_least=BARE, of="ratio"))
    wanted = place.pick(IMAGES, len(images) + 2)
    chosen = torch.arange(wanted) % len(images)
    seconds = time_prompts(place, clip, images[chosen], [labels[row] for row in chosen.tolist()])
    said = f"{len(set(labels))} people, {wanted} images"
    yield place.on_gpu(judge("2a epoch", seconds, "s", beside=said, at_most=EPOCH))


def take_turns(place: Place, clip: Backbone, images: torch.Tensor) -> tuple[float, float]:
    """Return the images/s of ``encode`` and of a forward pass on a batch that lies ready, medians of turns."""
    ready = normalise(images[:128].to(place.device), *clip.normalisation)
    batches = -(-len(images) // len(ready))

    @torch.no_grad()
    def bare() -> None:
        with allow_tf32(False):
            for _ in range(batches):
                clip.image_features(ready)

    seconds = [(place.seconds(lambda: encode(clip, images)), place.seconds(bare)) for _ in range(place.pick(6, 2))]
    ours, plain = zip(*seconds[1:], strict=True)  # the first warms up
    return len(images) / statistics.median(ours), batches * len(ready) / statistics.median(plain)


def time_prompts(place: Place, clip: Backbone, images: torch.Tensor, labels: list[int]) -> float:
    """Return the median seconds of an epoch of stage 2a, the first left out."""
    ends: list[float] = []

    def watch(_: str) -> None:
        place.wait()
        ends.append(time.perf_counter())

    settings = PromptSettings(epochs=place.pick(12, 3), batch_size=place.pick(64, 8))
    learn_prompts(clip, images, labels, settings, watch=watch)
    return statistics.median(later - sooner for sooner, later in zip(ends, ends[1:], strict=False))
