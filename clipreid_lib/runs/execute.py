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
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clipreid_lib.base.errors import UserError
from clipreid_lib.runs import records

FAILED = "\x1efailed: "  # begins the line that tells the runner why; no notebook prints this character
OURS = {UserError.__name__, *(error.__name__ for error in UserError.__subclasses__())}  # their message says it all


def main(arguments: list[str]) -> int:
    """Run ``notebook output params.json folder runner``; print what the notebook prints, and one line if it fails."""
    # jsonschema would compile this one's grammars, for a second and nothing
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]  # which Python takes for: not installed
    import papermill
    from jupyter_client import AsyncKernelManager
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    kernels: list[AsyncKernelManager] = []

    class Kept(AsyncKernelManager):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            kernels.append(self)

    def leave(*_: object) -> None:
        # The kernel looks for this process once a second, and not before it is up; until then it would still write
        # into the run, whose lock ends with this process.
        for kernel in kernels:
            # It may not be there yet, or be gone; and Windows has no process groups.
            with contextlib.suppress(OSError, AttributeError, TypeError):
                provisioner: Any = kernel.provisioner
                os.killpg(provisioner.pid, signal.SIGKILL)
        os._exit(1)

    notebook, output, params, folder, runner = arguments
    signal.signal(signal.SIGTERM, leave)
    # Told by the runner, which may be gone before this process can ask; Windows puts a launcher in between.
    parent = os.getppid() if sys.platform == "win32" else int(runner)
    watch = threading.Thread(target=_live_with_parent, args=(parent, Path(folder), leave), daemon=True)
    watch.start()
    logging.getLogger("papermill").setLevel(logging.ERROR)
    config = Config()
    if sys.platform != "win32":  # pipes instead of TCP ports: parallel kernels cannot take each other's
        config.KernelManager.transport = "ipc"
    try:
        papermill.execute_notebook(
            notebook,
            # papermill fills {braces} in a path with parameters; ours are plain characters
            output.replace("{", "{{").replace("}", "}}"),
            parameters=json.loads(Path(params).read_text(encoding="utf-8")),
            kernel_name="python3",
            progress_bar=False,
            log_output=True,
            stdout_file=sys.stdout,
            config=config,
            kernel_manager_class=Kept,
            # Record or failure is written by now; only taking CLIP apart in good order is left, for two seconds.
            shutdown_kernel="immediate",
        )
    except PapermillExecutionError as error:
        problem = error.evalue if error.ename in OURS else f"{error.ename}: {error.evalue}"
        print(f"{FAILED}{' '.join(problem.split())} (cell {error.cell_index + 1} of {output})", flush=True)
        return 1
    except DeadKernelError:
        print(f"{FAILED}the kernel died; was it killed, or was memory short?", flush=True)
        return 1
    except Exception as error:  # a full disk, a broken Jupyter: whatever it is, in one line
        print(f"{FAILED}{output}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        return 1
    return 0


def _live_with_parent(parent: int, folder: Path, leave: Callable[[], None]) -> None:
    # A runner that is killed cannot stop its children, and training on without it would collide with the next run.
    beaten = time.monotonic()
    while os.getppid() == parent:
        time.sleep(0.5)
        if time.monotonic() - beaten > records.BEAT:
            with contextlib.suppress(OSError):
                records.beat(folder)
            beaten = time.monotonic()
    leave()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
