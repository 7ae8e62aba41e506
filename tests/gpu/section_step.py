"""3 step: stage 2b's loop against a bare forward, backward and step of the same model, epoch by epoch in turn."""

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from flops import TRAINING, forward_flops, peak_of
from place import Place, count_steps, make_terms
from verdicts import Row, judge

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.device import FORMATS, allow_tf32
from clipreid_lib.clip.encode import normalise
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune

OURS_TO_BARE = 1.15
MFU = 35.0  # per cent, of ViT-B-16 at 224 in bf16
# Model, input size, number format, epochs of which the first warms up.
SETTINGS = (
    ("vitb16", None, "bf16", 7),
    ("vitb16", "256x128", "bf16", 7),
    ("rn50", "256x128", "bf16", 6),
    ("vitb16", None, "float32", 3),
    ("vitb16", None, "tf32", 4),
    ("vitb16", "256x128", "float32", 3),
    ("rn50", "256x128", "float32", 3),
)


def rows(place: Place) -> Iterator[Row]:
    """Time every setting; one row for the loop and one for what the card reaches."""
    card = torch.cuda.get_device_name() if place.device.type == "cuda" else "CPU"
    peak = place.pick(peak_of(card), 1.0)
    for model, size, wanted, epochs in place.pick(SETTINGS, (SETTINGS[0], SETTINGS[4])):
        precision = place.has(wanted)
        clip = place.load(model, size)
        what = f"{model} at {'x'.join(map(str, clip.image_size))}, {wanted}"
        flops = TRAINING * forward_flops(clip)
        bare = Bare(place, place.load(model, size), precision)
        ours, plain = take_turns(place, clip, bare, precision, place.pick(epochs, 2))
        said = f"bare {plain:.0f} images/s"
        row = judge(what, ours, "images/s", beside=said, ratio=plain / ours, at_most=OURS_TO_BARE, of="ratio")
        yield place.on_gpu(row)
        if wanted == "bf16":
            yield place.on_gpu(compare_kernels(place, clip, bare, precision))
        reached, note = flops * ours / 1e12, "" if peak else f"{card}: data sheet not known here, no MFU"
        if not peak or wanted != "bf16":
            yield place.on_gpu(Row(f"  its products, {flops / 1e9:.3g} GFLOP an image", reached, "TFLOP/s", note=note))
            continue
        judged = MFU if (model, size) == ("vitb16", None) else None
        said = f"{reached:.0f} of {peak:.0f} TFLOP/s"
        yield place.on_gpu(judge("  its MFU", 100 * reached / peak, "%", beside=said, at_least=judged))


def compare_kernels(place: Place, clip: Backbone, bare: "Bare", precision: str) -> Row:
    """Tell what the card itself is busy for: a machine that starts kernels slowly lets it wait for the rest."""
    images, labels = place.hands(clip)
    settings = EncoderSettings(epochs=1, batch_size=place.pick(64, 16), precision=precision)
    terms, steps = make_terms(clip, "clipid", labels), count_steps(labels, settings)
    ours, kernels = watch_kernels(place, lambda: finetune(clip, images, labels, terms, settings, watch=lambda _: None))
    plain, fewer = watch_kernels(place, lambda: bare.images_per_second(steps))
    said = f"bare {1e3 * plain / steps:.1f} ms, {fewer // steps} kernels"
    what = f"  the card's own time a step, {kernels // steps} kernels"
    ratio = ours / plain if plain else None
    return judge(what, 1e3 * ours / steps, "ms", beside=said, ratio=ratio, at_most=OURS_TO_BARE, of="ratio")


def watch_kernels(place: Place, task: Callable[[], object]) -> tuple[float, int]:
    """Return the seconds that a task's kernels take on the card, and how many they are; of a CPU its operations."""
    kind = place.pick("CUDA", "CPU")
    with torch.profiler.profile(activities=[getattr(torch.profiler.ProfilerActivity, kind)]) as seen:
        task()
        place.wait()
    kernels = [each for each in seen.key_averages() if each.device_type.name == kind]
    total = sum(place.pick(each.self_device_time_total, each.self_cpu_time_total) for each in kernels)
    return total / 1e6, sum(each.count for each in kernels)


class Bare:
    """Training steps and nothing else, on one batch that lies ready on the device."""

    def __init__(self, place: Place, clip: Backbone, precision: str) -> None:
        self.place, self.precision = place, precision
        images, labels = place.hands(clip, most=place.pick(62, 8))  # 864 images in 14 batches are 62 each
        self.model = ClipidModel(clip, len(set(labels))).to(clip.device).train()
        fused = clip.device.type == "cuda"
        self.optimiser = torch.optim.Adam(self.model.parameter_groups(5e-6, 5e-5), fused=fused)
        self.images = normalise(images.to(clip.device), *clip.normalisation)
        self.people = torch.tensor(labels, device=clip.device)

    def images_per_second(self, steps: int) -> float:
        """Do some steps."""

        def train() -> None:
            with allow_tf32(self.precision == "tf32"):
                for _ in range(steps):
                    out = self.model(self.images, number=FORMATS[self.precision])
                    loss = torch.nn.functional.cross_entropy(out.logits, self.people) + out.logits_proj.square().mean()
                    self.optimiser.zero_grad(set_to_none=True)
                    loss.backward()
                    self.optimiser.step()

        return steps * len(self.images) / self.place.seconds(train)


def take_turns(place: Place, clip: Backbone, bare: Bare, precision: str, epochs: int) -> tuple[float, float]:
    """Train, and between the epochs do as many bare steps as each has; return the images/s of both, medians."""
    images, labels = place.hands(clip)
    settings = EncoderSettings(epochs=epochs, batch_size=place.pick(64, 16), precision=precision)
    terms, steps = make_terms(clip, "clipid", labels), count_steps(labels, settings)
    ours: list[float] = []
    plain: list[float] = []
    began = time.perf_counter()

    def watch(_: str) -> None:
        nonlocal began
        place.wait()
        ours.append(len(images) / (time.perf_counter() - began))
        plain.append(bare.images_per_second(steps))
        began = time.perf_counter()

    finetune(clip, images, labels, terms, settings, watch=watch)
    return statistics.median(ours[1:]), statistics.median(plain[1:])
