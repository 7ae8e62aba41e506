"""0 card: which GPU this is, what torch has switched on, and how fast plain products and copies are."""

import subprocess
from collections.abc import Iterator

import torch
from flops import peak_of
from place import Place
from verdicts import Row

from clipreid_lib.method.clipid_model import ClipidModel

KERNELS = ("flash", "fmha", "cudnn", "efficient", "softmax")  # parts of the names of attention's kernels


def rows(place: Place) -> Iterator[Row]:
    """Print what the other numbers are to be read by."""
    cuda = place.device.type == "cuda"
    name = torch.cuda.get_device_name() if cuda else "CPU"
    held = f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.0f} GiB" if cuda else ""
    yield place.on_gpu(Row("card", name, beside=held, note=describe(cuda)))
    small = torch.zeros(8, device=place.device)
    seconds = place.median_seconds(lambda: [small.add_(1) for _ in range(1000)], place.pick(5, 2)) / 1000
    note = "where this is long, the card waits for the machine" if cuda else ""
    yield place.on_gpu(Row("starting a kernel", 1e6 * seconds, "us", "5 to 10 on most machines", note=note))
    side = place.pick(8192, 256)
    factor = torch.randn(side, side, device=place.device, dtype=torch.bfloat16)
    seconds = place.median_seconds(lambda: factor @ factor, place.pick(20, 2))
    reached, said = 2 * side**3 / seconds / 1e12, peak_of(name)
    beside = f"{said:.0f} on the data sheet" if said else "data sheet not known here"
    ratio = reached / said if said else None
    yield place.on_gpu(Row("bf16 product of 8192 x 8192", reached, "TFLOP/s", beside, ratio))
    source = torch.empty(place.pick(2**30, 2**20), dtype=torch.uint8, device=place.device)
    target = torch.empty_like(source)
    seconds = place.median_seconds(lambda: target.copy_(source), place.pick(20, 2))
    yield place.on_gpu(Row("copy of 1 GiB, read and written", 2 * source.nbytes / seconds / 1e12, "TB/s"))
    for precision in (torch.bfloat16, torch.float32):
        found = name_kernels(place, precision)
        seen = " ".join(part for part in KERNELS if any(part in name.lower() for name in found)) or "none seen"
        row = Row(f"attention kernel, {precision}".replace("torch.", ""), seen, note=", ".join(found[:4]))
        yield place.on_gpu(row)


def describe(cuda: bool) -> str:
    """Return versions and flags in words."""
    words = [f"torch {torch.__version__}", f"CUDA {torch.version.cuda}"]
    if cuda:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            driver = subprocess.run(ask, capture_output=True, text=True, timeout=10).stdout.split()
        except (OSError, subprocess.TimeoutExpired):
            driver = []
        words += [f"driver {driver[0] if driver else 'not told'}", f"cuDNN {torch.backends.cudnn.version()}"]
        words += [f"compute capability {'.'.join(map(str, torch.cuda.get_device_capability()))}"]
        words += [f"bf16 {torch.cuda.is_bf16_supported(including_emulation=False)}"]
    words += [f"TF32 in products {torch.backends.cuda.matmul.allow_tf32}, in cuDNN {torch.backends.cudnn.allow_tf32}"]
    fused = {"flash": torch.backends.cuda.flash_sdp_enabled(), "cuDNN": torch.backends.cuda.cudnn_sdp_enabled()}
    words += [f"attention by {kernel} {on}" for kernel, on in fused.items()]
    return ", ".join(words)


def name_kernels(place: Place, precision: torch.dtype) -> list[str]:
    """Return the names of the kernels of attention in one training step, as the profiler sees them."""
    clip = place.load("vitb16")
    model = ClipidModel(clip, 2).to(place.device).train()
    images = torch.randn(8, 3, *clip.image_size, device=place.device)
    model(images, number=precision).logits.sum().backward()
    activities = [torch.profiler.ProfilerActivity.CPU, *place.pick([torch.profiler.ProfilerActivity.CUDA], [])]
    with torch.profiler.profile(activities=activities) as profiled:
        model(images, number=precision).logits.sum().backward()
        place.wait()
    wanted = place.pick(torch.autograd.DeviceType.CUDA, torch.autograd.DeviceType.CPU)
    names = [event.key for event in profiled.key_averages() if event.device_type == wanted]
    return sorted({name[:80] for name in names if any(part in name.lower() for part in KERNELS)})
