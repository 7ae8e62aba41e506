"""Runs as small as they can be while everything still happens, and the command line that makes them."""

import subprocess
import sys
from pathlib import Path

from clipreid_lib.params.schema import Params
from clipreid_lib.runs import records

TINY = {
    "demo_people": 8,
    "demo_images": 4,
    "demo_sessions": 2,
    "draws": 2,
    "prompt_epochs": 2,
    "encoder_epochs": 2,
    "batch_size": 8,
    "device": "cpu",
}


def run(place, *arguments) -> subprocess.CompletedProcess:
    """Call `clipreid run` in a folder."""
    command = [sys.executable, "-m", "clipreid_lib", "run", *arguments]
    return subprocess.run(command, cwd=place, capture_output=True, text=True, timeout=600)


def finish(params: Params, folder: Path, *notebooks: str, **facts) -> None:
    """Leave a run's folder as if these notebooks had been executed: with their files, and their records."""
    for name in notebooks:
        for path in records.products(params, folder, name):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("{}")
        records.finish(params.resolved(), folder, name, facts)
