"""The training loop: seeds, rates, one log row per epoch, and going on after a kill."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_csv
from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.method.resume import Keep, ResumeWriter, read_resume, trainable_state

BAR = "{desc}: epoch {n:.1f} of {total_fmt} |{bar}| {elapsed}, {remaining} left{postfix}"


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
        fetch: turns those batches into what ``losses`` takes, one by one.
        accumulate: batches whose gradients are averaged before each step.
        number: format of the forward pass. With ``fp16`` losses are scaled up for the backward pass. A state of
            another format is not gone on from.
    """

    name: str
    epochs: int
    seed: int
    learner: nn.Module
    optimiser: torch.optim.Optimizer
    rate: Callable[[int, int, float], float]
    batches: Callable[[int], Sequence]
    losses: Callable[[Any], dict[str, torch.Tensor]]
    measure: Callable[[], dict[str, float]]
    fetch: Callable[[Sequence], Iterable] = iter
    accumulate: int = 1
    number: str = "float32"

    def run(self, keep: Keep | None = None, watch: Callable[[str], None] | None = None) -> pd.DataFrame:
        """Train to the end, going on from ``keep.resume`` if an earlier process got part of the way.

        Nothing random is carried from one epoch to the next, so a run that was killed and continued ends with
        the very weights of one left alone (on the same machine with the same number of threads).

        Args:
            keep: files of the log and the resume state; None keeps nothing.
            watch: called with one line of text per epoch; None prints the line; in a terminal or in
                JupyterLab a progress bar moves instead.

        Returns:
            The log as a table: ``epoch``, ``lr``, one mean per loss term, ``loss``, measures, ``seconds``.

        Raises:
            UserError: the loss stops being a number, or a file cannot be written.
        """
        keep, watch = keep or Keep(), watch or _print_line
        scaler = torch.amp.GradScaler(next(self.learner.parameters()).device.type, enabled=self.number == "fp16")
        rows = self._restore(keep, scaler, watch)

        def make_state() -> dict:
            learnt = {"learner": trainable_state(self.learner), "optimiser": self.optimiser.state_dict()}
            return {"rows": rows, **learnt, "scaler": scaler.state_dict(), "number": self.number}

        bar = tqdm(
            total=self.epochs,
            initial=len(rows),
            desc=self.name,
            bar_format=BAR,
            file=sys.stderr if sys.stderr.isatty() else sys.stdout,  # a notebook shows what is on stderr as an error
            disable=not is_watched(),
        )
        writer = ResumeWriter(keep)
        try:
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
                writer.write(make_state, last=epoch + 1 == self.epochs)
                shown = "  ".join(f"{name} {value:.3f}" for name, value in row.items() if name not in ("epoch", "lr"))
                bar.set_postfix_str(shown)
                if bar.disable:  # a line between two states of a bar would cut it in two
                    watch(f"{self.name}: epoch {epoch + 1}/{self.epochs}  {shown}")
        finally:
            bar.close()
            writer.close()
        return pd.DataFrame(rows)

    def _train_epoch(self, epoch: int, scaler: torch.amp.GradScaler, bar: tqdm | None = None) -> dict[str, float]:
        self.learner.train()
        sums: dict[str, torch.Tensor] = {}
        batches = self.batches(epoch)
        self.optimiser.zero_grad(set_to_none=True)
        for step, batch in enumerate(self.fetch(batches), 1):
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
                bar.n = epoch + step / len(batches)  # set, not added: sums of fractions pass the end
                bar.update(0)
        self.learner.eval()
        means = {name: float(value) / len(batches) for name, value in sums.items()}
        if not math.isfinite(means["loss"]):
            remedy = "set precision: bf16, fp16 cannot hold it" if scaler.is_enabled() else "lower the learning rate"
            raise UserError(f"{self.name}: the loss is {means['loss']} in epoch {epoch + 1}; {remedy}")
        if scaler.is_enabled() and scaler.get_scale() < 1:
            raise UserError(f"precision: fp16 cannot hold the gradients in epoch {epoch + 1}; use bf16 or float32")
        return means

    def _restore(self, keep: Keep, scaler: torch.amp.GradScaler, watch: Callable[[str], None]) -> list[dict]:
        state = read_resume(keep, self.name, self.number, watch)
        if state is None:
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
