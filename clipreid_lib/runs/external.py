"""`clipreid score`: makes runs of features that another program made, to be tested as every other run is.

Params of such a run say ``variant: external``; the features' name stands as ``model``, the beginning of their SHA-256
as ``pretrained``. So other features under the same name make another run.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd
import torch

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.data import protocols
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.params import read
from clipreid_lib.params.check import validate_params
from clipreid_lib.params.recipes import ALIASES, EMBEDDED
from clipreid_lib.params.run_ids import DATA_KEYS
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import EXTERNAL, GIVEN
from clipreid_lib.runs.feature_files import FeaturesFile, read_features
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import given_features
from clipreid_lib.scores.features import Embeddings

KEYS = DATA_KEYS | {"experiment"}  # that --set may change; nothing else says anything of features
NAME = re.compile(r"\w[\w.+-]{0,79}")  # part of a folder's name


def prepare(file: str, name: str, settings: Sequence[str]) -> tuple[list[Params], list[str]]:
    """Keep features in the folders of the runs that will test them.

    Args:
        file: of features, as :func:`clipreid_lib.runs.feature_files.read_features` reads it.
        name: of what made the features, for folders and tables.
        settings: ``key=value``, of ``KEYS`` alone; a list makes several runs.

    Returns:
        The runs' params, and a line for each with what was found.

    Raises:
        UserError: as :func:`read_features` and :func:`match`; a name or a key that is not allowed; the data set cannot
            be read; an image that the protocol needs has no features.
    """
    if not NAME.fullmatch(name):
        raise UserError(f"--as {name}: write at most 80 letters, digits and . _ + -, such as timm-resnet50")
    if name in (EMBEDDED, *ALIASES):
        raise UserError(f"--as {name}: is the name of a model that runs start from; give the features another")
    values, source = read.compose([], settings)
    for key in values:
        if key not in KEYS:
            read.refuse_unknown_key(key, source[key])
            raise UserError(f"{source[key]}: says nothing of features; score takes {', '.join(sorted(KEYS))}")
    path = Path(file).expanduser()
    chosen, found = read.expand(values, source), read_features(path)
    made: dict[Params, Embeddings] = {}
    lines = []
    for params in chosen:
        survey = Run(params.data_only().resolved(), params.survey_folder, fixed=False)
        features, told = match(found, survey.table, survey.data_root, file)
        asked = params.protocol, params.aspect, params.draw_seed, params.validation, params.draws
        require(features, protocols.build(survey.table, *asked), params, file)
        about = {key: getattr(params, key) for key in KEYS} | {"variant": EXTERNAL, "model": name}
        about["pretrained"] = given_features.name_weights(given_features.hash_features(features))
        mine = validate_params(about)
        made[mine] = features
        lines.append(f"{mine.run_id}: {told}")
    for mine, features in made.items():
        if not (mine.folder / GIVEN).is_file():
            given_features.save(mine.folder, features, path.name)
    return [*made], lines


def match(found: FeaturesFile, table: pd.DataFrame, root: Path, file: str) -> tuple[Embeddings, str]:
    """Find the images of a data set among the features of a file.

    Args:
        found: what the file holds. Its paths start at the data root, or are absolute and lie below it.
        table: the data set's image table.
        root: its data root.
        file: name of the file, for messages.

    Returns:
        The features of the data set's images, float32 (N, D), in the order of the table; and a line that counts them
        and those of other images, which are left out.

    Raises:
        UserError: an image stands twice; none is of the data set; an identity or aspect that the file gives is not the
            data set's.
    """
    paths = pd.Series([_make_relative(path, root) for path in found.table["path"]], dtype=str)
    if (twice := paths.duplicated()).any():
        raise UserError(f"{file}: image {paths[twice].iloc[0]!r} stands twice; give one row per image")
    rows = pd.Index(paths).get_indexer(table["path"])
    there = table[rows >= 0]
    if there.empty:
        want, got = table["path"].iloc[0], paths.iloc[0]
        raise UserError(f"{file}: none of its images is of this data set, whose paths are as {want!r}, not {got!r}")
    rows = rows[rows >= 0]
    about = found.table.iloc[rows]
    for column in ("identity", "aspect") if {"identity", "aspect", "session", "camera"} <= set(about) else ():
        wrong = about[column].astype(str).to_numpy() != there[column].astype(str).to_numpy()
        if wrong.any():
            place = int(wrong.argmax())
            theirs, ours = about[column].iloc[place], there[column].iloc[place]
            told = f"{there['path'].iloc[place]} has {column} {theirs}, in the data set {ours}"
            raise UserError(f"{file}: is of another data set: {told}")
    kept = Embeddings(there["path"].tolist(), torch.from_numpy(found.values[rows].copy()))
    told = f"features of {counted(len(there), 'image')}, {found.values.shape[1]:,} numbers each"
    extra = paths[~paths.isin(table["path"])]
    if len(extra):
        told += f"; left out: {counted(len(extra), 'image')} that the data set has not, the first is {extra.iloc[0]}"
    return kept, told


def require(features: Embeddings, manifest: Manifest, params: Params, file: str) -> None:
    """Check that every image has features that the protocol tests or, with a validation, holds out and compares with.

    Raises:
        UserError: naming the first that has none, and how many there are.
    """
    needed = [manifest.in_tests, manifest.validation]
    if not manifest.validation.empty and not manifest.validates_people:  # they are looked for among the training images
        needed.append(manifest.train)
    paths = pd.concat(needed)["path"].drop_duplicates()
    lacking = paths[~paths.isin(features.paths)]
    if len(lacking):
        count = f"{len(lacking):,} of {len(paths):,} images that protocol {params.protocol} needs"
        hint = "every one of them is to be embedded"
        raise UserError(f"{file}: has no features of {count}, the first is {lacking.iloc[0]}; {hint}")


def _make_relative(path: str, root: Path) -> str:
    """Return a path as the image table writes it; what lies elsewhere stays as it is."""
    path = path.replace("\\", "/")
    if not PurePosixPath(path).is_absolute() and not PureWindowsPath(path).is_absolute():
        return PurePosixPath(path).as_posix()
    for start in (root, root.resolve()):
        if PurePosixPath(path).is_relative_to(start.as_posix()):
            return PurePosixPath(path).relative_to(start.as_posix()).as_posix()
    return path
