"""Compose params: from YAML files and ``--set`` overrides, or from a notebook's cells.

Files compose left to right. In a file a key may hold a list; :func:`expand` turns lists into one
:class:`clipreid_lib.params.Params` per combination, so a notebook only ever sees scalars.
"""

import itertools
from pathlib import Path

import yaml

from clipreid_lib.errors import UserError
from clipreid_lib.params import Params, validated


def read_yaml(path: str | Path) -> dict:
    """Read one params file: a flat mapping of keys to scalars or lists.

    Raises:
        UserError: the file is missing, is not YAML, or is not a mapping.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds a {type(values).__name__}; a params file is a list of `key: value` lines")
    return values


def compose(files: list[str | Path], overrides: list[str] = ()) -> tuple[dict, dict[str, str]]:
    """Merge params files left to right, then ``key=value`` overrides.

    Returns:
        The merged values (lists kept) and, for each key, the file or override that set it.

    Raises:
        UserError: a file cannot be read, or an override is not ``key=value``.
    """
    values: dict = {}
    source: dict[str, str] = {}
    for path in files:
        layer = read_yaml(path)
        values.update(layer)
        source.update(dict.fromkeys(layer, str(path)))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--set {override}: write it as key=value")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            values[key] = text  # not YAML (a Windows path, say): take the characters as they stand
        source[key] = f"--set {override}"
    return values, source


def expand(values: dict, source: str | dict[str, str] = "params") -> list[Params]:
    """Turn lists into the product of their values: one validated run each, first key slowest.

    Raises:
        UserError: as :func:`validated`, or a list is empty.
    """
    axes = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    for key, axis in axes.items():
        if not axis:
            where = source if isinstance(source, str) else source[key]
            raise UserError(f"{where}: {key}: the list is empty; give at least one value")
    runs = [validated(dict(zip(axes, point, strict=True)), source) for point in itertools.product(*axes.values())]
    unique = {run.run_id: run for run in runs}
    return list(unique.values())


def from_namespace(namespace: dict) -> Params:
    """Collect the params a notebook's cells set, papermill's injected cell included.

    Args:
        namespace: the notebook's ``globals()``, before anything but imports has run.

    Raises:
        UserError: a plain value has a name that is no key of the schema, or as :func:`validated`.
    """
    scalars = (str, int, float, bool, list, tuple, type(None))
    given = {
        key: value
        for key, value in namespace.items()
        if not key.startswith("_")
        and isinstance(value, scalars)
        and (key not in {"In", "Out"})  # IPython's own history
    }
    return validated(given, "the notebook's parameters").resolved()
