"""`make gpu`: the CUDA path on one GPU within some minutes, as one table; `--rehearse` does it small on the CPU.

::

    python tests/gpu/accept.py [--minutes 9] [--only NAME ...] [--out FOLDER] [--wheels FOLDER] [--rehearse]

Status 1: a limit is missed or a section failed. Status 2: there is no GPU, or an option is wrong.
"""

import argparse
import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
# Seconds on an H200 with 16 cores, measured; the ladder's are an estimate.
COSTS: dict[str, float] = {
    "card": 33,
    "parity": 20,
    "waits": 16,
    "step": 92,
    "state": 13,
    "resume": 73,
    "curves": 50,
    "memory": 29,
    "encode": 17,
    "ladder": 140,
    "sharing": 60,
}
REHEARSAL = 60.0  # of any section, on a CPU that others use, too


def main() -> int:
    """Print the table row by row and save it; return the exit status."""
    options = read_options()
    sys.path[:0] = [str(ROOT), str(HERE)]
    scratch = tempfile.TemporaryDirectory(prefix="gpu_acceptance_", ignore_cleanup_errors=True)
    if options.wheels:
        target = Path(scratch.name, "wheels")
        install_wheels(options.wheels, target)
        sys.path.append(str(target))
        os.environ["JUPYTER_PATH"] = str(target / "share" / "jupyter")  # nbconvert's templates
    # For the processes to come, and theirs.
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2] + ([str(target)] if options.wheels else []))
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if options.rehearse:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    elif not find_gpu():
        print("torch finds no GPU here; --rehearse does everything small on the CPU", file=sys.stderr)
        return 2
    with scratch:
        return accept(options, Path(scratch.name))


def accept(options: argparse.Namespace, scratch: Path) -> int:
    """Run the sections that are wanted; return 1 where a row is bad."""
    import budget
    import verdicts
    from hands import draw_hands

    began = time.monotonic()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    log = out / "log.txt"
    log.write_text("")
    draw_hands(scratch / "hands.npz", *((8, 4, 4, (64, 48)) if options.rehearse else (72, 24, 12, (160, 120))))
    title = "GPU acceptance, rehearsed on a CPU" if options.rehearse else "GPU acceptance"
    rows: list[verdicts.Row] = []

    def tell(row: verdicts.Row) -> None:
        rows.append(row)
        print(verdicts.line(verdicts.cells(row), row.note), flush=True)
        verdicts.save(out, rows, title)

    print(verdicts.line(verdicts.HEADER), flush=True)
    costs = {name: REHEARSAL if options.rehearse else COSTS[name] for name in options.only or COSTS}
    start = partial(_start, rehearse=options.rehearse, scratch=scratch, log=log)
    left = options.minutes * 60 - (time.monotonic() - began)
    taken = budget.run_sections(costs, left, start, tell)
    verdicts.save(out, rows, title, taken)
    print("\nseconds: " + ", ".join(f"{name} {seconds:.0f}" for name, seconds in taken.items()))
    bad = sum(row.bad for row in rows)
    print(f"{len(rows)} rows, {bad} missed or failed, {time.monotonic() - began:.0f} s; saved in {options.out}")
    return int(bad > 0)


def _start(name, limit, rehearse, scratch, log):
    import budget

    return budget.run_in_child(name, limit, (rehearse, scratch), log)


def read_options() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=9, help="for everything (default 9)")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=COSTS, help=f"of {', '.join(COSTS)}")
    folder = Path(os.environ.get("OUT") or ROOT / "outputs" / "gpu")
    parser.add_argument("--out", type=Path, default=folder, help="default: $OUT, or outputs/gpu")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install for this run alone")
    parser.add_argument("--rehearse", action="store_true", help="everything small, on the CPU")
    return parser.parse_args()


def install_wheels(folder: Path, target: Path) -> None:
    """Install a folder's wheels of packages that are not there yet into another folder, without a network."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"{folder}: no wheels there")
    installed = {name_distribution(each.name) for each in importlib.metadata.distributions()}
    wheels = [path for path in wheels if name_distribution(path.name.partition("-")[0]) not in installed]
    if not wheels:
        return
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", str(target)]
    subprocess.run([*pip, *map(str, wheels)], check=True)


def name_distribution(name: str) -> str:
    """Spell a package's name as all may be compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def find_gpu() -> bool:
    """Ask torch in a process of its own, so that this one stays without CUDA and may fork."""
    asked = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", asked]).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
