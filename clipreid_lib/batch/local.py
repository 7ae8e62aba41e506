"""Runs on this machine: several chains at once, each in child processes, cores and accelerators shared out."""

import contextlib
import importlib.util
import os
import queue
import shutil
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from clipreid_lib.batch import plan
from clipreid_lib.batch.chain import Chain, Failure, Stopped
from clipreid_lib.batch.progress import Progress
from clipreid_lib.errors import UserError
from clipreid_lib.params import SURVEY, Params
from clipreid_lib.runs import Run


@dataclass
class Local:
    """A list of runs and the chains at work on them.

    Attributes:
        runs: to do; those that are finished cost nothing.
        jobs: how many at once.
        force: notebooks to do again though they are finished.
    """

    runs: list[Params]
    jobs: int = 1
    force: frozenset[str] = frozenset()
    worked: bool = False  # whether any notebook was executed
    _chains: set[Chain] = field(default_factory=set)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def do(self) -> dict[str, Failure]:
        """Do everything that is not done: notebook 01 once per data set, then each run's own.

        Returns:
            The failures, by run folder's name.

        Raises:
            UserError: there is no kernel, or a folder cannot be written.
        """
        if importlib.util.find_spec("ipykernel") is None:
            raise UserError("this Python has no Jupyter kernel to run notebooks in; pip install ipykernel")
        opened = [Run.open(params) for params in self.runs]
        surveys = {params.data_id: Run.open_data(params) for params in self.runs}
        slots = self._slots()
        failed: dict[str, Failure] = {}
        for line in plan.changed(self.runs):
            print(line, flush=True)
        with Progress([run.folder.name for run in opened]) as progress, ThreadPoolExecutor(self.jobs) as pool:

            def do(run: Run, names: tuple[str, ...]) -> Failure | None:
                slot = slots.get()
                try:
                    return self._chain(run, names, progress, slot)
                finally:
                    slots.put(slot)

            try:
                self._draw_demo(surveys.values())
                surveyed = pool.map(lambda run: do(run, SURVEY), surveys.values())
                broken = {name: failure for name, failure in zip(surveys, surveyed, strict=True) if failure}
                waiting = {run.folder.name: run for run in opened if run.params.data_id not in broken}
                for run in opened:
                    if run.folder.name not in waiting:
                        failed[run.folder.name] = broken[run.params.data_id]
                for name, failure in zip(
                    waiting, pool.map(lambda run: do(run, run.params.notebooks), waiting.values()), strict=True
                ):
                    if failure:
                        failed[name] = failure
            except BaseException:
                self._stopped.set()
                for chain in list(self._chains):
                    chain.stop()
                raise
        return failed

    def _chain(self, run: Run, names: tuple[str, ...], progress: Progress, slot: dict[str, str]) -> Failure | None:
        name = run.folder.name
        say, tick = partial(progress.say, name), partial(progress.tick, name)
        if ":" in run.params.device:  # a run that names its accelerator sees them all
            slot = {key: value for key, value in slot.items() if key != "CUDA_VISIBLE_DEVICES"}
        chain = Chain(run, names, say, tick, slot, self.force, self._stopped)
        self._chains.add(chain)
        try:
            failure = chain.do()
        except Stopped:
            return Failure(names[0], "stopped")
        finally:
            self.worked |= chain.worked
            self._chains.discard(chain)
        if failure:
            say(f"{failure.notebook} FAILED: {failure.message}")
        return failure

    def _draw_demo(self, surveys) -> None:
        for survey in surveys:
            with contextlib.suppress(UserError):  # told by the survey itself, which must not stop the others
                if not survey.is_done(SURVEY[0]):
                    survey.manifest  # noqa: B018  draws the demo hands once, with all cores

    def _slots(self) -> queue.SimpleQueue:
        """Return one set of environment variables per job: its share of the cores, and an accelerator of its own."""
        mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, mine // self.jobs)
        there = accelerators()
        slots: queue.SimpleQueue = queue.SimpleQueue()
        for job in range(self.jobs):
            slot = {"OMP_NUM_THREADS": str(threads)}  # jobs side by side must not fight for the same cores
            if len(there) > 1 and self.jobs > 1:
                slot["CUDA_VISIBLE_DEVICES"] = there[job % len(there)]
            slots.put(slot)
        return slots


def accelerators() -> list[str]:
    """Return the names of the NVIDIA devices this process may use, without loading torch."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [name for name in told.split(",") if name.strip()]
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    return [str(number) for number, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU")]
