"""Run many runs: each one's notebooks in order, each in a child process, skipping what is finished."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from clipreid_lib import leaderboard, published, report
from clipreid_lib.errors import UserError
from clipreid_lib.params import ROOT, Params, project_path
from clipreid_lib.runs import Run

QUIET = 5.0  # seconds between two epoch lines of one run on the terminal; the log has them all
DATA_NOTEBOOK = "01_data_exploration"


@dataclass
class Batch:
    """A list of runs and the child processes at work on them.

    Attributes:
        runs: to do; those that are finished cost nothing.
        jobs: how many at once; the machine's cores are shared out among them.
    """

    runs: list[Params]
    jobs: int = 1
    _children: set[subprocess.Popen] = field(default_factory=set)
    _printing: threading.Lock = field(default_factory=threading.Lock)
    _stopped: bool = False
    _worked: bool = False  # whether any notebook was executed, so that reports have something new to say

    def run(self) -> list[Run]:
        """Do everything that is not done, and print the result table.

        Returns:
            The runs that failed.
        """
        began = time.perf_counter()
        opened = [Run.open(params) for params in self.runs]
        surveys = {params.data_id: Run.open_data(params) for params in self.runs}
        for survey in surveys.values():
            with contextlib.suppress(UserError):  # told by the survey itself, which must not stop the others
                survey.manifest  # noqa: B018  draws the demo hands once, with all cores
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                surveyed = dict(zip(surveys, pool.map(self._survey, surveys.values()), strict=True))
                chains = [run for run in opened if surveyed[run.params.data_id]]
                well = list(pool.map(self._run, chains))
            except BaseException:
                self._stop()
                raise
        good = {run.folder for run, fine in zip(chains, well, strict=True) if fine}
        self._report(opened, time.perf_counter() - began)
        return [run for run in opened if run.folder not in good]

    def _survey(self, run: Run) -> bool:
        return self._chain(run, (DATA_NOTEBOOK,))

    def _run(self, run: Run) -> bool:
        return self._chain(run, run.params.notebooks)

    def _chain(self, run: Run, names: tuple[str, ...]) -> bool:
        try:
            run.manifest  # noqa: B018  data that is missing or has changed is told before a kernel starts
            todo = run.reopen(names)
        except UserError as error:
            self._say(run, f"FAILED: {error}")
            return False
        if not todo:
            self._say(run, "nothing to do, it is done")
        return all(self._notebook(run, name) for name in todo)

    def _notebook(self, run: Run, name: str) -> bool:
        if self._stopped:
            return False
        began, self._worked = time.perf_counter(), True
        self._say(run, f"{name} starts")
        try:
            problem = self._execute(run, name)
        except OSError as error:  # a full disk or a folder that vanished must not take the other runs along
            problem = f"{error.filename or run.folder}: {error.strerror}"
        if problem is None and not run.is_done(name):
            problem = "ended without its record; was the kernel killed (memory)?"
        if self._stopped:
            return False
        if problem:
            self._say(run, f"{name} FAILED after {time.perf_counter() - began:.0f} s: {problem}")
            return False
        self._say(run, f"{name} done in {time.perf_counter() - began:.0f} s")
        return True

    def _execute(self, run: Run, name: str) -> str | None:
        """Run one notebook to its end; return what went wrong, in a sentence."""
        output = run.folder / "notebooks" / f"{name}.ipynb"
        output.parent.mkdir(parents=True, exist_ok=True)
        threads = max(1, (os.cpu_count() or 1) // self.jobs)
        environment = os.environ | {
            "OMP_NUM_THREADS": str(threads),  # jobs side by side must not fight for the same cores
            "OMP_WAIT_POLICY": "PASSIVE",
            "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's python3 kernel, whatever the user installed
            "PYTHONUNBUFFERED": "1",
        }
        problem = None
        with (
            tempfile.TemporaryDirectory() as scratch,
            open(run.folder / "log.txt", "a", encoding="utf-8") as log,
        ):
            params = Path(scratch) / "params.json"
            params.write_text(json.dumps(run.params.changed()), encoding="utf-8")
            child = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "clipreid_lib.execute",
                    ROOT / "notebooks" / f"{name}.ipynb",
                    output,
                    params,
                ],
                cwd=scratch,  # notebooks find the project by the library, never by the folder they run in
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # a Ctrl-C at the terminal reaches the runner alone, which then ends them
            )
            self._children.add(child)
            spoken = time.perf_counter()
            for line in child.stdout:
                log.write(line)
                log.flush()
                line = line.rstrip()
                if line.startswith("failed: "):
                    problem = line.removeprefix("failed: ")
                elif ": epoch " in line and time.perf_counter() - spoken > QUIET:
                    self._say(run, line)
                    spoken = time.perf_counter()
            status = child.wait()
            self._children.discard(child)
        if status and problem is None:
            problem = f"its process ended with status {status}; see {run.folder / 'log.txt'}"
        return problem

    def _say(self, run: Run, text: str) -> None:
        with self._printing:
            print(f"{time.strftime('%H:%M:%S')} {run.folder.name}: {text}", flush=True)

    def _stop(self) -> None:
        self._stopped = True
        for child in list(self._children):
            try:
                os.killpg(child.pid, signal.SIGTERM)
            except (OSError, AttributeError):  # gone already, or Windows, which has no process groups
                child.kill()

    def _report(self, runs: list[Run], seconds: float) -> None:
        table, note = leaderboard.table([run.folder for run in runs])
        print(f"\n{len(runs)} run{'s' * (len(runs) != 1)} in {seconds:.0f} s")
        if len(table):
            print(f"\n{table.to_string()}\n\n{note}")
        found = [metrics for run in runs if (metrics := leaderboard.read_metrics(run.folder))]
        if len(beside := published.beside(leaderboard.rows(*found))):
            print(f"\nBeside published results:\n\n{beside.drop(columns=['source', 'note']).to_string()}")
        folders = [folder for run in runs if (folder := run.folder / "notebooks").is_dir()]
        if folders:
            print("\nexecuted notebooks:")
            for folder in folders:
                print(f"  {os.path.relpath(folder)}")
        for outputs in {project_path(run.params.outputs_root) for run in runs}:
            leaderboard.refresh_leaderboard(outputs)
        pages = [run.folder / "gallery.html" for run in runs if (run.folder / "gallery.html").exists()]
        if pages:
            print("ranked galleries, to open in a browser:")
            for page in pages:
                print(f"  {page.as_uri()}")
        evaluated = [str(run.folder) for run in runs if leaderboard.read_metrics(run.folder)]
        if self._worked and evaluated:
            print("reports:", flush=True)
            try:
                for address in report.write(evaluated):
                    print(f"  {address}", flush=True)
            except UserError as error:  # a full disk: the runs stand, and `clipreid report` makes their pages later
                print(f"  not written: {error}")
