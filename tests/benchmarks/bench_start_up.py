"""How long one waits before anything happens: `clipreid` saying what is there, and a notebook's imports.

Both stand against `import torch` alone, which nobody who trains can avoid, in fresh processes.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import Row, in_turn

from clipreid_lib.files import write_yaml
from clipreid_lib.params import ROOT, validated

AIM_COMMAND, AIM_IMPORT = 1, 3  # seconds
ROUNDS, RUNS = 5, 20
NOTEBOOK = "04_evaluation"  # imports the most
IMPORTS = (  # where the profile of `python -X importtime` finds the time, in CPU seconds
    "nearly all is other packages': torch._dynamo 0.9 (torchvision's roi_align asks for it), timm 0.4 (open_clip), "
    "scipy.stats 0.5 (seaborn), matplotlib 0.5, pandas 0.2, scikit-learn 0.15; the library's own modules take under 0.1"
)


def fresh(*arguments: str) -> subprocess.CompletedProcess:
    """Run Python anew."""
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)


def imports(notebook: str) -> str:
    """Return the import statements of a notebook."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    lines = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code").splitlines()
    return "\n".join(each for each in lines if each.startswith(("from ", "import ")))


def rows() -> list[Row]:
    """Start each in turn with torch alone."""
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for seed in range(RUNS):  # a grid that waits
            params = validated({"seed": seed, "outputs_root": scratch})
            write_yaml(Path(scratch) / "runs" / params.run_id / "params.yaml", params.model_dump())
        library = ("-m", "clipreid_lib")
        asked = {
            f"clipreid status, {RUNS} runs": (*library, "status", "--outputs", scratch),
            "clipreid plan, the demo": (*library, "plan", "params/demo.yaml", "--set", f"outputs_root={scratch}"),
            f"imports of {NOTEBOOK[:2]}": ("-c", imports(NOTEBOOK)),
        }
        for what, arguments in asked.items():
            ways = [lambda _, given=given: fresh(*given) for given in (("-c", "import torch"), arguments)]
            ways[1](0)  # whatever the disk has not read yet
            pairs, _ = in_turn(*ways, ROUNDS)
            command = what.startswith("clipreid")
            found.append(
                Row(
                    what,
                    "import torch, nothing else",
                    "the whole command" if command else "what the notebook imports",
                    pairs,
                    AIM_COMMAND if command else AIM_IMPORT,
                    about="itself" if command else "on top",
                    reason="" if command else IMPORTS,
                )
            )
    return found
