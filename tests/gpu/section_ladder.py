"""10 ladder: the four rungs by the command line, and how long those of 11k would take."""

import importlib.util
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from place import Place
from verdicts import SKIPPED, Row

from clipreid_lib.base.files import write_csv, write_yaml

NEEDED = ("pydantic", "papermill", "ipykernel", "nbconvert", "imagehash", "psutil", "jinja2", "submitit", "matplotlib")
MEASURED, FULL = 3, {"prompts": 120, "encoder": 60}  # epochs
ROOT = Path(__file__).resolve().parents[2]


def rows(place: Place) -> Iterator[Row]:
    """Do the ladder with three runs at once, then one by one; a rehearsal plans it and makes up the logs."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        yield Row("ladder", verdict=SKIPPED, note=f"not installed: {', '.join(missing)}")
        return
    from clipreid_lib.embedded.synthetic_hands import draw_demo
    from clipreid_lib.params.check import validate_params

    settings = make_settings(place)
    draw_demo(validate_params(settings | {"variant": "frozen"}), place.scratch)
    for jobs in place.pick((3, 1), (1,)):
        outputs = place.scratch / f"ladder_{jobs}"
        outputs.mkdir()
        (outputs / "demo_hands").symlink_to(place.scratch / "demo_hands")
        seconds = call(place, outputs, settings, jobs)
        full = extrapolate(outputs, seconds, jobs)
        what = f"4 rungs, --jobs {jobs}, at {MEASURED}+{MEASURED} epochs"
        yield place.on_gpu(Row(what, seconds / 60, "min", f"{full / 60:.1f} min at 120+60"))


def make_settings(place: Place) -> dict:
    """Return the params of the four rungs."""
    settings = {
        **{"variant": ["frozen", "classifier", "clipid", "clipid_no_text"], "model": "vitb16", "device": "cuda"},
        **{"demo_people": 144, "demo_images": 12, "demo_sessions": 3, "demo_difficulty": 0.6},  # half of them train
        **{"prompt_epochs": MEASURED, "encoder_epochs": MEASURED},
    }
    if place.rehearse:
        return settings | {"model": "embedded", "device": "cpu", "demo_people": 4, "demo_images": 3}
    place.load("vitb16", on_cpu=True)  # makes the file of weights
    return settings | {"pretrained": str(place.scratch / "vitb16.pt")}


def call(place: Place, outputs: Path, settings: dict, jobs: int) -> float:
    """Call the command line on an outputs folder of its own; return the seconds."""
    write_yaml(outputs / "ladder.yaml", settings | {"outputs_root": str(outputs)})
    command = [sys.executable, "-m", "clipreid_lib", place.pick("run", "plan"), str(outputs / "ladder.yaml")]
    began = time.monotonic()
    subprocess.run([*command, "--jobs", str(jobs)], cwd=ROOT, check=True)
    if place.rehearse:
        made_up = pd.DataFrame({"epoch": [1, 2], "seconds": [0.2, 0.1]})
        for stage in FULL:
            write_csv(outputs / "runs" / "made_up" / "train_logs" / f"{stage}.csv", made_up)
    return time.monotonic() - began


def extrapolate(outputs: Path, seconds: float, jobs: int) -> float:
    """Add to the measured seconds what the missing epochs take, each rung's after its own logs.

    Args:
        outputs: folder of the runs.
        seconds: that all runs took.
        jobs: runs at once; the missing epochs are shared out to them, the longest run's stay together.
    """
    more: dict[Path, float] = {}
    for stage, epochs in FULL.items():
        for path in sorted(outputs.rglob(f"{stage}.csv")):
            each = pd.read_csv(path)["seconds"]
            more[path.parent] = more.get(path.parent, 0.0) + float(each.iloc[1:].median()) * (epochs - len(each))
    if not more:
        raise FileNotFoundError(f"{outputs}: no training logs there")
    return seconds + max(sum(more.values()) / jobs, *more.values())
