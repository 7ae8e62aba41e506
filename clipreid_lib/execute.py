"""Execute one notebook by papermill: the child process that :mod:`clipreid_lib.batch` starts.

A process of its own keeps papermill's change of folder, its kernel and its memory away from the runner.
"""

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

from clipreid_lib.errors import UserError

OURS = {error.__name__ for error in (UserError, *UserError.__subclasses__())}  # whose message is the whole story


def main(arguments: list[str]) -> int:
    """Run ``notebook output params.json``; print what the notebook prints, and one line if it fails."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    notebook, output, params = arguments
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
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
        problem = error.evalue if error.ename in OURS else f"{error.ename}: {error.evalue}"
        where = "" if error.ename in OURS else f" (cell {error.cell_index + 1} of {output})"
        print(f"failed: {problem}{where}", flush=True)
        return 1
    except DeadKernelError:
        print("failed: the kernel died; was it killed, or was memory short?", flush=True)
        return 1
    except Exception as error:  # a full disk, a broken Jupyter: whatever it is, in one line
        print(f"failed: {output}: {type(error).__name__}: {' '.join(str(error).split())}", flush=True)
        return 1
    return 0


def _end_with_parent(parent: int) -> None:
    # A runner that is killed cannot stop its children, and training on without it would collide with the next
    # run. The kernel watches this process in the same way, so it ends too.
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
