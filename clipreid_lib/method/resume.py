"""Resume states: what a training must not lose, written beside it, at most once a minute."""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError

MINUTE = 60.0  # what a kill may cost; a state of ViT-B-16 is 1 GB, and an epoch of 11k Hands takes less than a second


@dataclass(frozen=True)
class Keep:
    """Where a stage keeps what it must not lose. Without files it trains in memory alone.

    Attributes:
        log: CSV of the log, one row per epoch.
        resume: file of the state from which a killed training goes on.
        key: of the data. The stages add their settings and loss terms. A state with another key is not used.
        every: seconds from one state to the next; 0 writes one after every epoch.
    """

    log: Path | None = None
    resume: Path | None = None
    key: str = ""
    every: float = MINUTE

    def for_settings(self, *settings: object) -> "Keep":
        """Return the same with settings in the key: whoever changes them does not go on from an older state."""
        return replace(self, key=" ".join(map(str, (self.key, *settings))))


class ResumeWriter:
    """Writes states atomically, in a thread of its own, so that the training does not wait for the disk.

    Args:
        keep: where, and how often.
        clock: seconds that only grow.
    """

    def __init__(self, keep: Keep, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the clock."""
        self.keep, self._clock = keep, clock
        self._last = clock()
        self._thread = ThreadPoolExecutor(1)  # which starts with the first state
        self._writing: Future | None = None

    def write(self, make_state: Callable[[], dict], last: bool) -> None:
        """Write a state if its time has come.

        Args:
            make_state: returns the state, of plain types and tensors; it is copied before this returns.
            last: whether the training ends here; then it is written whatever the time is, and waited for.

        Raises:
            UserError: this state, or the one before, cannot be written.
        """
        if self.keep.resume is None or not (last or self._clock() - self._last >= self.keep.every):
            return
        self._wait()
        self._last = self._clock()
        state = {"key": self.keep.key, **_copy(make_state())}
        self._writing = self._thread.submit(checkpoints.save_resume, self.keep.resume, state)
        if last or self.keep.every == 0:
            self._wait()

    def close(self) -> None:
        """Wait for the state that is being written, and end the thread."""
        self._thread.shutdown()
        self._wait()

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def read_resume(keep: Keep, name: str, number: str, say: Callable[[str], None]) -> dict | None:
    """Read the state that an earlier training left.

    Args:
        keep: where, and the key it must have.
        name: of the stage, for messages.
        number: the format that the training computes in.
        say: called with the reason why a state that is there cannot be used.

    Returns:
        The state; None where there is none that can be used.
    """
    if keep.resume is None or not keep.resume.exists():
        return None
    try:
        state = checkpoints.load_resume(keep.resume)
        if state["key"] != keep.key:
            raise UserError(f"{keep.resume}: is of other settings or data")
        if state["number"] != number:
            raise UserError(f"{keep.resume}: was computed in {state['number']}, this training computes in {number}")
    except UserError as error:
        say(f"{name}: starts again from epoch 1; the state of an earlier training cannot be used: {error}")
        return None
    return state


def trainable_state(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return a module's trainable parameters and its buffers, each once; frozen weights are in the backbone's own file.

    A weight that a low-rank change is added to is returned, too: in memory it may have been merged with one since. A
    module's ``state_dict`` may hold a weight under two names, as open_clip's text tower does in a backbone here.
    """
    kept = {name for name, p in module.named_parameters() if p.requires_grad or name.endswith(".original")}
    kept |= {name for name, _ in module.named_buffers()}
    return {name: value for name, value in module.state_dict().items() if name in kept}


def _copy(value: Any) -> Any:  # plain types and tensors, nested
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return [_copy(each) for each in value] if isinstance(value, list | tuple) else value
