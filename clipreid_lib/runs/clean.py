"""Make room: delete what can be made again, and what killed writers left behind. Results are never touched."""

import re
import shutil
from pathlib import Path

from clipreid_lib.base.errors import UserError
from clipreid_lib.runs import records

WRITTEN = ("runs", "data", "features", "reports")  # folders of outputs that the library writes into
TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}(\.[^.]*)?")  # what clipreid_lib.base.files calls a file until it is whole


def leftovers(outputs: Path) -> dict[str, list[Path]]:
    """Return what may go, by what it is.

    Raises:
        UserError: the folder holds no run, or something is at work in it.
    """
    runs = records.run_folders(outputs)
    if not runs:
        raise UserError(f"{outputs / 'runs'}: holds no run; give the outputs folder of some")
    working = [folder for folder in (*runs, *(outputs / "data").glob("*")) if _works(folder)]
    if working:
        raise UserError(f"{working[0].name} is at work; clean when nothing is (`clipreid status` tells)")
    return {
        "features (encoded again when asked for)": _there(outputs / "features"),
        "decoded images (data prepare makes them again)": _there(outputs / "image_store"),
        "states of unfinished training (it begins again)": [
            state for run in runs for state in sorted(run.rglob("*.resume.pt"))
        ],
        "files that killed writers left": [
            path
            for place in (
                outputs.glob(".leaderboard.csv.*"),
                outputs.glob(".across*"),
                *((outputs / name).rglob(".*") for name in WRITTEN),
            )
            for path in sorted(place)
            if TEMPORARY.fullmatch(path.name) and path.is_file()
        ],
    }


def clean(outputs: Path, really: bool) -> None:
    """Say what may go and how large it is; delete it where ``really``.

    Args:
        outputs: the outputs folder.
        really: whether to delete.

    Raises:
        UserError: as :func:`leftovers`.
    """
    total = 0
    for kind, paths in leftovers(outputs).items():
        size = sum(_size(path) for path in paths)
        total += size
        print(f"{size / 1e6:10.1f} MB  {len(paths):4d}  {kind}")
        for path in paths if really else ():
            try:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            except OSError as error:
                print(f"{path}: not deleted ({error.strerror})")
    print(f"{total / 1e6:10.1f} MB in all " + ("deleted" if really else "could go; --yes deletes it"))


def _works(folder: Path) -> bool:
    found = records.at_work(folder)
    return found is not None and found[0] == "running"


def _there(path: Path) -> list[Path]:
    return [path] if path.is_dir() and not path.is_symlink() else []


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
