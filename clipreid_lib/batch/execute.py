"""Execute one notebook by papermill: the child process that :mod:`clipreid_lib.batch.chain` starts.

A process of its own keeps papermill's change of folder, its kernel and its memory away from the runner.
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from clipreid_lib import records


def main(arguments: list[str]) -> int:
    """Run ``notebook output params.json folder``; print what the notebook prints, and one line if it fails."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    notebook, output, params, folder = arguments
    threading.Thread(target=_live_with_parent, args=(os.getppid(), Path(folder)), daemon=True).start()
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
        )
    except PapermillExecutionError as error:
        problem = error.evalue if error.ename == "UserError" else f"{error.ename}: {error.evalue}"
        print(f"failed: {problem} (cell {error.cell_index + 1} of {output})", flush=True)
        return 1
    except DeadKernelError:
        print("failed: the kernel died; was it killed, or was memory short?", flush=True)
        return 1
    except Exception as error:  # a full disk, a broken Jupyter: whatever it is, in one line
        print(f"failed: {output}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        return 1
    return 0


def _live_with_parent(parent: int, folder: Path) -> None:
    # A runner that is killed cannot stop its children, and training on without it would collide with the next
    # run. The kernel watches this process in the same way, so it ends too.
    beaten = time.monotonic()
    while os.getppid() == parent:
        time.sleep(0.5)
        if time.monotonic() - beaten > records.BEAT:
            with contextlib.suppress(OSError):
                records.beat(folder)
            beaten = time.monotonic()
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
