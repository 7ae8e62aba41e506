"""Runs on this machine: several chains at once, cores and accelerators shared out among them; and the summary."""

import contextlib
import os
import threading
import time
from collections import defaultdict, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

from clipreid_lib.base.accelerator import list_cards
from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import RETRIEVAL, SURVEY, project_path
from clipreid_lib.runs import plan, records
from clipreid_lib.runs.chain import PAUSE, Busy, Chain, Stopped
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import leaderboard, published
from clipreid_lib.scores.finished_run import CHOICE, FinishedRun, find_runs


@dataclass
class Local:
    """A list of runs and the chains that do them."""

    runs: list[Params]
    jobs: int = 1  # at once
    force: frozenset[str] = frozenset()  # notebooks to do again although they are finished
    last: str = RETRIEVAL  # notebook to end with
    worked: bool = False  # whether anything was to do
    _asked: float = field(default_factory=time.time)
    _stopped: threading.Event = field(default_factory=threading.Event)
    _drawing: threading.Lock = field(default_factory=threading.Lock)

    def do(self) -> dict[str, str]:
        """Do what is not finished, notebook 01 once per data set; return the failures by the run folder's name.

        Raises:
            UserError: a folder cannot be written.
        """
        for line in [*records.list_outdated(self.runs), *plan.list_edited(self.runs)]:
            print(line, flush=True)
        runs = [Run.open(params) for params in self.runs]
        surveys = {params.data_id: Run.open_data(params) for params in self.runs}
        names = {run: tuple(name for name in run.params.notebooks if name <= self.last) for run in runs}
        left = {run.params.data_id for run in runs if not all(map(run.is_done, names[run]))}
        self.worked = bool(left or self.force)
        for name, survey in surveys.items():
            if name in left or not survey.is_done(SURVEY):
                # Draws the demo hands, with all cores; and where the data has changed, the survey's records go.
                with contextlib.suppress(UserError):  # the survey's notebook will say it, and stop no other
                    survey.manifest  # noqa: B018
        failed = {} if self.force else plan.list_other_people(self.runs)
        broken = self._side_by_side(dict.fromkeys(surveys.values(), (SURVEY,)))
        failed |= {run.folder.name: broken[data] for run in runs if (data := run.params.data_id) in broken}
        return failed | self._side_by_side({run: names[run] for run in runs if run.folder.name not in failed})

    def _side_by_side(self, todo: dict[Run, tuple[str, ...]]) -> dict[str, str]:
        """Do the notebooks of runs, ``jobs`` at once; one that would have to wait for another lets others go first."""
        failed: dict[str, str] = {}
        make = partial(Chain, force=self.force, asked=self._asked, stopped=self._stopped)
        chains = [make(run, names) for run, names in todo.items()]
        if self.jobs > 1:  # the longest first, so that all jobs end at about the same time
            chains.sort(key=lambda chain: -len(chain.names))
        waiting = deque(chains)

        def work(slot: dict[str, str]) -> None:
            while waiting:
                try:
                    chain = waiting.popleft()
                except IndexError:  # another job was quicker
                    return
                chain.environment = dict(slot)
                if ":" in chain.run.params.device:  # a run that names its accelerator sees them all
                    chain.environment.pop("CUDA_VISIBLE_DEVICES", None)
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
                    chain.say(failure)
                if chain.began:
                    self._write_report(chain.run)

        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                list(pool.map(work, self._slots()))
            except BaseException:
                for chain in chains:  # before the pool waits for its threads
                    chain.stop()
                raise
        self.worked |= any(chain.began for chain in chains)
        return failed

    def _write_report(self, run: Run) -> None:
        """Write the page of a run that has just ended, if it was evaluated, while other jobs go on."""
        # Matplotlib draws one figure at a time. No page may stop a run: print_summary tries again, and says what is
        # wrong.
        with self._drawing, contextlib.suppress(Exception):
            for evaluated in find_runs([run.folder]):
                import matplotlib  # here, as in print_summary

                from clipreid_lib.pages import report

                matplotlib.use("agg")  # a thread cannot open a window
                report.write_run(evaluated)

    def _slots(self) -> list[dict[str, str]]:
        """Return environment variables for each job: its share of the cores, and a GPU."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        slot, cards = {"OMP_NUM_THREADS": str(max(1, cores // self.jobs))}, list_cards()
        slot["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"  # or a number would mean another GPU to CUDA than to the driver
        told = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = [card.number for card in cards] if told is None else [name for name in told.split(",") if name.strip()]
        for place, card in enumerate(cards):
            if (share := len(range(place, self.jobs, len(cards)))) > 1:
                room = f"{card.free:.0f} of {card.total:.0f} GiB are free"
                print(f"GPU {card.number} ({card.name}): {room}, {share} runs share it", flush=True)
        if len(names) < 2 or self.jobs == 1:
            return [slot] * self.jobs
        return [slot | {"CUDA_VISIBLE_DEVICES": names[job % len(names)]} for job in range(self.jobs)]


def print_summary(batch: Local, failed: dict[str, str], seconds: float) -> None:
    """Print what a batch found and what failed; write the leaderboard and, after work, the reports."""
    runs = [Run.open(params) for params in batch.runs]
    # A finished run that failed is refused: its scores are of other people than the data now has.
    evaluated = find_runs([run.folder for run in runs if not (run.done and run.folder.name in failed)])
    table, note = leaderboard.summarise(evaluated)
    print(f"\n{counted(len(runs), 'run')} in {seconds:.0f} s")
    if len(table):
        print(f"\n{table.to_string()}\n\n{note}")
    if (beside := published.set_beside(leaderboard.list_rows(*(run.metrics for run in evaluated)))) is not None:
        print(f"\nBeside published results:\n\n{beside.drop(columns=['source', 'note']).to_string()}")
    try:
        for outputs in {project_path(run.params.outputs_root) for run in runs}:
            leaderboard.refresh_leaderboard(outputs)
    except UserError as error:  # a disk that is full or read-only: what failed is still to be said
        print(f"leaderboard not written: {error}")
    _print_list("executed notebooks:", [os.path.relpath(p) for run in runs if (p := run.folder / "notebooks").is_dir()])
    pages = [path.as_uri() for run in runs if (path := run.folder / "gallery.html").exists()]
    _print_list("ranked galleries, to open in a browser:", pages)
    lacking = [run for run in evaluated if not _has_report(run)]
    if evaluated and (batch.worked or lacking):
        from clipreid_lib.pages import report  # here: it loads seaborn, and a batch with nothing to do must end at once

        print("reports:", flush=True)
        try:
            for each in lacking:
                report.write_run(each)
            for each in evaluated:
                print(f"  {(each.folder / 'report.html').as_uri()}")
            if len(evaluated) > 1:
                print(f"  {report.write_several(evaluated).as_uri()}")
        except UserError as error:  # as above; `clipreid report` makes the pages later
            print(f"  not written: {error}")
    alike = defaultdict(list)  # one fault may stop many runs: told once, with RUN for each one's folder
    for run in runs:
        if failure := failed.get(run.folder.name):
            alike[failure.replace(str(run.folder), "RUN")].append(run.folder.name)
    lines = [f"{why} ({', '.join(names)})" for why, names in alike.items()]
    _print_list("failures, with tracebacks in each run's log.txt:", lines)


def _has_report(run: FinishedRun) -> bool:
    """Whether a run's page is there, and newer than what its notebooks have finished and a choice has written."""
    page, shown = run.folder / "report.html", [*(run.folder / "done").glob("*.json"), *run.folder.glob(CHOICE)]
    return page.is_file() and all(path.stat().st_mtime <= page.stat().st_mtime for path in shown)


def _print_list(title: str, lines: list[str]) -> None:
    if lines:
        print(title, *lines, sep="\n  ")
