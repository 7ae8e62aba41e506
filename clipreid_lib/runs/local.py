"""Runs on this machine: several chains at once, each in child processes, cores and accelerators shared out."""

import collections
import contextlib
import os
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from clipreid_lib.base.errors import UserError
from clipreid_lib.params.schema import SURVEY, Params
from clipreid_lib.runs import plan
from clipreid_lib.runs.chain import PAUSE, Busy, Chain, Failure, Stopped
from clipreid_lib.runs.progress import Progress
from clipreid_lib.runs.run import Run


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
    _asked: float = field(default_factory=time.time)
    _chains: list[Chain] = field(default_factory=list)
    _stopped: threading.Event = field(default_factory=threading.Event)

    def do(self) -> dict[str, Failure]:
        """Do everything that is not done: notebook 01 once per data set, then each run's own.

        Returns:
            The failures, by run folder's name.

        Raises:
            UserError: a folder cannot be written.
        """
        opened = [Run.open(params) for params in self.runs]
        surveys = {params.data_id: Run.open_data(params) for params in self.runs}
        for line in plan.changed(self.runs):
            print(line, flush=True)
        with Progress([run.folder.name for run in opened]) as progress:
            left = {run.params.data_id for run in opened if not run.done}
            self._read_data([survey for name, survey in surveys.items() if name in left or not survey.is_done(SURVEY)])
            broken = self._side_by_side(dict.fromkeys(surveys.values(), (SURVEY,)), progress)
            failed = {run.folder.name: broken.get(run.params.data_id) for run in opened}
            able = {run: run.params.notebooks for run in opened if not failed[run.folder.name]}
            failed |= self._side_by_side(able, progress)
        return {name: failure for name, failure in failed.items() if failure}

    @property
    def worked(self) -> bool:
        """Whether any notebook was executed."""
        return any(chain.worked for chain in self._chains)

    def _side_by_side(self, todo: dict[Run, tuple[str, ...]], progress: Progress) -> dict[str, Failure]:
        """Do the notebooks of runs, ``jobs`` at once; one that would have to wait for another lets others go first."""
        failed: dict[str, Failure] = {}
        waiting = collections.deque(self._chain(run, names, progress) for run, names in todo.items())
        self._chains.extend(waiting)

        def work(slot: dict[str, str]) -> None:
            while waiting and not self._stopped.is_set():
                try:
                    chain = waiting.popleft()
                except IndexError:  # another job was quicker
                    return
                chain.environment = slot
                if ":" in chain.run.params.device:  # a run that names its accelerator sees them all
                    chain.environment = {key: slot[key] for key in slot if key != "CUDA_VISIBLE_DEVICES"}
                try:
                    failure = chain.do()
                except Stopped:
                    return
                except Busy:
                    waiting.append(chain)
                    time.sleep(PAUSE)
                    continue
                if failure:
                    failed[chain.run.folder.name] = failure
                    chain.say(f"{failure.notebook} FAILED: {failure.message}")

        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                list(pool.map(work, self._slots()))
            except BaseException:
                self._stopped.set()  # before the pool waits for its threads
                for chain in self._chains:
                    chain.stop()
                raise
        return failed

    def _chain(self, run: Run, names: tuple[str, ...], progress: Progress) -> Chain:
        name = run.folder.name
        say, tick = partial(progress.say, name), partial(progress.tick, name)
        return Chain(
            *(run, names, say, tick), force=self.force, asked=self._asked, patient=False, stopped=self._stopped
        )

    def _read_data(self, surveys: list[Run]) -> None:
        """Draw the demo hands, with all cores; and where data has changed, let notebook 01 describe it anew."""
        for survey in surveys:
            with contextlib.suppress(UserError):  # told by the survey's notebook, which must not stop the others
                survey.manifest  # noqa: B018  a survey's records go when it differs from the one they stand on

    def _slots(self) -> list[dict[str, str]]:
        """Return one set of environment variables per job: its share of the cores, and an accelerator of its own."""
        mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        threads = max(1, mine // self.jobs)
        there = accelerators()
        slots = []
        for job in range(self.jobs):
            slot = {"OMP_NUM_THREADS": str(threads)}  # jobs side by side must not fight for the same cores
            if len(there) > 1 and self.jobs > 1:
                slot["CUDA_VISIBLE_DEVICES"] = there[job % len(there)]
            slots.append(slot)
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
