"""GPUs of this machine, asked without loading torch where there is none; and the number format that `auto` means."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from functools import lru_cache

from clipreid_lib.base.errors import UserError

PATIENCE = 20  # seconds; a driver in trouble may never answer


@dataclass(frozen=True)
class Card:
    """An NVIDIA GPU: its number by PCI bus, name, driver version, and free and total memory in GiB."""

    number: str
    name: str
    driver: str
    free: float
    total: float


def list_cards() -> list[Card]:
    """Return the NVIDIA GPUs that this process may use, as their driver names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible in ("", "-1") or shutil.which("nvidia-smi") is None:
        return []
    query = "--query-gpu=index,name,driver_version,memory.free,memory.total,uuid"
    try:
        command = ["nvidia-smi", query, "--format=csv,noheader,nounits"]
        said = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in said.splitlines() if line.count(",") == 5]
    wanted = None if visible is None else [name.strip() for name in visible.split(",")]
    return [
        Card(number, name, driver, *(float(mebi) / 1024 if mebi.isdigit() else 0.0 for mebi in (free, total)))
        for number, name, driver, free, total, uuid in rows
        if wanted is None or number in wanted or uuid in wanted
    ]


def resolve_precision(precision: str, device: str) -> str:
    """Return which number format a training's forward passes have on a device.

    Args:
        precision: as in params; ``auto`` is bf16 where the GPU computes it, float32 elsewhere. (CPUs without matrix
            units for bf16 are four times slower with it; GPUs before 2020 only emulate it.)
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.

    Returns:
        ``float32``, ``tf32``, ``bf16`` or ``fp16``.

    Raises:
        UserError: fp16 or tf32 on a device that has not got it; ``auto``, and the GPUs here differ.
    """
    if precision in ("float32", "bf16"):
        return precision
    answers = _ask_cards(device, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if precision == "fp16" and not answers:
        raise UserError(f"precision: fp16 needs a GPU; use float32 (or bf16) on device: {device}")
    if precision == "tf32" and not (answers and all(answers)):
        raise UserError(f"precision: tf32 needs an NVIDIA GPU of 2020 or later; use float32 on device: {device}")
    if precision != "auto":
        return precision
    if len(set(answers)) > 1:
        raise UserError("precision: auto is bf16 on one GPU of this machine and float32 on another; write one of them")
    return "bf16" if any(answers) else "float32"


@lru_cache
def _ask_cards(device: str, visible: str | None) -> tuple[bool, ...]:
    """Whether each GPU that a device may mean computes bf16 (the same ones compute TF32)."""
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cuda") or visible in ("", "-1"):
        return ()
    if kind == "auto" and not (shutil.which("nvidia-smi") or os.path.exists("/dev/kfd")):  # torch takes 2 s to load
        return ()
    import torch

    there = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    found = []
    for card in there:
        if not number or card == int(number):
            with torch.cuda.device(card):  # the card that is meant, not the current one
                found.append(torch.cuda.is_bf16_supported(including_emulation=False))
    return tuple(found)
