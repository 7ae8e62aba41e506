"""The command that repeats a run or a grid, proved by composing it again."""

import math
import re
import shlex
from pathlib import Path

import yaml

from clipreid_lib.base.errors import UserError
from clipreid_lib.params import read
from clipreid_lib.params.run_ids import DATA_KEYS
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import EXTERNAL, ROOT, project_path

# Keys that hold paths, and the word that stands for a place on the machine of whoever ran it.
PLACES = {
    **{"data_root": "DATA", "outputs_root": "OUTPUTS", "pretrained": "WEIGHTS", "resume_prompt": "PROMPTS"},
    **{"output_dir": "LOGS", "save_dir": "MODELS", "photograph": "PHOTOGRAPH", "gallery_root": "GALLERY"},
}
BASE = "params/base.yaml"  # changes nothing; `clipreid run` asks for a file


def hide_place(key: str, value: object) -> object:
    """Return a param's value without any place outside the project, which would name a person or a machine."""
    if key not in PLACES or not isinstance(value, str):
        return value
    place = project_path(value)
    if not place.is_relative_to(ROOT):
        return PLACES[key]
    return place.relative_to(ROOT).as_posix() if Path(value).expanduser().is_absolute() else value


def list_changed(params: Params) -> dict:
    """Return the fewest keys that make this run, with a word for each place outside the project."""
    return {key: hide_place(key, value) for key, value in params.changed().items()}


def repeat_run(params: Params) -> str:
    """Return ``clipreid run``, or ``score`` of given features, with one ``--set`` per key, quoted for a shell."""
    if params.variant == EXTERNAL:
        told = {key: value for key, value in list_changed(params).items() if key in {*DATA_KEYS, "experiment"}}
        settings = [f"{key}={_write_value(value)}" for key, value in told.items()]
        return _write_command(settings, f"clipreid score FEATURES --as {shlex.quote(params.model)}")
    return _write_command([f"{key}={_write_value(value)}" for key, value in list_changed(params).items()])


def repeat_grid(runs: list[Params]) -> str | None:
    """Return one command that makes all of these runs and no other; None where they are no full grid."""
    if any(params.variant == EXTERNAL for params in runs):
        return None
    each = [list_changed(params) for params in runs]
    settings = []
    for key in dict.fromkeys(key for values in each for key in values):
        default = Params.model_fields[key].default
        axis = list(dict.fromkeys(values.get(key, default) for values in each))
        settings.append(f"{key}={_write_value(axis[0] if len(axis) == 1 else axis)}")
    command = _write_command(settings)
    return command if list_runs(command) == sorted({params.run_id for params in runs}) else None


def list_places(command: str) -> list[str]:
    """Return the words in a command that stand for places outside the project."""
    return [word for key, word in PLACES.items() if re.search(rf"\b{key}=.*\b{word}\b", command)]


def list_runs(command: str) -> list[str]:
    """Return the ids of the runs that a command makes, sorted; empty where it is refused here and now."""
    words = shlex.split(command.replace("\\\n", " "))
    settings = [word for before, word in zip(words, words[1:], strict=False) if before == "--set"]
    try:
        runs, _ = read.drop_repeats(read.expand(*read.compose([ROOT / BASE], settings)))
        return sorted(run.run_id for run in runs)
    except UserError:
        return []


def _write_command(settings: list[str], verb: str = f"clipreid run {BASE}") -> str:
    parts = [verb, *(f"--set {shlex.quote(setting)}" for setting in settings)]
    return " \\\n    ".join(parts)


def _write_value(value: object) -> str:
    """Write a value, or a list of values, on one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=math.inf, allow_unicode=True)
    return text.removesuffix("...\n").strip()
