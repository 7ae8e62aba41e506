"""What would fail every run, told before any begins: a model, a file, a folder, a device or a kernel that is missing.

This module is quick to import, and loads what is slow only to say what is wrong.
"""

import importlib.util
import json
from pathlib import Path

from clipreid_lib.base.accelerator import list_cards
from clipreid_lib.base.errors import UserError
from clipreid_lib.params.contradictions import SCORE
from clipreid_lib.params.recipes import ALIASES, EMBEDDED, OTHER_VOCABULARY, TIMM, explain_unknown_model
from clipreid_lib.params.run_ids import DATA_KEYS
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import ENCODER, EVALUATION, EXTERNAL, RETRIEVAL, SILENT, SPEAK, project_path
from clipreid_lib.runs import records


def check(runs: list[Params]) -> None:
    """Look for what runs need on any machine.

    Raises:
        UserError: a model that is unknown or lacks weights, a weights or prompts file that is missing, prompts of
            other data or of another form, or features of another program, which `clipreid score` evaluates.
    """
    if any(run.variant == EXTERNAL for run in runs):
        raise UserError(f"variant: {SCORE}")
    package = importlib.util.find_spec("open_clip")  # importing it would load torch
    assert package is not None and package.origin is not None
    configs = sorted(Path(package.origin).with_name("model_configs").glob("*.json"))
    ours = [EMBEDDED, *ALIASES]
    known = [*ours, *(path.stem for path in configs)]
    asked = {(run.model, run.pretrained, run.resume_prompt, run.variant in SPEAK) for run in runs}
    for model, weights, prompts, speaks in asked:
        if model.startswith(TIMM):
            from clipreid_lib.clip.timm_towers import choose_weights  # loads torch

            choose_weights(model, weights if weights in (None, "random") else _find_file(weights))
        elif model not in known:
            raise UserError(explain_unknown_model(model, known))
        elif speaks and model not in ours and (told := _explain_silence(configs[known.index(model) - len(ours)])):
            raise UserError(f"variant: {model} {told}; use {', '.join(SILENT)}")
        if weights is None and model not in ours and not model.startswith(TIMM):
            raise UserError(f"pretrained: the open_clip model {model!r} needs a weights tag or file")
        is_file = bool({*(weights or "")} & {*"./\\"}) or Path(weights or "").is_file()  # no tag holds a dot or a slash
        if weights not in (None, "random") and model != EMBEDDED and not model.startswith(TIMM) and not is_file:
            from clipreid_lib.clip.backbone import check_tag  # loads torch

            check_tag(model, weights)
        files = {"pretrained": weights if is_file else None, "resume_prompt": prompts}
        for key, file in files.items():
            if file is not None and not (path := project_path(file)).is_file():
                what = "a folder" if path.is_dir() else "not there"
                raise UserError(f"{key}: {path} is {what}; a relative path starts at the project's folder")
    for run in runs:
        if run.resume_prompt is not None and not records.is_done(run, run.folder, ENCODER):
            check_prompts(run.resolved(), project_path(run.resume_prompt))


def check_prompts(params: Params, path: Path) -> None:
    """Check that prompts were learned from a run's data and in its form.

    Raises:
        UserError: the file holds no prompts, or a key differs, which it names.
    """
    from clipreid_lib.base import checkpoints  # loads torch

    # Two data sets, or two aspects of one, may number other people alike.
    drawn = sorted(key for key in DATA_KEYS if key.startswith("demo_")) if params.dataset == "demo" else []
    same = "dataset", "aspect", *drawn, "prompt_form", "num_prompts", "prompt_dim"
    _, facts = checkpoints.load(path, "prompts")
    checkpoints.require(path, facts.get("params", {}), {key: getattr(params, key) for key in same})


def _find_file(weights: str) -> str:
    """Return a weights file's own path where there is one; a tag stays as it is."""
    return str(path) if (path := project_path(weights)).is_file() else weights


def _explain_silence(config: Path) -> str:
    """Say why a model of open_clip reads no sentences with learnt tokens; empty where it does."""
    text = json.loads(config.read_text(encoding="utf-8"))["text_cfg"]
    if OTHER_VOCABULARY & text.keys():
        return "has another vocabulary than CLIP's, which has no place for learnt tokens"
    return "has a text tower that reads a token of its own beside the sentence" if text.get("embed_cls") else ""


def _reads_all(run: Params, force: frozenset[str]) -> bool:
    """Whether every image must be there: the pictures of an evaluated run do without those deleted since."""
    return bool(force - {RETRIEVAL}) or not records.is_done(run, run.folder, EVALUATION)


def check_here(runs: list[Params], force: frozenset[str] = frozenset()) -> None:
    """Look for what runs need on this machine; finished runs need nothing, unless a notebook is forced.

    Raises:
        UserError: the Jupyter kernel, a data folder or a device is missing, or torch cannot use the GPU; what lies in
            a data folder is not the data set, or not all of it.
    """
    left = [run for run in runs if force or records.state(run, run.folder)[0] != "done"]
    if left and importlib.util.find_spec("ipykernel") is None:
        raise UserError("this Python has no Jupyter kernel to run notebooks in; pip install ipykernel")
    sets = {
        (run.dataset, run.data_folder, run.allow_missing, run.burst_gap)
        for run in left
        if run.dataset != "demo" and (not run.data_folder.is_dir() or _reads_all(run, force))
    }
    for asked in sorted(sets):
        from clipreid_lib.data import datasets  # loads pandas, as the runs will

        datasets.load_images(*asked)
    for device in sorted({run.device for run in left if run.device != "cpu"}):
        if device != "auto" or list_cards():
            from clipreid_lib.runs.machine import choose_device  # loads torch

            choose_device(device)
