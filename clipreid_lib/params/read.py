"""Compose params: from YAML files and ``--set`` overrides, or from a notebook's cells.

Files compose left to right. In a file a key may hold a list; :func:`expand` turns lists into one
:class:`clipreid_lib.params.run_params.Params` per combination, so a notebook only ever sees scalars. ``exclude``, a
list of ``{key: value}``, leaves combinations out.
"""

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.params.check import name_source, refuse_unknown_key, validate_params
from clipreid_lib.params.run_ids import ONE_VALUE
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import DECIMAL, PATHS, TEXT, TRAIN_NOTHING, describe_odd_number

MANY = 100  # runs in a grid that nobody starts by a slip of the keyboard
GUESSED = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp")}  # of bare words, by YAML


class Loader(yaml.SafeLoader):
    """YAML in which a key stands once, text keys keep what was written, and other keys read plain decimals alone."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        """Construct one mapping.

        Raises:
            UserError: a key stands twice.
        """
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                raise UserError(f"{self.name}: {name}: stands in line {lines[name]} and again in line {line}; keep one")
            lines[name] = line
            keep_written(name, value)
        return super().construct_mapping(node, deep)


def keep_written(key: str, node: yaml.Node) -> None:
    """Take back what YAML guessed of a key's value, or of a list of values, where the key shall not have it guessed."""
    for each in node.value if isinstance(node, yaml.SequenceNode) else [node]:
        sound = each.tag.endswith(":bool") or DECIMAL.fullmatch(str(each.value))
        if each.tag in GUESSED and (key in TEXT or not sound):
            each.tag = "tag:yaml.org,2002:str"


def read_yaml(path: str | Path) -> dict:
    """Read one params file: a flat mapping of keys to scalars or lists; an empty file is an empty mapping.

    Raises:
        UserError: the file is missing, is not YAML, is not a mapping, or names a key twice.
    """
    try:
        loader = Loader(Path(path).read_text(encoding="utf-8"))
        loader.name = str(path)  # for messages
        values = loader.get_single_data()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError) as error:
        raise UserError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(values, (dict, type(None))):
        raise UserError(f"{path}: holds a {type(values).__name__}; a params file is a list of `key: value` lines")
    return values or {}


def compose(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> tuple[dict, dict[str, str]]:
    """Merge params files left to right, then overrides ``key=value``.

    The value of an override is what stands there; a list, ``null`` and a text in quotes are read as YAML.

    Returns:
        The merged values (lists kept) and, for each key, the file or override that set it.

    Raises:
        UserError: a file cannot be read, or an override is not ``key=value`` or a list that is not closed.
    """
    values: dict = {}
    source: dict[str, str] = {}
    for path in files:
        layer = read_yaml(path)
        if "exclude" in layer:  # of several files, all count
            layer["exclude"] = [*values.get("exclude", ()), *_rules(layer, str(path))]
        values.update(layer)
        source.update(dict.fromkeys(layer, str(path)))
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise UserError(f"--set {override}: write it as key=value")
        values[key] = _read_override(key, text)
        source[key] = f"--set {override}"
        if key == "exclude":
            values[key] = _rules(values, source[key])
    return values, source


def expand(values: dict, source: str | dict[str, str] = "params", many: bool = False) -> list[Params]:
    """Turn lists into the product of their values: one validated run each, first key slowest.

    Args:
        values: from :func:`compose`.
        source: where they came from, for messages.
        many: whether more than ``MANY`` runs are meant.

    Raises:
        UserError: as :func:`validate_params`; a list is empty; ``exclude`` leaves nothing, or names no key; too many.
    """
    values = dict(values)
    rules = values.pop("exclude", [])
    axes = {key: value if isinstance(value, list) else [value] for key, value in values.items()}
    for key, axis in axes.items():
        if not axis:
            raise UserError(f"{name_source(source, key)}: {key}: the list is empty; give at least one value")
        if len(axis) > 1 and key in ONE_VALUE:
            raise UserError(f"{name_source(source, key)}: {key}: a list is not allowed for this key; give one value")
    size = math.prod(map(len, axes.values()))
    if size > MANY and not many:
        raise UserError(f"the grid has {size:,} combinations; --yes says that more than {MANY} are meant")
    place = name_source(source, "exclude")
    rules = [{key: read_values(key, value, f"{place}: exclude") for key, value in rule.items()} for rule in rules]
    points = [dict(zip(axes, point, strict=True)) for point in itertools.product(*axes.values())]
    left = [point for point in points if not any(_matches(point, rule) for rule in rules)]
    if not left:
        raise UserError(f"{place}: exclude: leaves none of {size:,} combinations")
    unique: dict[str, tuple[Params, dict]] = {}
    for point in left:
        run = _validate_point(point, source, axes)
        _, first = unique.setdefault(run.run_id, (run, point))
        if differ := [key for key in point if point[key] != first[key]]:
            where = name_source(source, differ[0])
            raise UserError(f"{where}: {differ[0]}: some of its values make the same run; keep one of them")
    return [run for run, _ in unique.values()]


def _validate_point(point: dict, source: str | dict[str, str], axes: dict[str, list]) -> Params:
    """Validate one combination; where its variant alone is refused, say how the grid goes without it."""
    try:
        return validate_params(point, source)
    except UserError as error:
        fine = []
        for variant in axes.get("variant", ()):
            with suppress(UserError):
                fine.append(validate_params(point | {"variant": variant}).variant)
        if not fine:
            raise
        others, mine = f"variant=[{', '.join(fine)}]", point["variant"]
        hint = f"--set '{others}' leaves {mine} out of the grid, exclude: [{{variant: {mine}}}] in a file does too"
        raise UserError(f"{error}; {hint}") from None


def drop_repeats(runs: list[Params]) -> tuple[list[Params], list[str]]:
    """Leave out runs that would repeat another one's numbers: they train nothing, and differ in their seed alone.

    Returns:
        The first of each kind and all others, in their order, and a line for each variant that lost some.
    """
    kept: dict[str, Params] = {}
    lost: Counter = Counter()
    for run in runs:
        same = run.run_id if run.variant not in TRAIN_NOTHING else run.model_copy(update={"seed": 0}).run_id
        if kept.setdefault(same, run) is not run:
            lost[run.variant] += 1
    return list(kept.values()), [
        f"{variant} trains nothing, so that every seed gives the same scores: {counted(number, 'run')} left out"
        for variant, number in lost.items()
    ]


def read_values(key: str, value: object, where: str) -> list:
    """Return the values that a rule or a filter names, or a combination has, as the schema's type: 1e-4 is a number.

    Args:
        key: of the schema.
        value: one, or a list.
        where: they were written, for messages.

    Raises:
        UserError: an unknown key (the nearest is offered), or a value of another type.
    """
    refuse_unknown_key(key, where)
    values = value if isinstance(value, list) else [value]
    if odd := next(filter(None, (describe_odd_number(key, each) for each in values)), None):
        raise UserError(f"{where}: {key}: {odd}")
    kind: Any = Params.model_fields[key].annotation
    try:
        return [TypeAdapter(kind).validate_python(each) for each in values]
    except ValidationError as error:
        said = error.errors()[0]
        raise UserError(f"{where}: {key}: {said['msg'].lower()}, got {said['input']!r}") from None


def _read_override(key: str, text: str) -> object:
    if text in ("", "~", "null"):
        return None
    try:
        loader = Loader(text)
        node = loader.get_single_node()
        listed = isinstance(node, yaml.SequenceNode) and node.flow_style  # [a, b]; a folder may be called "- old"
        read = listed or getattr(node, "style", None) in ("'", '"')
        if node is not None and read and not text[node.end_mark.index :].strip():  # the end was taken for no comment
            keep_written(key, node)
            return loader.construct_document(node)
    except (yaml.YAMLError, ValueError):
        pass  # a folder may be called [old
    if text.startswith("[") and "]" not in text and key not in PATHS:
        raise UserError(f"--set {key}={text}: the closing bracket of the list is missing; write {key}={text}]")
    return text


def _rules(layer: dict, path: str) -> list[dict]:
    rules = layer.get("exclude") or []
    if not isinstance(rules, list) or not all(isinstance(rule, dict) and rule for rule in rules):
        raise UserError(f"{path}: exclude: write a list of combinations, such as [{{variant: frozen, seed: [1, 2]}}]")
    return rules


def _matches(point: dict, rule: dict) -> bool:
    """Whether a combination is one that a rule leaves out; a key that no file sets has its default."""
    default = {key: Params.model_fields[key].default for key in rule}
    return all(read_values(key, (default | point)[key], "params")[0] in values for key, values in rule.items())


def from_namespace(namespace: dict) -> Params:
    """Collect the params a notebook's cells set, papermill's injected cell included, from its ``globals()``.

    Raises:
        UserError: a plain value has a name that is no key of the schema, or as :func:`validate_params`.
    """
    plain = (str, int, float, bool, list, tuple, type(None))
    given = {key: value for key, value in namespace.items() if not key.startswith("_") and isinstance(value, plain)}
    given.pop("In", None)  # IPython's own history
    for key in given:
        refuse_unknown_key(key, "the notebook's parameters", f"call a variable of your own _{key}")
    return validate_params(given, "the notebook's parameters").resolved()
