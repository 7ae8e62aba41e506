"""The training loop: seeds, rates, one log row per epoch, and going on after a kill."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_csv
from clipreid_lib.base.seeding import stable_seed


@dataclass(frozen=True)
class Keep:
    """Where a stage keeps what it must not lose. Without files it trains in memory alone.

    Attributes:
        log: CSV of the log, one row per epoch.
        resume: file of the state after each epoch, from which a killed training goes on.
        key: of the data. The stages add their settings and loss terms. A state with another key is not used.
    """

    log: Path | None = None
    resume: Path | None = None
    key: str = ""

    def for_settings(self, *settings: object) -> "Keep":
        """Return the same with settings in the key: whoever changes them does not go on from an older state."""
        return replace(self, key=" ".join(map(str, (self.key, *settings))))


@dataclass(frozen=True)
class Loop:
    """What one training stage is made of.

    Attributes:
        name: of the stage, for messages and seeds.
        epochs: how many.
        seed: of the run; everything random in epoch ``e`` depends on (name, seed, e) alone.
        learner: the module whose ``state_dict`` is the state to keep.
        optimiser: over its trainable parameters, each group with its ``peak`` rate.
        rate: (epoch from 1, epochs, peak) to the learning rate.
        batches: epoch (from 0) to the batches of that epoch.
        losses: batch to named terms; they are summed.
        measure: called after each epoch for further columns of the log (validation scores, accuracies).
        accumulate: batches whose gradients are averaged before each step.
        scaled: whether losses are scaled up for the backward pass, as half precision (fp16) needs.
    """

    name: str
    epochs: int
    seed: int
    learner: nn.Module
    optimiser: torch.optim.Optimizer
    rate: Callable[[int, int, float], float]
    batches: Callable[[int], Iterable]
    losses: Callable[[Any], dict[str, torch.Tensor]]
    measure: Callable[[], dict[str, float]]
    accumulate: int = 1
    scaled: bool = False

    def run(self, keep: Keep | None = None, watch: Callable[[str], None] | None = None) -> pd.DataFrame:
        """Train to the end, going on from ``keep.resume`` if an earlier process got part of the way.

        Nothing random is carried from one epoch to the next, so a run that was killed and continued ends with
        the very weights of one left alone (on the same machine with the same number of threads).

        Args:
            keep: files of the log and the resume state; None keeps nothing.
            watch: told one line per epoch; None prints it, and a bar moves instead where a person looks on.

        Returns:
            The log as a table: ``epoch``, ``lr``, one mean per loss term, ``loss``, measures, ``seconds``.

        Raises:
            UserError: the loss stops being a number, or a file cannot be written.
        """
        keep, watch = keep or Keep(), watch or _print_line
        scaler = torch.amp.GradScaler(next(self.learner.parameters()).device.type, enabled=self.scaled)
        rows = self._restore(keep, scaler, watch)
        bar = tqdm(total=self.epochs, initial=len(rows), desc=self.name, unit="epoch", disable=not is_watched())
        for epoch in range(len(rows), self.epochs):
            began = time.perf_counter()
            torch.manual_seed(stable_seed(self.name, self.seed, epoch))
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(epoch + 1, self.epochs, group["peak"])
            means = self._train_epoch(epoch, scaler, bar)
            row = {"epoch": epoch + 1, "lr": self.optimiser.param_groups[0]["lr"], **means, **self.measure()}
            rows.append(row | {"seconds": round(time.perf_counter() - began, 2)})
            if keep.log:
                write_csv(keep.log, pd.DataFrame(rows))
            if keep.resume:
                state = {"key": keep.key, "rows": rows, "learner": _trainable_state(self.learner)}
                state |= {"optimiser": self.optimiser.state_dict(), "scaler": scaler.state_dict()}
                checkpoints.save_resume(keep.resume, state)
            shown = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if name not in ("epoch", "lr"))
            bar.set_postfix_str(shown)
            if bar.disable:  # a line between two states of a bar would cut it in two
                watch(f"{self.name}: epoch {epoch + 1}/{self.epochs}  {shown}")
        bar.close()
        return pd.DataFrame(rows)

    def _train_epoch(self, epoch: int, scaler: torch.amp.GradScaler, bar: tqdm | None = None) -> dict[str, float]:
        self.learner.train()
        sums: dict[str, torch.Tensor] = {}
        batches = list(self.batches(epoch))
        self.optimiser.zero_grad(set_to_none=True)
        for step, batch in enumerate(batches, 1):
            terms = self.losses(batch)
            total = cast(torch.Tensor, sum(terms.values()))
            first = (step - 1) // self.accumulate * self.accumulate  # of the batches that share a step
            scaler.scale(total / min(self.accumulate, len(batches) - first)).backward()
            if step % self.accumulate == 0 or step == len(batches):
                scaler.step(self.optimiser)
                scaler.update()
                self.optimiser.zero_grad(set_to_none=True)
            for name, value in {**terms, "loss": total}.items():
                sums[name] = sums.get(name, 0) + value.detach()  # stays on the device: no wait per step
            if bar is not None:
                bar.update(1 / len(batches))
        self.learner.eval()
        means = {name: float(value) / len(batches) for name, value in sums.items()}
        if not math.isfinite(means["loss"]):
            raise UserError(f"{self.name}: the loss is {means['loss']} in epoch {epoch + 1}; lower the learning rate")
        if self.scaled and scaler.get_scale() < 1:
            raise UserError(f"precision: fp16 cannot hold the gradients in epoch {epoch + 1}; use bf16 or float32")
        return means

    def _restore(self, keep: Keep, scaler: torch.amp.GradScaler, watch: Callable[[str], None]) -> list[dict]:
        if keep.resume is None or not keep.resume.exists():
            return []
        try:
            state = checkpoints.load_resume(keep.resume)
            if state["key"] != keep.key:
                raise UserError(f"{keep.resume}: is of other settings or data")
        except UserError as error:
            watch(f"{self.name}: starts again from epoch 1; the state of an earlier training cannot be used: {error}")
            return []
        self.learner.load_state_dict(state["learner"], strict=False)  # frozen weights are not stored
        self.optimiser.load_state_dict(state["optimiser"])
        scaler.load_state_dict(state["scaler"])
        watch(f"{self.name}: going on after epoch {len(state['rows'])} of {self.epochs}")
        return list(state["rows"])


def _print_line(text: str) -> None:
    print(text, flush=True)


def is_watched() -> bool:
    """Whether a person sees the progress: at a terminal, or in a notebook that Jupyter runs and not papermill."""
    return sys.stderr.isatty() or "JPY_SESSION_NAME" in os.environ  # what Jupyter's server tells its kernels


def number_format(precision: str, device: str) -> torch.dtype:
    """Return the number format of forward passes.

    Args:
        precision: as in params; ``auto`` is bf16 where a GPU computes it, float32 elsewhere (CPUs without matrix
            units for bf16 are four times slower with it).
        device: ``cpu``, ``cuda`` or ``mps``.

    Raises:
        UserError: fp16 without a GPU, on which its losses would vanish unseen.
    """
    if precision == "fp16" and device == "cpu":
        raise UserError("precision: fp16 needs a GPU; use float32 (or bf16) on cpu")
    if precision == "auto":
        has_it = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if has_it else torch.float32
    return {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def _trainable_state(module: nn.Module) -> dict[str, torch.Tensor]:
    # Frozen weights come from the backbone's own file; storing them again would double every resume state.
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}
