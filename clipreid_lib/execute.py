"""Execute one notebook by papermill: the child process that :mod:`clipreid_lib.batch` starts.

A process of its own keeps papermill's change of folder, its kernel and its memory away from the runner.
"""

import json
import logging
import sys
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Run ``notebook output params.json``; print what the notebook prints, and one line if it fails."""
    import papermill
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    notebook, output, params = arguments
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
        where = "" if error.ename == "UserError" else f" (cell {error.cell_index + 1} of {output})"
        print(f"failed: {problem}{where}", flush=True)
        return 1
    except Exception as error:
        print(f"failed: {type(error).__name__}: {error}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
