"""Kill runs at random moments, in random ways, and compare what comes of them with runs that nothing disturbed.

    .venv/bin/python tests/kill_at_random.py --kills 200 --seed 0

It takes about an hour on two cores, and ends with a table: kinds of runs, kills, chains that ended, and whether all of
them ended with the same manifest, scores, logs and weights, byte for byte. ``test_survives.py`` has a handful of chosen
moments in the suite.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path

import pandas as pd
import psutil
from small_runs import LADDER
from test_survives import Place, assert_same

# What differs from the tiny ladder's clipid run.
KINDS = {
    "frozen": {"variant": "frozen"},
    "tip_adapter": {"variant": "tip_adapter"},
    "classifier": {"variant": "classifier"},
    "clipid": {"variant": "clipid"},
    "clipid, two aspects": {"variant": "clipid", "aspect": "dorsal_r+palmar_r", "protocol": "common"},
    "clipid, validation": {"variant": "clipid", "validation": "identity_disjoint", "demo_people": 16},
    "clipid, stage 2a alone": {"variant": "clipid", "mode": "prompt_learn"},
    "clipid_no_text, lora-2": {"variant": "clipid_no_text", "train": "lora-2"},
    "inversion": {"variant": "inversion"},
    "promptsg": {"variant": "promptsg"},
}
WAYS = ("whole group", "runner", "kernel", "SIGTERM", "SIGINT")
LONGEST = 14.0  # seconds that a run is left alone; it needs about four to begin a notebook


def kill(runner: subprocess.Popen, way: str) -> str:
    """Kill a run in one way; return the way, or what it has become where there was no kernel to kill."""
    family = psutil.Process(runner.pid).children(recursive=True)
    kernels = [each for each in family if each.is_running() and "ipykernel_launcher" in " ".join(each.cmdline())]
    if way == "kernel" and kernels:
        kernels[0].kill()
    elif way in ("SIGTERM", "SIGINT"):
        runner.send_signal(signal.Signals[way])
    elif way == "whole group":
        for group in {os.getpgid(each.pid) for each in (psutil.Process(runner.pid), *family) if each.is_running()}:
            os.killpg(group, signal.SIGKILL)
    else:
        way = "runner"
        runner.kill()
    psutil.wait_procs(family, timeout=30)
    return way


def end_undisturbed(settings: dict, hands: Path, folder: Path) -> Path:
    """Run to the end without a kill; return the run's folder."""
    place = make_place(settings, hands, folder)
    place.run_well()
    return place.run_folder()


def make_place(settings: dict, hands: Path, folder: Path) -> Place:
    """Make a folder for one run, whose hands lie elsewhere once they are drawn."""
    place = Place(folder, LADDER | settings)
    if "demo_people" not in settings:
        place.outputs.mkdir(parents=True)
        (place.outputs / "demo_hands").symlink_to(hands)
    return place


def harass(settings: dict, hands: Path, root: Path, reference: Path, kills: int, dice: random.Random) -> dict:
    """Kill one kind of run so often, beginning anew whenever it has ended; return what came of it."""
    ways: Counter[str] = Counter()
    ended = 0
    while ways.total() < kills:
        place = make_place(settings, hands, root / f"chain {ended}")
        while True:
            runner, alone = place.start(), dice.uniform(0, LONGEST)
            try:
                runner.wait(alone if ways.total() < kills else None)
            except subprocess.TimeoutExpired:
                try:
                    ways[kill(runner, dice.choice(WAYS))] += 1
                except psutil.NoSuchProcess:  # it ended in this very moment
                    pass
            status, out, err = place.end(runner)
            # Ctrl-C while Python still imports shows Python's own traceback; nothing has begun then.
            assert "Traceback" not in out + err or err.rstrip().endswith("KeyboardInterrupt"), out + err
            if status == 0:
                break
        assert_same(place.run_folder(), reference)
        ended += 1
        shutil.rmtree(place.folder)
    return {"kills": ways.total(), **ways, "chains ended, all the same": ended}


def main() -> None:
    """Read the options, harass every kind in turn, print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=200, help="over all kinds of runs (default 200)")
    options.add_argument("--seed", type=int, default=0, help="of the moments and ways")
    options.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS, help="default: all")
    given = options.parse_args()
    dice, rows = random.Random(given.seed), {}
    with tempfile.TemporaryDirectory() as scratch:
        hands = Path(scratch) / "hands"
        hands.mkdir()
        for number, kind in enumerate(given.kinds):
            root, began = Path(scratch) / f"kind {number}", time.monotonic()
            share = (given.kills * (number + 1)) // len(given.kinds) - (given.kills * number) // len(given.kinds)
            reference = end_undisturbed(KINDS[kind], hands, root / "undisturbed")
            rows[kind] = harass(KINDS[kind], hands, root, reference, share, dice)
            print(f"{kind}: {rows[kind]}, {time.monotonic() - began:.0f} s", flush=True)
            shutil.rmtree(root)
    table = pd.DataFrame.from_dict(rows, orient="index").fillna(0).astype(int)
    table.loc["all"] = table.sum()
    print(f"\n{table.to_string()}")


if __name__ == "__main__":
    main()
