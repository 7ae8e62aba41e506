"""The device: number formats, moving tensors without waiting, repeatable kernels, and what to do when memory is out."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.params.image_sizes import spell

FORMATS = {"float32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
    """Make every kernel of this process give the same bits each time; call it before the first product on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS may add in another order
    torch.use_deterministic_algorithms(True)
    vars(torch.utils)["deterministic"].fill_uninitialized_memory = False  # nothing here reads it
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # as on a CPU, to the last digits


def explain_out_of_memory(device: torch.device, batch: int, size: tuple[int, int]) -> UserError:
    """Say what did not fit on a GPU, ``batch`` images of a height and width in pixels at once, and what to set."""
    bytes_ = (*torch.cuda.mem_get_info(device), torch.cuda.memory_reserved(device))
    free, total, mine = (amount / 2**30 for amount in bytes_)
    return UserError(
        f"the GPU's memory is full: batch_size {batch} of {spell(size)} pixels; of {total:.1f} GiB this process has "
        f"{mine:.1f} and {free:.1f} are free; "
        "set precision: bf16, checkpointing: true, or a smaller batch_size with accumulate"
    )
