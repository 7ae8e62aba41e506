"""Make room: delete what can be made again, and what killed writers left behind. Results are never touched."""

import shutil
import time
from pathlib import Path

OLD = 3600.0  # seconds after which a writer's temporary file is taken for a leftover


def leftovers(outputs: Path) -> dict[str, list[Path]]:
    """Return what may go, by what it is."""
    runs = [path.parent for path in sorted((outputs / "runs").glob("*/params.yaml"))]
    idle = [run for run in runs if not (run / "running.json").exists()]
    begun = [run for run in idle if not any((run / "done").glob("*.json"))]
    temporary = [path for path in outputs.rglob(".*.*") if path.is_file() and _age(path) > OLD]
    return {
        "features (encoded again when asked for)": _there(outputs / "features"),
        "decoded images (data prepare makes them again)": _there(outputs / "image_store"),
        "states of unfinished training (it begins again)": [
            state for run in idle for state in sorted(run.rglob("*.resume.pt"))
        ],
        "runs in which no stage was finished": begun,
        "files that killed writers left": [path for path in temporary if path.suffix != ".lock"],
    }


def clean(outputs: Path, really: bool) -> None:
    """Say what may go and how large it is; delete it where ``really``."""
    total = 0
    for kind, paths in leftovers(outputs).items():
        size = sum(_size(path) for path in paths)
        total += size
        print(f"{size / 1e6:10.1f} MB  {len(paths):4d}  {kind}")
        for path in paths if really else ():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    print(f"{total / 1e6:10.1f} MB in all " + ("deleted" if really else "could go; --yes deletes it"))


def _there(path: Path) -> list[Path]:
    return [path] if path.exists() else []


def _age(path: Path) -> float:
    return time.time() - path.stat().st_mtime


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())
