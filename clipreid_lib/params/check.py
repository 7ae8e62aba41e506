"""Checks values that people wrote against the schema; a message names the file or cell, the key and what is allowed."""

import difflib

from pydantic import ValidationError

from clipreid_lib.base.errors import UserError
from clipreid_lib.params.run_params import Params

# How keys that must match a pattern are written.
WRITTEN = {
    "experiment": "letters, digits and . _ + - make a name, such as pilot-1",
    "aspect": "letters, digits, spaces and . _ + - make a name, such as dorsal_r; write dorsal_r+palmar_r for one run "
    "on both, [dorsal_r, palmar_r] for a run on each",
    "noun": "write words, and a full stop or none, such as hand.",
    "image_size": "write the pixels of a square's side or HEIGHTxWIDTH, such as 224 or 256x128",
    "train": "write all, norms, last-N or lora-R with whole numbers from 1, such as last-2 or lora-4",
    "device": "write auto, cpu, cuda, cuda:1 or mps",
}


def refuse_unknown_key(key: str, where: str, otherwise: str | None = None) -> None:
    """Refuse a key that the schema has not, written ``where`` the message says.

    Raises:
        UserError: naming the nearest key; where none is near, it says ``otherwise`` or lists them all.
    """
    if key not in Params.model_fields:
        near = difflib.get_close_matches(str(key), Params.model_fields, n=1)
        others = otherwise or f"known keys: {', '.join(Params.model_fields)}"
        hint = f"did you mean {near[0]!r}?" if near else others
        raise UserError(f"{where}: unknown key {key!r}; {hint}")


def name_source(source: str | dict[str, str], key: str) -> str:
    """Say where a key was written: one name for all keys, or the key's own."""
    return source if isinstance(source, str) else source.get(key, "params")


def validate_params(values: dict, source: str | dict[str, str] = "params") -> Params:
    """Check one flat dictionary of scalars against the schema.

    Args:
        values: key to value, as YAML or papermill delivers them (``"1e-4"`` counts as the number).
        source: where the values came from, as one name or per key, for messages.

    Raises:
        UserError: an unknown key (the nearest is offered), a wrong type or value, keys that contradict.
    """
    for key, value in values.items():
        refuse_unknown_key(key, name_source(source, key))
        if isinstance(value, (list, tuple)):
            raise UserError(
                f"{name_source(source, key)}: {key}: holds the list {list(value)}; one run takes one value "
                f"(`clipreid run` expands lists, papermill takes `-p {key} VALUE`)"
            )
    try:
        return Params(**values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ")
        if first["loc"]:
            key = str(first["loc"][0])
            like = WRITTEN.get(key, "") if first["type"] == "string_pattern_mismatch" else ""
            message = f"{like or message[0].lower() + message[1:]}, got {first['input']!r}"
        else:
            key, _, message = message.partition("|")
        raise UserError(f"{name_source(source, key)}: {key}: {message}") from None
