"""What would end every run early, told before any begins: a model, a folder, a device or a kernel that is not there.

This module is quick to import, and loads what is slow only to say what is wrong.
"""

import difflib
import importlib.util
from pathlib import Path

from clipreid_lib import records
from clipreid_lib.errors import UserError
from clipreid_lib.params import Params, project_path
from clipreid_lib.recipes import ALIASES, EMBEDDED


def check(runs: list[Params]) -> None:
    """Look for what runs need, wherever they will be done; those that are finished need nothing.

    Raises:
        UserError: a model nobody has heard of, or a prompts file or data folder that is not there.
    """
    for run in runs:
        if run.resume_prompt and not project_path(run.resume_prompt).is_file():
            raise UserError(f"resume_prompt: {run.resume_prompt} is not there")
        _known_model(run.model)
    unfinished = {run.data_id: run for run in runs if records.state(run.resolved(), run.folder)[0] != "done"}
    for run in unfinished.values():
        root = project_path(run.data_root or f"data/{run.dataset}")
        if run.dataset != "demo" and not root.is_dir():
            from clipreid_lib import datasets  # it knows where each data set is to be had

            datasets.load_images(run.dataset, root)


def check_here(runs: list[Params]) -> None:
    """Look for what runs need of the machine they are to be done on.

    Raises:
        UserError: there is no Jupyter kernel, or not the device that a run asks for.
    """
    if importlib.util.find_spec("ipykernel") is None:
        raise UserError("this Python has no Jupyter kernel to run notebooks in; pip install ipykernel")
    for device in sorted({run.device for run in runs} - {"auto", "cpu"}):
        from clipreid_lib.machine import choose_device  # it asks torch

        choose_device(device)


def _known_model(model: str) -> None:
    package = importlib.util.find_spec("open_clip")  # asking itself would load torch
    assert package is not None and package.submodule_search_locations is not None
    (there,) = package.submodule_search_locations
    known = [EMBEDDED, *ALIASES, *(path.stem for path in sorted((Path(there) / "model_configs").glob("*.json")))]
    if model not in known:
        near = difflib.get_close_matches(model, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use {', '.join([EMBEDDED, *ALIASES])} or a name open_clip has"
        raise UserError(f"model: {model!r} is unknown; {hint}")
