"""One run's notebooks in order, each in a child process. What is finished, here or in a twin, is not done again.

Every notebook is done under two locks, of the run and of the notebook's key, so that two runners at work on the same
grid share it: the second waits, and then finds it done. The child inherits them, so they last until both are gone.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import replacing
from clipreid_lib.params.schema import ROOT, project_path
from clipreid_lib.runs import records
from clipreid_lib.runs.execute import FAILED
from clipreid_lib.runs.notebook_keys import notebook_key
from clipreid_lib.runs.run import Run

PAUSE = 0.5  # seconds between two looks at a notebook that is at work elsewhere


class Stopped(Exception):
    """The runner was told to end."""


class Busy(Exception):
    """A notebook is at work elsewhere, and the chain was not to wait for it."""


@dataclass(frozen=True)
class Failure:
    """Where a run ended early, and why."""

    notebook: str
    message: str


@dataclass(eq=False)  # one chain is no other, however alike
class Chain:
    """A run and how its notebooks are to be executed.

    Attributes:
        run: the run, or the data folder that notebook 01 describes.
        names: its notebooks in order.
        say: told what begins, ends, is shared or fails.
        tick: told each epoch.
        environment: variables of the child processes beside this one's own: threads, accelerator.
        force: notebooks to do again though they are finished; all later ones of the run with them.
        asked: when that was wanted, in seconds since 1970; what has finished since is not done yet again.
        patient: whether to wait for a notebook that is at work elsewhere.
        stopped: set by the runner when it is told to end.
    """

    run: Run
    names: tuple[str, ...]
    say: Callable[[str], None]
    tick: Callable[[str], None]
    environment: dict[str, str] = field(default_factory=dict)
    force: frozenset[str] = frozenset()
    asked: float = field(default_factory=time.time)
    patient: bool = True
    stopped: threading.Event = field(default_factory=threading.Event)
    worked: bool = False  # whether a notebook was executed
    _began: bool = False  # whether there was anything to do
    _waits: str = ""  # the notebook at work elsewhere
    _child: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        """Force what stands on a forced notebook, too."""
        first = next((place for place, name in enumerate(self.names) if name in self.force), len(self.names))
        self.force = frozenset(self.names[first:])

    def do(self) -> Failure | None:
        """Do every notebook that is not done.

        Returns:
            Which notebook failed, where one did; those after it are not begun.

        Raises:
            Stopped: the runner was told to end.
            Busy: a notebook is at work elsewhere; only where the chain is not ``patient``. Ask again later.
        """
        for place, name in enumerate(self.names):
            try:
                self._began |= self._notebook(name, self.names[place:])
            except UserError as error:  # data that is missing or has changed is told before a kernel starts
                return self._failed(name, str(error))
            except (Stopped, Busy, BrokenPipeError):  # told to end, or nobody reads what is said: no fault of the run's
                raise
            except OSError as error:  # a full disk or a folder that vanished must not take the other runs along
                return self._failed(name, f"{error.filename or self.run.folder}: {error.strerror}")
            except _Failed as error:
                return self._failed(name, str(error))
            except Exception as error:  # whatever it is, it must not take the other runs along
                return self._failed(name, f"{type(error).__name__}: {' '.join(str(error).split())}")
        if not self._began:
            self.say("nothing to do, it is done")
        return None

    def stop(self) -> None:
        """End the child at work."""
        self.stopped.set()
        child = self._child
        if child is not None:
            _end(child)

    def _failed(self, name: str, message: str) -> Failure:
        with contextlib.suppress(UserError, OSError):  # on a full disk the message is still printed
            records.end(self.run.folder, name, message)
        return Failure(name, message)

    def _notebook(self, name: str, here_and_later: tuple[str, ...]) -> bool:
        """Do one notebook under its locks; return whether there was anything to do."""
        run = self.run
        if self._settled(name):  # asked without the lock first, which a disk that is read-only could not hold
            return False
        with self._locks(name) as locks:
            if self._settled(name):  # by another runner, while this one waited
                return False
            run.require_data(name)
            for later in here_and_later:  # they stand on this one
                records.forget(run.folder, later)
            if (twin := self._twin(name)) is not None and self._copy(name, twin):
                self.say(f"{name} is {twin.name}'s, which has the same params up to there")
                return True
            began, self.worked = time.perf_counter(), True
            self.say(f"{name} starts")
            problem = self._execute(name, locks)
            if self.stopped.is_set():
                records.end(run.folder, name, None)
                raise Stopped
            if problem is None and not records.is_done(run.params, run.folder, name):
                problem = "ended without its record; was the kernel killed (memory)?"
            if problem is not None:
                raise _Failed(problem)
            records.end(run.folder, name, None)
            self.say(f"{name} done in {time.perf_counter() - began:.0f} s")
            return True

    def _settled(self, name: str) -> bool:
        """Whether a notebook is finished and not to be done again."""
        return records.is_done(self.run.params, self.run.folder, name) and self._fresh(name, self.run.folder)

    def _fresh(self, name: str, folder: Path) -> bool:
        """Whether a finished notebook may stand: it is not forced, or finished after it was."""
        if name not in self.force:
            return True
        record = records.read(folder, name)
        return record is not None and datetime.fromisoformat(record["finished"]).timestamp() >= self.asked

    @contextlib.contextmanager
    def _locks(self, name: str) -> Iterator[tuple[int, ...]]:
        """Hold the run's lock and the notebook's; yield their files' numbers for the child to inherit."""
        folder = project_path(self.run.params.outputs_root) / ".locks"
        folder.mkdir(parents=True, exist_ok=True)
        # Always in this order, so that no two runners wait for each other. Two notebooks of one run must not be at work
        # at once, nor one notebook in two runs that will share it.
        with (
            self._lock(folder / f"{self.run.folder.name}.lock", name) as mine,
            self._lock(folder / f"{name}-{notebook_key(self.run.params, name)}.lock", name) as shared,
        ):
            self._waits = ""
            yield (*mine, *shared)

    @contextlib.contextmanager
    def _lock(self, path: Path, name: str) -> Iterator[tuple[int, ...]]:
        try:
            import fcntl
        except ImportError:  # Windows: two runners at once may do a notebook twice, each with the same outcome
            yield ()
            return
        with open(path, "w") as file:
            while True:
                if self.stopped.is_set():
                    raise Stopped
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if self._waits != name:
                        self.say(f"{name} is at work elsewhere; waiting for it")
                    self._waits = name
                    if not self.patient:
                        raise Busy from None
                    time.sleep(PAUSE)
            yield (file.fileno(),)

    def _twin(self, name: str) -> Path | None:
        """Return the folder of another run whose outcome of this notebook is finished and must be the same."""
        if name not in records.FIGURES:
            return None
        run, key = self.run, notebook_key(self.run.params, name)
        mine = (run.folder / "manifest.csv").read_bytes()
        for record in sorted(run.folder.parent.glob(f"*/done/{name}.json")):
            folder = record.parent.parent
            if folder == run.folder or (records.read(folder, name) or {}).get("key") != key:
                continue
            with contextlib.suppress(UserError, OSError):
                other = Run.at(folder)
                same = (folder / "manifest.csv").read_bytes() == mine
                if same and records.is_done(other.params, other.folder, name) and self._fresh(name, folder):
                    return folder
        return None

    def _copy(self, name: str, twin: Path) -> bool:
        """Take over a twin's outcome; return whether it was still there to be taken."""
        run, other, record = self.run, Run.at(twin), records.read(twin, name)
        if record is None:  # an earlier notebook of the twin is being done again
            return False
        pairs = list(zip(*(records.products(each.params, each.folder, name) for each in (other, run)), strict=True))
        pairs += [(other.figure(figure), run.figure(figure)) for figure in records.FIGURES[name]]
        pairs.append((twin / "notebooks" / f"{name}.ipynb", run.folder / "notebooks" / f"{name}.ipynb"))
        for theirs, ours in pairs:
            if theirs.is_file():
                with replacing(ours) as temporary:
                    shutil.copyfile(theirs, temporary)
        records.end(run.folder, name, None)  # of a kill or a failure before
        facts = {fact: value for fact, value in record.items() if fact != "took"}  # nothing was executed here
        records.finish(run.params, run.folder, name, facts | {"shared": twin.name})
        return True

    def _execute(self, name: str, locks: tuple[int, ...]) -> str | None:
        """Run one notebook to its end; return what went wrong, in a sentence."""
        run = self.run
        output = run.folder / "notebooks" / f"{name}.ipynb"
        output.parent.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "OMP_WAIT_POLICY": "PASSIVE",
            "JUPYTER_PREFER_ENV_PATH": "1",  # this environment's python3 kernel, whatever the user installed
            "PYTHONUNBUFFERED": "1",
            **self.environment,
        }
        problem = None
        with (
            tempfile.TemporaryDirectory() as scratch,
            open(run.folder / "log.txt", "ab", buffering=0) as log,
        ):
            params = Path(scratch) / "params.json"
            params.write_text(json.dumps(run.params.changed()), encoding="utf-8")
            for left in (*run.models.glob(".*.safetensors"), *run.models.glob(".*.pt")):
                left.unlink(missing_ok=True)  # a kill in mid-write leaves them, and they are large
            records.begin(run.folder, name)
            source = ROOT / "notebooks" / f"{name}.ipynb"
            self._child = child = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "clipreid_lib.runs.execute",
                    source,
                    output,
                    params,
                    run.folder,
                    str(os.getpid()),
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
                pass_fds=locks,
            )
            if self.stopped.is_set():  # told while it started
                self.stop()
            try:
                for line in child.stdout or ():
                    with contextlib.suppress(OSError):  # a full disk costs lines of the log; the child tells what else
                        log.write(line.replace(FAILED, "failed: ").encode())
                    line = line.rstrip()
                    if line.startswith(FAILED):
                        problem = line.removeprefix(FAILED)
                    elif ": epoch " in line:
                        self.tick(line)
            except BaseException:  # such as an output that nobody reads any more; nobody would hear the child either
                _end(child)
                raise
            status, self._child = child.wait(), None
        if status and problem is None:
            problem = f"its process ended with status {status}; see {run.folder / 'log.txt'}"
        return problem


def _end(child: subprocess.Popen) -> None:
    try:
        os.killpg(child.pid, signal.SIGTERM)
    except (OSError, AttributeError):  # gone already, or Windows, which has no process groups
        child.kill()


class _Failed(Exception):
    pass
