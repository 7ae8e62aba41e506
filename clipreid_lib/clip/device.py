"""The device: number formats, moving tensors without waiting, repeatable kernels, and what to do when memory is out."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.params.image_sizes import spell

FORMATS = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_precision(precision: str, device: torch.device | str) -> str:
    """Return which number format a training's forward passes have on a device.

    Args:
        precision: as in params; ``auto`` is bf16 where the GPU computes it, float32 elsewhere. (CPUs without matrix
            units for bf16 are four times slower with it; GPUs before 2020 only emulate it.)
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, ``meta``.

    Returns:
        ``float32``, ``tf32``, ``bf16`` or ``fp16``.

    Raises:
        UserError: fp16 or tf32 on a device that has not got it.
    """
    device = torch.device(device)
    if precision == "fp16" and device.type == "cpu":
        raise UserError("precision: fp16 needs a GPU; use float32 (or bf16) on cpu")
    if precision == "tf32" and not _computes_bf16(device):
        raise UserError(f"precision: tf32 needs an NVIDIA GPU of 2020 or later; use float32 on {device}")
    if precision == "auto":
        return "bf16" if _computes_bf16(device) else "float32"
    return precision


def _computes_bf16(device: torch.device) -> bool:
    """Ask the device chosen, not the current one. The same cards compute TF32."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


@contextlib.contextmanager
def allow_tf32(allowed: bool) -> Iterator[None]:
    """Let matrix products and convolutions on CUDA round their factors to ten bits, or not, while the block runs.

    Torch's own default is yes for convolutions and no for products. The older switches are used: the newer
    ``set_float32_matmul_precision`` may change products on a CPU, too.
    """
    switches: tuple[Any, ...] = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [switch.allow_tf32 for switch in switches]
    for switch in switches:
        switch.allow_tf32 = allowed
    try:
        yield
    finally:
        for switch, was in zip(switches, before, strict=True):
            switch.allow_tf32 = was


def move(tensor: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Return a tensor on a device. The host does not wait for a copy to a GPU: it goes through pinned memory."""
    if torch.device(device).type != "cuda" or tensor.is_cuda:
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def compute_repeatably() -> None:
    """Make every kernel of this process give the same bits each time.

    On CUDA it needs ``CUBLAS_WORKSPACE_CONFIG=:4096:8`` in the environment before the first product.
    """
    torch.use_deterministic_algorithms(True)
    vars(torch.utils)["deterministic"].fill_uninitialized_memory = False  # nothing here reads it
    torch.backends.cudnn.benchmark = False


def explain_out_of_memory(device: torch.device, batch: int, size: tuple[int, int]) -> UserError:
    """Say what did not fit and what to set.

    Args:
        device: the GPU.
        batch: images at once.
        size: their height and width in pixels.
    """
    free, total = (amount / 2**30 for amount in torch.cuda.mem_get_info(device))
    return UserError(
        f"the GPU's memory is full: batch_size {batch} of {spell(size)} pixels, {free:.1f} of {total:.1f} GiB free; "
        "set precision: bf16, checkpointing: true, or a smaller batch_size with accumulate"
    )
