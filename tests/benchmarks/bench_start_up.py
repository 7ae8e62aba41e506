"""How long one waits before anything happens: `clipreid` saying what is there, and a notebook's imports.

Both stand against `import torch` alone, which nobody who trains can avoid, in fresh processes. A command is timed as a
whole, imports inside the process, since nobody waits for that Python to end.
"""

import ast
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rows import Row, in_turn

from clipreid_lib.base.files import write_yaml
from clipreid_lib.params.check import validate_params
from clipreid_lib.params.schema import ROOT

AIM_COMMAND, AIM_IMPORT = 1, 3  # seconds
ROUNDS, RUNS = 5, 20
NOTEBOOK = "04_evaluation"  # imports the most
IMPORTS = (  # where the profile of `python -X importtime` finds the time, in CPU seconds
    "nearly all is other packages': torch._dynamo 0.6 (torchvision's roi_align asks for it), scipy.stats 0.5, "
    "matplotlib 0.25, timm 0.2 (open_clip), pandas 0.15, scikit-learn 0.15; the library's own modules take under 0.1"
)


def fresh(*arguments: str) -> subprocess.CompletedProcess:
    """Run Python anew."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)


def inside(statements: str) -> subprocess.CompletedProcess:
    """Execute statements in a Python that has just begun, and let it print the seconds they take."""
    return fresh("-c", f"import time\nbegan = time.perf_counter()\n{statements}\nprint(time.perf_counter() - began)")


def as_printed(task: Callable[[], subprocess.CompletedProcess]) -> tuple[float, None]:
    """Take the time that a process printed last."""
    return float(task().stdout.split()[-1]), None


def imports(notebook: str) -> str:
    """Return the import statements of a notebook."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    return "\n".join(
        ast.unparse(each) for each in ast.parse(code).body if isinstance(each, ast.Import | ast.ImportFrom)
    )


def rows() -> list[Row]:
    """Start each in turn with torch alone."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(RUNS):  # a grid that waits
            params = validate_params({"seed": seed, "outputs_root": scratch})
            write_yaml(Path(scratch) / "runs" / params.run_id / "params.yaml", params.model_dump())
        asked = {
            f"clipreid status, {RUNS} runs": ("status", "--outputs", scratch),
            "clipreid plan, the demo": ("plan", "params/demo.yaml", "--set", f"outputs_root={scratch}"),
        }
        for what, arguments in asked.items():
            commands = ("-c", "import torch"), ("-m", "clipreid_lib", *arguments)
            ways = [lambda _, command=command: fresh(*command) for command in commands]
            ways[1](0)  # whatever the disk has not read yet
            pairs, _ = in_turn(*ways, ROUNDS)
            found.append(
                Row(what, "import torch, nothing else", "the whole command", pairs, AIM_COMMAND, about="itself")
            )
    ways = [lambda _, each=each: inside(each) for each in ("import torch", imports(NOTEBOOK))]
    ways[1](0)
    pairs, _ = in_turn(*ways, ROUNDS, timed=as_printed)
    what, ours = f"imports of {NOTEBOOK[:2]}", "what the notebook imports"
    row = Row(what, "import torch, nothing else", ours, pairs, AIM_IMPORT, about="on top", reason=IMPORTS)
    return [*found, row]
