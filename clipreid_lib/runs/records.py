"""Records: which notebooks of a run are finished, running, failed or were killed. Quick to read, from any machine.

A notebook is finished when ``done/<notebook>.json`` exists, which its last cell writes. The executed notebook is no
proof: papermill marks the cells of a killed kernel as completed. A record holds the notebook's key and the sizes of the
files the notebook wrote, so a changed parameter or a file that is cut short makes the notebook unfinished again.

The key is a hash of the parameters that affect the notebook and those before it, and of the content of weights and
prompts that are read from files. Runs with the same key get the same results. Runs that differ only in fine-tuning
reuse one notebook 02; ``device`` is ignored. No key covers one thing: notebook 05 also shows stage 1 where a classifier
run with the same draws lies in the same folder.
"""

import contextlib
import hashlib
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from clipreid_lib.base.files import read_json, write_json
from clipreid_lib.params import run_ids, schema
from clipreid_lib.params.run_folder import place_inside
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import ENCODER, EVALUATION, PROMPTS, RETRIEVAL

# Without these touches, another machine could not tell a killed notebook from one that runs.
BEAT = 5.0  # seconds between two touches of running.json while a notebook runs
SILENT = 60.0  # seconds without a touch after which the notebook counts as killed; clocks may differ, disks be busy
# The files each notebook writes and later ones read, in the run's folder, or where output_dir and save_dir lead.
PRODUCTS = {
    PROMPTS: ("output_dir/prompts.csv", "save_dir/prompts.safetensors"),
    ENCODER: ("output_dir/encoder.csv", "save_dir/encoder.safetensors"),
    EVALUATION: ("metrics.json", "per_draw.csv", "per_query.csv", "subgroups.csv", "thresholds.json"),
    RETRIEVAL: ("gallery.html",),
}
FIGURES = {
    PROMPTS: ("prompt_curves.png", "anchor_similarity.png", "anchors.png"),
    ENCODER: ("encoder_curves.png", "neighbours_before.png", "neighbours_after.png"),
}
SCORES = 2  # how scores are counted; 1 was the mean over draws alone. A run scored in another way is scored again.
SHARED = tuple(FIGURES)  # notebooks whose results another run with the same key may copy
# Parameters that act after stage 2a only. A test trains stage 2a with each of them changed and finds the same prompts.
# ``epochs`` and ``lr`` are among them: of a run of stage 2a alone, ``Params.resolved`` makes them prompt_epochs and
# prompt_lr, which are not. Code reads those, or encoder_epochs and encoder_lr, and never ``epochs`` and ``lr``.
AFTER_PROMPTS = {
    *("variant", "mode", "epochs", "lr", "encoder_epochs", "encoder_lr", "head_lr", "images_per_identity"),
    *("id_weight", "triplet_weight", "triplet_margin", "text_weight", "label_smoothing", "text_logits"),
    *("weight_decay", "accumulate", "precision", "output_dir", "save_dir"),
    *("flip_train", "padding", "erasing", "sampler", "schedule", "bias_factor", "test_features", "train"),
}
# Parameters outside the run id that change what a notebook after training writes.
SHOWN_BY = {
    EVALUATION: {"flip_test", "rerank_k1", "rerank_k2", "gallery_images", "query_images"},
    RETRIEVAL: {"flip_test", "top_k", "photograph", "gallery_root"},
}


def notebook_key(params: Params, notebook: str) -> str:
    """Return eight letters that are the same for all runs that get the same results from a notebook."""
    mine = params.resolved()
    if notebook == schema.SURVEY:
        return mine.data_id.rsplit("-", 1)[1]
    keep = set(Params.model_fields) - run_ids.NOT_IN_ID
    if notebook == PROMPTS:
        keep -= AFTER_PROMPTS
    if mine.dataset != "demo":
        keep -= {key for key in run_ids.DATA_KEYS if key.startswith("demo_")}
    return run_ids.digest(mine, keep | SHOWN_BY.get(notebook, set()), data=mine.data_id, **mine.parents)


def list_products(params: Params, folder: Path, notebook: str) -> list[Path]:
    """Return the files that a notebook writes for later ones; none where it writes none."""
    parts = [name.rpartition("/") for name in PRODUCTS.get(notebook, ())]
    return [place_inside(params, folder, getattr(params, place, "")) / file for place, _, file in parts]


def list_shared(params: Params, folder: Path, notebook: str) -> list[Path]:
    """Return what another run with the same key copies: the products, the figures and the executed notebook."""
    figures = [folder / "figures" / name for name in FIGURES[notebook]]
    return [*list_products(params, folder, notebook), *figures, folder / "notebooks" / f"{notebook}.ipynb"]


def hash_notebook(notebook: str) -> str:
    """Hash the code of a notebook in the project's ``notebooks/``, without its parameters cell and its text."""
    cells = json.loads((schema.ROOT / "notebooks" / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    code = ["".join(cell["source"]) for cell in code if "parameters" not in cell["metadata"].get("tags", [])]
    return hashlib.sha256("\0".join(code).encode()).hexdigest()[:16]


def write_record(params: Params, folder: Path, notebook: str, facts: dict) -> None:
    """Write the record of a finished notebook, the last thing that happens in it.

    ``facts`` are kept in it, too. Where results are copied from another run, they hold ``code`` of its notebook.
    """
    running = read_json(folder / "running.json") or {}
    begun = running.get("code") if running.get("notebook") == notebook else None  # it may have been edited since
    products = list_products(params, folder, notebook)
    record = {
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "key": notebook_key(params, notebook),
        "code": facts.get("code") or begun or hash_notebook(notebook),
        "files": {os.path.relpath(path, folder): path.stat().st_size for path in products},
    }
    if notebook == EVALUATION:
        record["scores"] = SCORES
    write_json(_done(folder, notebook), facts | record)


def read(folder: Path, notebook: str, params: Params | None = None) -> dict | None:
    """Return the record of a finished notebook, under the key of ``params`` where they are given.

    None where there is none, or where it or a file that it lists is damaged.
    """
    record = read_json(_done(folder, notebook))
    if not record or (params is not None and record.get("key") != notebook_key(params, notebook)):
        return None
    if is_outdated(record, notebook):
        return None
    files = {folder / name: size for name, size in record.get("files", {}).items()}
    return record if all(path.is_file() and path.stat().st_size == size for path, size in files.items()) else None


def is_done(params: Params, folder: Path, notebook: str) -> bool:
    """Whether a notebook is finished: there is a record, its key is that of the params, and its files are whole."""
    return read(folder, notebook, params) is not None


def is_current(record: dict, notebook: str) -> bool:
    """Whether a record was made by the notebook's code as it is now; else old results would pass for new ones."""
    return record.get("code") == hash_notebook(notebook)


def is_outdated(record: dict, notebook: str) -> bool:
    """Whether a record is of scores that were counted in another way than now."""
    return notebook == EVALUATION and record.get("scores", 1) != SCORES


def list_outdated(runs: list[Params]) -> list[str]:
    """Return a sentence on the runs whose scores were counted in another way than now; else nothing."""
    held = {run.run_id: read_json(_done(run.folder, EVALUATION)) for run in runs}
    found = [name for name, record in held.items() if record and is_outdated(record, EVALUATION)]
    told = "are means of draws, of an older version; 04 and 05 are done again for means over all galleries"
    return [f"the scores of {', '.join(found)} {told}"] if found else []


def move(params: Params, folder: Path, before: Params) -> None:
    """Let the notebooks that are finished under the params ``before`` count for others, which find the same data."""
    for name in params.notebooks:
        if record := read(folder, name, before):
            write_json(_done(folder, name), record | {"key": notebook_key(params, name)})


def forget(folder: Path, notebook: str) -> None:
    """Delete a notebook's record, so that it is done again; scores of the evaluation are set aside, thresholds go."""
    _done(folder, notebook).unlink(missing_ok=True)
    if notebook == EVALUATION:
        (folder / "thresholds.json").unlink(missing_ok=True)  # of the weights before, perhaps
        with contextlib.suppress(FileNotFoundError):
            os.replace(folder / "metrics.json", folder / "metrics.before.json")


def begin(folder: Path, notebook: str) -> None:
    """Write down that a notebook starts. Whoever runs it calls :func:`beat` every few seconds."""
    clear_running(folder, notebook, None)
    write_json(folder / "running.json", {"notebook": notebook, "began": time.time(), "code": hash_notebook(notebook)})


def beat(folder: Path) -> None:
    """Touch ``running.json``."""
    os.utime(folder / "running.json")


def clear_running(folder: Path, notebook: str, failure: str | None) -> None:
    """Write down that a notebook has ended, and why where it failed (None where it did not)."""
    for name in ("running.json", "failed.json"):
        (folder / name).unlink(missing_ok=True)  # first: on a full disk this may make room for what follows
    if failure is not None:
        write_json(folder / "failed.json", {"notebook": notebook, "message": failure})


def state(params: Params, folder: Path) -> tuple[str, str, str]:
    """Say how far a run is: its state, the notebook that this is about, and a message or nothing.

    The state is ``done``, ``running``, ``failed``, ``killed``, ``started`` (some notebooks are done, none is running)
    or ``waiting``.
    """
    todo = [name for name in params.notebooks if not is_done(params, folder, name)]
    if not todo:
        return "done", "", ""
    return at_work(folder) or (("started" if len(todo) < len(params.notebooks) else "waiting"), todo[0], "")


def at_work(folder: Path) -> tuple[str, str, str] | None:
    """Say what runs in a folder or ended badly: ``running``, ``killed`` or ``failed``, as :func:`state`; else None."""
    running, failed = read_json(folder / "running.json"), read_json(folder / "failed.json")
    if running is not None:
        with contextlib.suppress(FileNotFoundError):  # it has ended meanwhile
            # A touch in the future counts as none: the clock was set back.
            if abs(time.time() - os.stat(folder / "running.json").st_mtime) < SILENT:
                return "running", running["notebook"], ""
            return "killed", running["notebook"], f"no sign of life for more than {SILENT:.0f} s"
    return ("failed", failed["notebook"], failed["message"]) if failed is not None else None


def _done(folder: Path, notebook: str) -> Path:
    return folder / "done" / f"{notebook}.json"
