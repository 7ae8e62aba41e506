"""Checkpoints: safetensors weights that describe themselves, and resume states made of plain types."""

import io
import json
import pickle
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import replacing


def save(path: Path, tensors: dict[str, torch.Tensor], facts: dict) -> None:
    """Write tensors of any shape and the facts about them, of plain types, into one safetensors file, atomically.

    The fact ``kind`` says what the file holds.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # Serialised in memory first: the libraries' own writers do not say "disk full" when it is.
    content = safetensors.torch.save(plain, metadata={"facts": json.dumps(facts, sort_keys=True)})
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def load(path: Path, kind: str) -> tuple[dict[str, torch.Tensor], dict]:
    """Read what :func:`save` wrote, of one kind (``prompts``, ``encoder``): name to tensor, on the CPU, and the facts.

    Raises:
        UserError: the file is missing, cut short, or holds something else.
    """
    if path.is_dir():
        raise UserError(f"{path}: is a folder, no checkpoint")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
    except FileNotFoundError:
        raise UserError(f"{path}: checkpoint not found") from None
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: cannot be read as a checkpoint ({error})") from None
    if facts.get("kind") != kind:
        raise UserError(f"{path}: holds {facts.get('kind', 'weights of unknown origin')}, not {kind}")
    return tensors, facts


def require(path: Path, found: dict, wanted: dict) -> None:
    """Check that the facts found in a checkpoint agree with what it is to be loaded into.

    Raises:
        UserError: naming the first field that differs.
    """
    for field, value in wanted.items():
        if found.get(field) != value:
            raise UserError(f"{path}: its {field} is {found.get(field)!r}, this run has {value!r}")


def save_resume(path: Path, state: dict) -> None:
    """Write a training state (tensors, numbers, strings, lists, dicts) atomically.

    Raises:
        UserError: as :func:`save`.
    """
    content = io.BytesIO()
    torch.save(state, content)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def load_resume(path: Path) -> dict:
    """Read a training state written by :func:`save_resume`.

    Raises:
        UserError: it cannot be read, with the reason; whoever asked may start afresh.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        why = " ".join(str(error).split())[:120] or type(error).__name__
        raise UserError(f"{path}: cannot be read as a training state ({why})") from error
