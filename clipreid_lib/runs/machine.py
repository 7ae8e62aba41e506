"""The machine: which device to compute on, and what it and the code are, in words that name no person and no host."""

import importlib.metadata
import os
import platform
import re
import subprocess
from datetime import UTC, datetime

from clipreid_lib.base.accelerator import list_cards
from clipreid_lib.base.errors import UserError
from clipreid_lib.params.schema import ROOT

QUOTED = re.compile("'.*'")  # a path, in git's messages
PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "pandas", "pillow", "papermill")


def provenance() -> dict:
    """Describe the machine and the code: enough to repeat a run, nothing that names a person or host."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git": _describe_commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        **({"gpus": gpus} if (gpus := [f"{card.name}, driver {card.driver}" for card in list_cards()]) else {}),
        "versions": list_versions(),
    }


def list_versions() -> dict[str, str]:
    """Return the version of each package that decides numbers."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _describe_commit() -> str:
    """Return the commit, or why git knows none, without the folders that git's message names."""
    # The checkout may be another user's, as in a container. Whoever runs its code may read its commit.
    command = ["git", "-c", "safe.directory=*", "--no-optional-locks", "describe", "--always", "--dirty"]
    try:
        said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return "no git"
    why = re.search("^fatal: (.*)", said.stderr, re.MULTILINE)
    return said.stdout.strip() or f"no commit ({QUOTED.sub('a folder', why[1]) if why else 'git says nothing'})"


def describe_device(device: str) -> dict[str, str]:
    """Name the GPU that computed, its driver, CUDA and cuDNN; nothing for a CPU."""
    import torch

    if not device.startswith("cuda"):
        return {}
    driver = next((card.driver for card in list_cards()), "unknown")
    versions = {"driver": driver, "cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    return {"gpu": torch.cuda.get_device_name(device), **versions}


def choose_device(wanted: str) -> str:
    """Turn ``auto`` into the fastest device at hand; keep any other choice.

    Raises:
        UserError: the device asked for is not there, or ``auto`` finds a GPU that this torch cannot use.
    """
    import torch  # here, so that listing runs stays light

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        if not there["cuda"] and (cards := list_cards()):
            built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "a build for CPUs"
            raise UserError(
                f"device: auto: this machine has an NVIDIA {cards[0].name.removeprefix('NVIDIA ')} (driver "
                f"{cards[0].driver}), but torch {torch.__version__} ({built}) cannot use it; install a torch for this "
                "driver's CUDA, or a newer driver, or write device: cpu if the CPU is meant"
            )
        return next(name for name in ("cuda", "mps", "cpu") if there[name])
    kind, _, number = wanted.partition(":")
    if not there[kind] or int(number or 0) >= max(1, torch.cuda.device_count()):
        raise UserError(f"device: {wanted} is not available here; use auto or cpu")
    return wanted
