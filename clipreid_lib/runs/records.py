"""Records: what says that a notebook of a run is finished, running, failed or was killed. Light to read, from anywhere.

A notebook is finished when ``done/<notebook>.json`` says so, which its last cell writes, atomically. The executed
notebook itself proves nothing: papermill marks the cells of a killed kernel as completed. The record holds the
notebook's key and the sizes of the files it stands for, so a file cut short later, or a key that has changed, makes the
notebook unfinished again.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from clipreid_lib.base.files import read_json, write_json
from clipreid_lib.params.run_folder import inside, params_of, run_folders  # noqa: F401  runs/ reads them from here
from clipreid_lib.params.schema import ENCODER, EVALUATION, PROMPTS, RETRIEVAL, ROOT, Params
from clipreid_lib.runs.notebook_keys import notebook_key

BEAT = 5.0  # seconds between two signs of life of a notebook at work
SILENT = 30.0  # seconds without one after which it counts as killed; a busy shared disk may swallow a few
# What each notebook leaves behind and later ones stand on: in the logs, in the models, in the run's own folder.
PRODUCTS = {
    PROMPTS: (("prompts.csv",), ("prompts.safetensors",), ()),
    ENCODER: (("encoder.csv",), ("encoder.safetensors",), ()),
    EVALUATION: ((), (), ("metrics.json", "per_draw.csv", "per_query.csv", "subgroups.csv")),
    RETRIEVAL: ((), (), ("gallery.html",)),
}

# What a training notebook draws, for a run with the same key to copy along.
FIGURES = {
    PROMPTS: ("prompt_curves.png", "anchor_similarity.png", "anchors.png"),
    ENCODER: ("encoder_curves.png", "neighbours_before.png", "neighbours_after.png"),
}


def products(params: Params, folder: Path, notebook: str) -> list[Path]:
    """Return the files that a finished notebook has written and later ones read.

    Args:
        params: of the run.
        folder: the run's.
        notebook: its name; one that leaves nothing for later ones has no such files.
    """
    logs, models, own = PRODUCTS.get(notebook, ((), (), ()))
    places = (inside(params, folder, params.output_dir), inside(params, folder, params.save_dir), folder)
    return [place / name for place, names in zip(places, (logs, models, own), strict=True) for name in names]


def source(notebook: str) -> str:
    """Hash the code of a notebook as it lies in the project, without its parameters cell and its sentences."""
    cells = json.loads((ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    code = ["".join(cell["source"]) for cell in code if "parameters" not in cell["metadata"].get("tags", [])]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def finish(params: Params, folder: Path, notebook: str, facts: dict) -> None:
    """Write the record of a finished notebook: the last thing that happens in it.

    Args:
        params: of the run.
        folder: the run's.
        notebook: its name.
        facts: what else to keep; ``code`` where another run's notebook did it.
    """
    sizes = {os.path.relpath(path, folder): path.stat().st_size for path in products(params, folder, notebook)}
    finished = datetime.now(UTC).isoformat(timespec="milliseconds")
    begun = read_json(folder / "running.json") or {}
    if begun.get("notebook") != notebook or abs(_age(folder / "running.json")) > SILENT:
        begun = {}  # of another notebook, or of a run killed long ago
    took = {"took": round(max(0.0, time.time() - begun["began"]), 1)} if begun else {}  # seconds
    made_by = {"code": facts.get("code") or begun.get("code") or source(notebook)}
    record = {"finished": finished, **took, "key": notebook_key(params, notebook), **made_by, "files": sizes}
    write_json(_done(folder, notebook), facts | record)


def read(folder: Path, notebook: str) -> dict | None:
    """Return a notebook's record; None where there is none or it cannot be read.

    Args:
        folder: the run's.
        notebook: its name.
    """
    return read_json(_done(folder, notebook))


def is_done(params: Params, folder: Path, notebook: str) -> bool:
    """Whether a notebook is finished: its record is there, was made under the same key, and its files are whole.

    Args:
        params: of the run, resolved.
        folder: the run's.
        notebook: its name.
    """
    record = read(folder, notebook)
    if record is None or record.get("key") != notebook_key(params, notebook):
        return False
    return all(_size(folder / name) == size for name, size in record.get("files", {}).items())


def edited(params: Params, folder: Path) -> list[str]:
    """Return the finished notebooks whose code in the project's ``notebooks/`` was edited since.

    Args:
        params: of the run, resolved.
        folder: the run's.
    """
    found = {name: read(folder, name) for name in params.notebooks if is_done(params, folder, name)}
    return [name for name, record in found.items() if record is not None and record.get("code") != source(name)]


def forget(folder: Path, notebook: str) -> None:
    """Delete a notebook's record, so that it is done again; the evaluation's scores are set aside."""
    _done(folder, notebook).unlink(missing_ok=True)
    if notebook == EVALUATION:
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / "metrics.json", folder / "metrics.before.json")


def begin(folder: Path, notebook: str) -> None:
    """Say that a notebook is at work; :func:`beat` goes on saying so.

    Args:
        folder: the run's.
        notebook: its name.
    """
    for name in ("failed.json", "running.json"):
        (folder / name).unlink(missing_ok=True)
    write_json(folder / "running.json", {"notebook": notebook, "began": time.time(), "code": source(notebook)})


def beat(folder: Path) -> None:
    """Give a sign of life."""
    os.utime(folder / "running.json")


def end(folder: Path, notebook: str, failure: str | None) -> None:
    """Say that a notebook has ended, and how where it failed.

    Args:
        folder: the run's.
        notebook: its name.
        failure: what went wrong, in words; None where it ended well.
    """
    for name in ("running.json", "failed.json"):  # first: on a full disk this may make room for what follows
        (folder / name).unlink(missing_ok=True)
    if failure is not None:
        write_json(folder / "failed.json", {"notebook": notebook, "message": failure})


def state(params: Params, folder: Path) -> tuple[str, str, str]:
    """Say how far a run is.

    Args:
        params: of the run, resolved.
        folder: the run's.

    Returns:
        ``done``, ``running``, ``failed``, ``killed``, ``started`` (some notebooks are done, nothing is at work) or
        ``waiting``; the notebook that is concerned; and what there is to add.
    """
    todo = [name for name in params.notebooks if not is_done(params, folder, name)]
    if not todo:
        return "done", "", ""
    return at_work(folder) or (("started" if len(todo) < len(params.notebooks) else "waiting"), todo[0], "")


def at_work(folder: Path) -> tuple[str, str, str] | None:
    """Say what is at work in a folder, or was last: ``running``, ``killed`` or ``failed``, as :func:`state`.

    Returns:
        State, notebook and what there is to add; None where nothing is at work and nothing failed.
    """
    running, failed = read_json(folder / "running.json"), read_json(folder / "failed.json")
    if running is not None:
        quiet = _age(folder / "running.json")
        if abs(quiet) < SILENT:
            return "running", running["notebook"], ""
        # A sign of life in the future: the clock was set back, and nobody has given one since.
        silence = f"for {quiet:.0f} s" if quiet > 0 else "since the clock was set back"
        return "killed", running["notebook"], f"no sign of life {silence}"
    if failed is not None:
        return "failed", failed["notebook"], failed["message"]
    return None


def _age(path: Path) -> float:
    """Return how many seconds ago a file was touched, by the clock of the disk it lies on and not by this machine's."""
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock") as now:
            return os.stat(now.name).st_mtime - path.stat().st_mtime
    except OSError:  # read-only, or gone meanwhile
        return max(0.0, time.time() - path.stat().st_mtime) if path.exists() else 0.0


def _done(folder: Path, notebook: str) -> Path:
    return folder / "done" / f"{notebook}.json"


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
