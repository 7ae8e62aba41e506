"""The epoch loop: seeds, rates, logging, checkpoints, and going on after a kill."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
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

    def run(self, log: Path, resume: Path, key: str) -> pd.DataFrame:
        """Train to the end, going on from ``resume`` if an earlier process got part of the way.

        Nothing random is carried from one epoch to the next, so a run that was killed and continued ends with
        the very weights of one left alone (on the same machine with the same number of threads).

        Args:
            log: CSV to write, one row per epoch.
            resume: file for the state after each epoch.
            key: of the stage's settings; a state with another key is ignored.

        Returns:
            The log as a table: ``epoch``, ``lr``, one mean per loss term, ``loss``, measures, ``seconds``.

        Raises:
            UserError: the loss stops being a number, or a file cannot be written.
        """
        scaler = torch.amp.GradScaler(next(self.learner.parameters()).device.type, enabled=self.scaled)
        rows = self._restore(resume, key, scaler)
        for epoch in range(len(rows), self.epochs):
            began = time.perf_counter()
            torch.manual_seed(stable_seed(self.name, self.seed, epoch))
            for group in self.optimiser.param_groups:
                group["lr"] = self.rate(epoch + 1, self.epochs, group["peak"])
            means = self._one_epoch(epoch, scaler)
            row = {"epoch": epoch + 1, "lr": self.optimiser.param_groups[0]["lr"], **means, **self.measure()}
            rows.append(row | {"seconds": round(time.perf_counter() - began, 2)})
            write_csv(log, pd.DataFrame(rows))
            checkpoints.save_resume(
                resume,
                {
                    "key": key,
                    "rows": rows,
                    "learner": _trainable_state(self.learner),
                    "optimiser": self.optimiser.state_dict(),
                    "scaler": scaler.state_dict(),
                },
            )
            shown = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if name not in ("epoch", "lr"))
            print(f"{self.name}: epoch {epoch + 1}/{self.epochs}  {shown}", flush=True)
        return pd.DataFrame(rows)

    def _one_epoch(self, epoch: int, scaler: torch.amp.GradScaler) -> dict[str, float]:
        self.learner.train()
        sums: dict[str, torch.Tensor] = {}
        batches = list(self.batches(epoch))
        self.optimiser.zero_grad(set_to_none=True)
        bar = tqdm(batches, desc=f"{self.name} {epoch + 1}/{self.epochs}", leave=False, disable=not watched())
        for step, batch in enumerate(bar, 1):
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
        self.learner.eval()
        means = {name: float(value) / len(batches) for name, value in sums.items()}
        if not math.isfinite(means["loss"]):
            raise UserError(f"{self.name}: the loss is {means['loss']} in epoch {epoch + 1}; lower the learning rate")
        if self.scaled and scaler.get_scale() < 1:
            raise UserError(f"precision: fp16 cannot hold the gradients in epoch {epoch + 1}; use bf16 or float32")
        return means

    def _restore(self, resume: Path, key: str, scaler: torch.amp.GradScaler) -> list[dict]:
        state = checkpoints.load_resume(resume)
        if state is None or state["key"] != key:
            return []
        self.learner.load_state_dict(state["learner"], strict=False)  # frozen weights are not stored
        self.optimiser.load_state_dict(state["optimiser"])
        scaler.load_state_dict(state["scaler"])
        print(f"{self.name}: going on after epoch {len(state['rows'])} of {self.epochs}", flush=True)
        return list(state["rows"])


def watched() -> bool:
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
