"""Fixtures: hands and runs as small as they can be while everything still happens (tiny, for speed)."""

from pathlib import Path

import pytest
import torch

from clipreid_lib import (
    _compat,  # noqa: F401  before any test imports open_clip
    params,
    synthetic_hands,
)
from clipreid_lib.runs import Run

torch.set_num_threads(1)  # tiny tensors gain nothing from more, and lose much on a busy machine

REAL = Path(__file__).resolve().parents[2] / "shared" / "real_hands"
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


@pytest.fixture(scope="session")
def real_hands() -> Path:
    """The real piece of 11k Hands, where this machine has it."""
    if not (REAL / "HandInfo.csv").is_file():
        pytest.skip("the real photographs are not on this machine")
    return REAL


@pytest.fixture(scope="session")
def hands(tmp_path_factory) -> Path:
    """A tiny synthetic data set in 11k Hands' layout."""
    root = tmp_path_factory.mktemp("hands") / "set"
    return synthetic_hands.write_dataset(root, people=8, images_per_aspect=4, sessions=2, seed=5)


@pytest.fixture(scope="session")
def shared_outputs(tmp_path_factory) -> Path:
    """One outputs folder for a whole test session, so that the demo hands are drawn once."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture
def open_run(shared_outputs):
    """Make a tiny run; keyword arguments override its params, ``fresh`` gives it outputs of its own."""

    def make(fresh: Path | None = None, **overrides) -> Run:
        values = {**TINY, "outputs_root": str(fresh or shared_outputs), **overrides}
        if fresh is not None and not (fresh / "demo_hands").exists():
            fresh.mkdir(parents=True, exist_ok=True)
            (shared_outputs / "demo_hands").mkdir(exist_ok=True)
            (fresh / "demo_hands").symlink_to(shared_outputs / "demo_hands")
        return Run.open(params.validated(values))

    return make
