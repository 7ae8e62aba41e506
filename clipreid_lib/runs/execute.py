"""Execute one notebook by papermill: the child process that :mod:`clipreid_lib.runs.chain` starts.

A process of its own keeps papermill's change of folder, its kernel and its memory away from the runner.
"""

import contextlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

import psutil

from clipreid_lib.base.errors import UserError
from clipreid_lib.runs import records

FAILED = "\x1efailed: "  # begins the last line, for the runner: message and traceback; no notebook prints this
OURS = {UserError.__name__, *(error.__name__ for error in UserError.__subclasses__())}  # their message says it all


def main(notebook: str, output: str, params: str, folder: str) -> int:
    """Execute a notebook with params (JSON) for a run's folder; print what it prints, and one line if it fails."""
    # Says that this package is not installed. jsonschema would compile its grammars, which takes a second.
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError, strip_color
    from traitlets.config import Config

    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_leave_with_runner, daemon=True).start()
    threading.Thread(target=_beat, args=(Path(folder),), daemon=True).start()
    logging.getLogger("papermill").setLevel(logging.ERROR)  # or it names every parameter that the notebook does not
    config = Config()
    if sys.platform != "win32":  # pipes instead of TCP ports: parallel kernels cannot take each other's
        config.KernelManager.transport = "ipc"
    try:
        papermill.execute_notebook(
            notebook,
            output.replace("{", "{{").replace("}", "}}"),  # papermill would fill {braces} with parameters
            parameters=json.loads(params),
            kernel_name="python3",
            progress_bar=False,
            stdout_file=sys.stdout,
            config=config,
            coalesce_streams=True,  # or every epoch that is printed becomes an output, and a page a box, of its own
            shutdown_kernel="immediate",  # record or failure is written by now; a kernel in good order takes 2 seconds
        )
        return 0
    except PapermillExecutionError as error:
        problem = error.evalue if error.ename in OURS else f"{error.ename}: {error.evalue}"
        problem, told = f"{problem} (cell {error.cell_index + 1})", strip_color("\n".join(error.traceback))
    except DeadKernelError:
        problem, told = "the kernel died; was it killed, or was memory short?", ""
    except Exception as error:  # a full disk, a broken Jupyter
        problem, told = f"{output}: {type(error).__name__}: {error}", traceback.format_exc()
    print(FAILED + json.dumps([" ".join(problem.split()), f"{told}\n" if told else ""]), flush=True)
    return 1


def _leave(*_: object) -> None:
    # The kernel looks for this process once a second, and not before it is up; until then it would still write
    # into the run, whose lock ends with this process.
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
    os._exit(1)


def _leave_with_runner() -> None:
    # A runner that is killed cannot stop its children, and training on without it would collide with the next run.
    sys.stdin.read()  # returns when the runner is gone
    _leave()


def _beat(folder: Path) -> None:
    while True:
        time.sleep(records.BEAT)
        with contextlib.suppress(OSError):
            records.beat(folder)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
