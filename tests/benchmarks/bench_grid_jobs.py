"""The runs of a grid one after the other against two at once: `clipreid run --jobs 1` and `--jobs 2`.

Every notebook of every run is executed, in the processes that `make demo` would start. The hands are drawn and
described ahead, since that is done once and with all cores however many jobs there are.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rows import Row, in_turn

from clipreid_lib.base.files import write_yaml
from clipreid_lib.params.schema import ROOT

# Times as fast. Two cores would allow 2, but one job has them both where torch computes, and two jobs share the disk
# and the memory's speed; below 1.3 a second job would hardly be worth its memory.
AIM = 1.3
RUNS, ROUNDS = 2, 2
SETTINGS = {
    **{"variant": "classifier", "encoder_epochs": 4, "draws": 2, "device": "cpu"},
    **{"demo_people": 24, "demo_images": 6, "demo_sessions": 2},
}


def run(outputs: Path, seeds: list[int], jobs: int) -> None:
    """Call the command line; every seed is a run that shares nothing with the others but the hands."""
    write_yaml(outputs / "grid.yaml", SETTINGS | {"seed": seeds, "outputs_root": str(outputs)})
    command = [sys.executable, "-m", "clipreid_lib", "run", str(outputs / "grid.yaml"), "--jobs", str(jobs)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])


def scores(outputs: Path) -> list[float]:
    """Return the rank-1 of every run of a grid, in per cent."""
    found = sorted(outputs.glob("runs/*/metrics.json"))
    return [100 * json.loads(path.read_text(encoding="utf-8"))["rank1"] for path in found]


def rows() -> list[Row]:
    """Do the grid both ways, each time in an outputs folder that holds the hands and no run."""
    with tempfile.TemporaryDirectory() as scratch:
        hands = Path(scratch) / "hands"
        hands.mkdir()
        run(hands, [RUNS], jobs=1)
        shutil.rmtree(hands / "runs")

        def grid(number: int, jobs: int) -> list[float]:
            outputs = Path(scratch) / f"{jobs} jobs, round {number}"
            shutil.copytree(hands, outputs)
            run(outputs, list(range(RUNS)), jobs)
            return scores(outputs)

        pairs, (one, two) = in_turn(lambda number: grid(number, 1), lambda number: grid(number, 2), ROUNDS)
        assert len(one) == len(two) == RUNS
        apart = max(abs(a - b) for a, b in zip(one, two, strict=True))
    # Jobs side by side have fewer threads each, whose sums round otherwise, and so they train a little differently.
    note = f"notebooks 03, 04, 05 of each, embedded CLIP; rank-1 at most {apart:.1f} points apart, as threads differ"
    return [Row(f"grid of {RUNS} runs", "--jobs 1", "--jobs 2", pairs, AIM, note=note)]
