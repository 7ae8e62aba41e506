"""One run's notebooks in order, each in a child process. What is finished, here or in another run, is not done again.

Each notebook runs under two locks: of its run, since two notebooks of one run write the same folder; and of its key,
since runs with the same key share the results. The child inherits both, so they last until runner and child are gone.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.base.files import lock, replacing
from clipreid_lib.params.run_folder import list_run_folders, read_params
from clipreid_lib.params.schema import ROOT, project_path
from clipreid_lib.runs import records
from clipreid_lib.runs.execute import FAILED
from clipreid_lib.runs.run import Run

QUIET = 5.0  # seconds between two epochs of a run that are printed, or a grid prints thousands; log.txt has them all
PAUSE = 0.5  # seconds before a notebook that runs elsewhere is looked at again


class Stopped(Exception):
    """The runner was told to end."""


class Busy(Exception):
    """The next notebook runs elsewhere; call :meth:`Chain.do` again later."""


@dataclass
class Chain:
    """A run (or a data set's folder, for notebook 01) and how its notebooks are executed."""

    run: Run
    names: tuple[str, ...]  # its notebooks in order
    environment: dict[str, str] = field(default_factory=dict)  # of the child processes, added to this process's own
    force: frozenset[str] = frozenset()  # notebooks to do again although they are finished; later ones follow
    # Unix time of that request. What finishes later is not done again, or each run would redo a notebook they share.
    asked: float = field(default_factory=time.time)
    stopped: threading.Event = field(default_factory=threading.Event)  # set when the runner is told to end
    began: bool = False  # whether there was anything to do
    _looked: bool = False  # whether photographs that were replaced since the run began have been looked for
    _waits: str = ""  # the notebook that runs elsewhere
    _child: subprocess.Popen | None = None

    def do(self) -> str | None:
        """Do every notebook that is not finished, up to one that fails; return which that is and why, or None.

        Raises:
            Stopped: the runner was told to end.
            Busy: the next notebook runs elsewhere.
        """
        for name in self.names:
            try:
                self.began |= self._notebook(name)
                continue
            except (Stopped, Busy, BrokenPipeError):  # of the last: nobody reads this output any more
                raise
            except UserError as error:
                message = str(error)
            except Exception as error:  # a full disk or a fault of ours: neither may stop the other runs
                message = f"{type(error).__name__}: {' '.join(str(error).split())}"
                if isinstance(error, OSError):
                    message = f"{error.filename or self.run.folder}: {error.strerror}"
                self._log_traceback(traceback.format_exc())
            with contextlib.suppress(UserError, OSError):  # on a full disk the message is still printed
                records.clear_running(self.run.folder, name, message)
            return f"{name} FAILED: {message}"
        if not self.began:
            self.say("nothing to do, it is done")
        return None

    def stop(self) -> None:
        """End the child at work."""
        self.stopped.set()
        if (child := self._child) is not None:
            child.terminate()

    def say(self, text: str) -> None:
        """Print a line with the time and the run's name, in one piece: other threads print, too."""
        print(f"{time.strftime('%H:%M:%S')} {self.run.folder.name}: {text}\n", end="", flush=True)

    def _log_traceback(self, text: str) -> None:
        with contextlib.suppress(OSError), open(self.run.folder / "log.txt", "a", encoding="utf-8") as log:
            log.write(text)
        if os.environ.get("CLIPREID_DEBUG"):
            sys.stderr.write(text)

    def _notebook(self, name: str) -> bool:
        """Do one notebook under its locks; return whether there was anything to do."""
        if self.stopped.is_set():
            raise Stopped
        run = self.run
        if not self._looked and run.list_changed():
            self._begin_anew(name)
        self._looked = True
        if self._find(run.folder, name):  # asked without the locks first, which a read-only disk could not hold
            return False
        with self._locks(name) as locks:
            if self._find(run.folder, name):  # by another runner in between
                return False
            run.require_data(name)
            for later in self._after(name):  # they read what this one writes
                records.forget(run.folder, later)
            if other := self._copy_from_other(name):
                self.say(f"{name} copied from {other}, which has the same parameters up to there")
                return True
            began = time.perf_counter()
            self.say(f"{name} starts")
            self._execute(name, locks)
            if not records.is_done(run.params, run.folder, name):
                raise UserError("ended without its record; was the kernel killed (memory)?")
            records.clear_running(run.folder, name, None)
            self.say(f"{name} done in {time.perf_counter() - began:.0f} s")
            return True

    def _begin_anew(self, name: str) -> None:
        with self._locks(name):
            if changed := self.run.begin_anew(self._every):
                told = f"{counted(len(changed), 'photograph')} changed since this run, the first is {changed[0]}"
                self.say(f"{told}; what stands on them is done again")

    @property
    def _every(self) -> tuple[str, ...]:
        """The run's notebooks, also those that this chain leaves; of a data set's folder, its one."""
        every = self.run.params.notebooks
        return every if set(self.names) <= set(every) else self.names

    def _after(self, name: str) -> tuple[str, ...]:
        return self._every[self._every.index(name) :]

    def _find(self, folder: Path, name: str) -> dict | None:
        """Return the record of this notebook's results in a run's folder; where it is forced, of results since then."""
        record = records.read(folder, name, self.run.params)
        if record and self.force.intersection(self.names[: self.names.index(name) + 1]):
            return record if datetime.fromisoformat(record["finished"]).timestamp() >= self.asked else None
        return record

    @contextlib.contextmanager
    def _locks(self, name: str) -> Iterator[tuple[int, ...]]:
        """Hold the run's lock and the notebook's; yield their file descriptors for the child to inherit."""
        folder = project_path(self.run.params.outputs_root) / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        locks = self.run.folder.name, f"{name}-{records.notebook_key(self.run.params, name)}"
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(open(folder / f"{lock}.lock", "w")) for lock in locks]
            try:
                for file in files:
                    lock(file, wait=False)
            except BlockingIOError:
                if self._waits != name:
                    self.say(f"{name} is running elsewhere; waiting for it")
                self._waits = name
                raise Busy from None
            yield tuple(file.fileno() for file in files) if os.name == "posix" else ()  # Windows lets none inherit

    def _copy_from_other(self, name: str) -> str:
        """Copy a training notebook's results from a run that has them already; return its name, or nothing."""
        run = self.run
        for folder in list_run_folders(run.folder.parent.parent) if name in records.SHARED else ():
            with contextlib.suppress(UserError, OSError):  # of another version, or gone meanwhile
                record = self._find(folder, name) or {}
                if record.get("manifest_sha") != run.manifest.sha or not records.is_current(record, name):
                    continue
                if record.get("photographs", "") != run.trained_on:
                    continue
                theirs = records.list_shared(read_params(folder), folder, name)
                for source, copy in zip(theirs, records.list_shared(run.params, run.folder, name), strict=True):
                    if source.is_file():
                        with replacing(copy) as temporary:
                            shutil.copyfile(source, temporary)
                records.clear_running(run.folder, name, None)  # clears what a kill or a failure left
                records.write_record(run.params, run.folder, name, record | {"shared": folder.name})
                return folder.name
        return ""

    def _execute(self, name: str, locks: tuple[int, ...]) -> None:
        """Run one notebook to its end; raise a UserError where it failed, Stopped where the runner was told to end."""
        run, problem, shown = self.run, "", 0.0
        output = run.folder / "notebooks" / f"{name}.ipynb"
        output.parent.mkdir(parents=True, exist_ok=True)
        for left in (*run.models.glob(".*.safetensors"), *run.models.glob(".*.pt")):
            left.unlink(missing_ok=True)  # a kill in mid-write leaves them, and they are large
        arguments = [str(ROOT / "notebooks" / f"{name}.ipynb"), str(output), json.dumps(run.params.changed())]
        # This environment's kernel, whichever the user has installed; and what it prints in the encoding that is read
        # below, whatever the terminal speaks.
        settings = {"JUPYTER_PREFER_ENV_PATH": "1", "PYTHONIOENCODING": "utf-8"}
        # Child and kernel run in other folders; the library may be found by this process's folder alone.
        settings["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        records.begin(run.folder, name)
        with open(run.folder / "log.txt", "ab", buffering=0) as log:
            self._child = child = subprocess.Popen(
                [sys.executable, "-m", "clipreid_lib.runs.execute", *arguments, str(run.folder)],
                cwd=output.parent,  # notebooks find the project by the library, never by the folder they run in
                env=os.environ | settings | self.environment,
                stdin=subprocess.PIPE,  # which closes when this process ends, however it ends; the child then ends, too
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # a Ctrl-C at the terminal reaches the runner alone, which then ends the child
                pass_fds=locks,
            )
            if self.stopped.is_set():  # told while it started
                child.terminate()
            try:
                for line in child.stdout or ():
                    line, _, failed = line.partition(FAILED)
                    with contextlib.suppress(OSError):  # a full disk costs lines of the log, not the run
                        log.write(line.encode())
                    if failed:
                        problem, told = json.loads(failed)
                        self._log_traceback(f"failed: {problem}\n{told}")
                    elif ": epoch " in line and time.monotonic() - shown > QUIET:
                        shown = time.monotonic()
                        self.say(line.rstrip())
            except BaseException:  # such as an output that nobody reads any more
                child.terminate()
                raise
            status, self._child = child.wait(), None
        if self.stopped.is_set():
            records.clear_running(run.folder, name, None)
            raise Stopped
        if status:
            raise UserError(problem or f"its process ended with status {status}; log.txt says more")
