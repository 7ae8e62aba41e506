"""`clipreid clean`: delete what can be made again, and what killed writers left behind. Results are never touched."""

import re
import shutil
from pathlib import Path

from clipreid_lib.base.errors import UserError
from clipreid_lib.params.run_folder import list_run_folders
from clipreid_lib.runs import records

WRITTEN = ("runs", "data", "features", "reports", "fused")  # folders of outputs that the library writes into
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.[^.]*)?")  # how clipreid_lib.base.files calls a file until it is whole


def clean(outputs: Path, really: bool) -> None:
    """Say what may go and how large it is; delete it where ``really``.

    Raises:
        UserError: the folder holds no run, or something is running in it.
    """
    total = 0
    for kind, paths in find_leftovers(outputs).items():
        size = sum(_size(path) for path in paths)
        total += size
        print(f"{size / 1e6:10.1f} MB  {len(paths):4d}  {kind}")
        for path in paths if really else ():
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except OSError as error:
                print(f"{path}: not deleted ({error.strerror})")
    print(f"{total / 1e6:10.1f} MB in all " + ("deleted" if really else "could go; --yes deletes it"))


def find_leftovers(outputs: Path) -> dict[str, list[Path]]:
    """Return what may go, by what it is; raises as :func:`clean`."""
    runs = list_run_folders(outputs)
    if not runs:
        raise UserError(f"{outputs / 'runs'}: holds no run; give the outputs folder of some")
    for folder in (*runs, *(outputs / "data").glob("*")):
        if (records.at_work(folder) or [""])[0] == "running":
            raise UserError(f"{folder.name} is running; clean when nothing is (`clipreid status` tells)")
    hidden = [*outputs.glob(".leaderboard.csv.*"), *outputs.glob(".across*")]
    hidden += [path for name in WRITTEN for path in (outputs / name).rglob(".*")]
    there = [path for path in outputs.glob("*") if path.is_dir() and not path.is_symlink()]
    return {
        "features (encoded again when asked for)": [path for path in there if path.name == "features"],
        "galleries (`clipreid identify` enrols them again)": [
            path for place in (outputs, *runs) for path in place.glob("enrolled") if not path.is_symlink()
        ],
        "decoded images (data prepare makes them again)": [path for path in there if path.name == "image_store"],
        "states of unfinished training (it begins again)": [path for run in runs for path in run.rglob("*.resume.pt")],
        "files that killed writers left": [p for p in hidden if TEMPORARY.fullmatch(p.name) and p.is_file()],
    }


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
