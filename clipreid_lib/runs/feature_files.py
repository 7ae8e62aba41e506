"""Files of features, an image's path and its features per row: ``clipreid embed`` writes, ``clipreid score`` reads.

Another program may have made those that are read, and any program may read those that are written.
"""

import importlib.util
import json
import re
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors
import safetensors.numpy
import torch

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.base.files import replacing, write_csv
from clipreid_lib.data.contract import OPTIONAL, REQUIRED
from clipreid_lib.runs.sources import read_source

FORMATS = (".npz", ".csv", ".parquet", ".safetensors")
TEXT = {"path": str, "aspect": str}  # columns of a CSV that stay as they are written
NUMBERED = re.compile(r"(.*?)\d+")
NO_PATHS = "has no column path, which names each row's image relative to the data root"
NO_NUMBERS = "has no columns of features, which are called alike and end in numbers, such as embedding_0, embedding_1"


class FeaturesFile(NamedTuple):
    """What a file holds: columns about images, ``path`` among them, and their features, (N, D) float32."""

    table: pd.DataFrame
    values: np.ndarray


def embed(run: str, source: str, out: str) -> str:
    """Embed the images of a source and write them with the columns of the data contract; return what to print.

    ========================  =========================================================================
    ``.npz``                  an array per column, and ``embedding``, (N, D) float32; ``checkpoint``
    ``.csv``                  the columns, then ``embedding_0`` and so on, nine digits: all a float32 has
    ``.parquet``              the columns, then ``embedding``, a list of D float32; ``checkpoint`` in its metadata
    ``.safetensors``          ``embedding``, (N, D); its metadata's ``facts`` hold columns and ``checkpoint`` as JSON
    ========================  =========================================================================

    Args:
        run: a run's folder, or the name of a backbone, such as ``embedded``, for a frozen one.
        source: as :func:`clipreid_lib.runs.sources.read_source` takes it.
        out: the file, whose ending says the format.

    Raises:
        UserError: another ending, pyarrow is not installed for parquet, the run or the source cannot be read, an image
            cannot be read, or the file cannot be written.
    """
    path = Path(out).expanduser()
    _check_ending(path, f"--out {out}", "write")
    from clipreid_lib.runs.recognizer import Recognizer  # here: reading needs no network and none of its pages

    table, root = read_source(source)
    table = table[[name for name in (*REQUIRED, *OPTIONAL) if name in table]]  # a CSV of one's own may hold more
    recognizer = Recognizer.load(run)
    values = recognizer.embed(root / image for image in table["path"])
    _write(path, table, values.numpy(), recognizer.checkpoint)
    missing = table.attrs.get("missing", 0)
    absent = f"; {counted(missing, 'image')} that the data set names are not there" if missing else ""
    return f"{path}: {counted(len(table), 'image')}, {values.shape[1]} numbers each, unit length{absent}"


def _write(path: Path, table: pd.DataFrame, values: np.ndarray, checkpoint: str) -> None:
    match path.suffix.lower():
        case ".csv":
            numbers = pd.DataFrame(values, columns=[f"embedding_{place}" for place in range(values.shape[1])])
            write_csv(path, pd.concat([table, numbers.map("{:.9g}".format)], axis=1))
        case ".safetensors":
            columns = json.loads(table.to_json(orient="split", index=False))
            facts = {"kind": "embeddings", "checkpoint": checkpoint, **columns}
            checkpoints.save(path, {"embedding": torch.from_numpy(values)}, facts)
        case ".npz":
            columns = {name: _plain(column) for name, column in table.items()}
            with replacing(path) as temporary, open(temporary, "wb") as file:  # savez would add .npz to a path
                np.savez_compressed(file, **columns, embedding=values, checkpoint=checkpoint)
        case ".parquet":
            import pyarrow
            from pyarrow import parquet

            made = pyarrow.Table.from_pandas(table, preserve_index=False)
            lists = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.ravel()), values.shape[1])
            made = made.append_column("embedding", lists)
            made = made.replace_schema_metadata({**(made.schema.metadata or {}), b"checkpoint": checkpoint.encode()})
            with replacing(path) as temporary:
                parquet.write_table(made, temporary)


def _plain(column: pd.Series) -> np.ndarray:
    """Return a column as NumPy reads it without pickle: null becomes NaN, or the empty text."""
    kind = {"b": bool, "i": np.int64, "f": np.float64}.get(getattr(column.dtype, "kind", "O"))
    if kind is None:
        return column.fillna("").to_numpy(str)
    return column.to_numpy(float, na_value=np.nan) if column.isna().any() else column.to_numpy(kind)


def read_features(path: Path) -> FeaturesFile:
    """Read what ``clipreid embed --out`` writes, or a CSV with a column ``path`` and columns that end in numbers.

    Raises:
        UserError: another ending, a file that cannot be read, no paths, no features, features of several widths, a
            feature that is not finite, or one whose numbers are all 0, which has no cosine.
    """
    if path.suffix.lower() in FORMATS and not path.is_file():
        raise UserError(f"{path}: is not there")
    _check_ending(path, str(path), "give")
    read = {".csv": _read_csv, ".npz": _read_npz, ".parquet": _read_parquet, ".safetensors": _read_safetensors}
    try:
        table, values = read[path.suffix.lower()](path)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except Exception as error:  # each library has kinds of its own, for a damaged file some of them undocumented
        raise UserError(f"{path}: cannot be read ({' '.join(str(error).split()) or type(error).__name__})") from None
    if "path" not in table:
        raise UserError(f"{path}: {NO_PATHS}")
    empty = table["path"].isna() | (table["path"].astype(str).str.strip() == "")
    if empty.any():
        raise UserError(f"{path}: path is empty in row {int(empty.to_numpy().argmax()) + 1} of {len(table):,}")
    if values.ndim != 2 or values.dtype.kind not in "fiu" or not values.shape[1]:
        kind = f"of shape {values.shape}, type {values.dtype}"
        raise UserError(f"{path}: embedding is {kind}; it must be a row of numbers per image, all of one width")
    if len(table) != len(values) or not len(table):
        raise UserError(f"{path}: names {counted(len(table), 'image')} and has {len(values):,} rows of features")
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite, and refused
        values = values.astype(np.float32)
    for wrong, what in ((~np.isfinite(values).all(axis=1), "are not all finite"), (~values.any(axis=1), "are all 0")):
        if wrong.any():
            count = counted(int(wrong.sum()), "row")
            raise UserError(f"{path}: the features of {table['path'].iloc[wrong.argmax()]} {what} ({count} so)")
    return FeaturesFile(table.assign(path=table["path"].astype(str)), values)


def _check_ending(path: Path, name: str, verb: str) -> None:
    """Refuse a file of another format, or of one whose package is not installed; a message names it and what to do."""
    if path.suffix.lower() not in FORMATS or path.is_dir():
        raise UserError(f"{name}: {verb} a file that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if path.suffix.lower() == ".parquet" and not importlib.util.find_spec("pyarrow"):
        raise UserError(f"{name}: parquet needs pyarrow (pip install pyarrow)")


def _read_csv(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)  # rows with more cells than the header
        try:
            table = pd.read_csv(path, dtype=TEXT, index_col=False, low_memory=False)
        except pd.errors.ParserWarning:
            raise UserError("has rows with more cells than the header has columns") from None
    if "path" not in table:
        raise UserError(NO_PATHS)
    stems: dict[str, list[str]] = {}
    table = table.loc[:, ~table.columns.str.match(r"Unnamed: \d+$")]  # pandas' word for a column without name: an index
    for name in table.columns.difference(REQUIRED, sort=False):
        if found := NUMBERED.fullmatch(name):
            stems.setdefault(found[1], []).append(name)
    if not stems:
        raise UserError(NO_NUMBERS)
    if len(stems) > 1:
        several = ", ".join(names[0] for names in stems.values())
        raise UserError(f"columns that end in numbers are called in {len(stems)} ways ({several}); keep the features'")
    (columns,) = stems.values()
    for name in columns:
        wrong = pd.to_numeric(table[name], errors="coerce").isna()
        if wrong.any():
            row = int(wrong.argmax())
            said = "empty or nan" if pd.isna(table[name][row]) else repr(table[name][row])
            raise UserError(f"row {row + 2}: {name} is {said}; it must be a number")
    return table.drop(columns=columns), table[columns].to_numpy(float)


def _read_npz(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    with np.load(path) as file:  # pickle is not allowed
        if lacking := {"path", "embedding"} - set(file):
            named = " and none ".join(sorted(lacking))
            raise UserError(f"has no array {named}; path (N,) and embedding (N, D) are needed")
        kept = [name for name in REQUIRED if name in file]
        columns = {name: file[name] for name in kept}
        values = file["embedding"]
    if columns["path"].dtype.kind != "U" or columns["path"].ndim != 1:
        raise UserError("path must be an array of text, (N,)")
    return pd.DataFrame({name: each for name, each in columns.items() if each.shape == columns["path"].shape}), values


def _read_parquet(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    table = pd.read_parquet(path)
    if "embedding" not in table:
        raise UserError("has no column embedding, a list of numbers per image")
    widths = sorted({len(each) for each in table["embedding"]})
    if len(widths) > 1:
        raise UserError(f"embedding has rows of {widths[0]} and of {widths[-1]} numbers; all must be of one width")
    return table.drop(columns="embedding"), np.stack(table["embedding"].tolist())


def _read_safetensors(path: Path) -> tuple[pd.DataFrame, np.ndarray]:
    with safetensors.safe_open(path, framework="np") as file:
        facts = json.loads((file.metadata() or {}).get("facts", "{}"))
        if "embedding" not in file.keys() or not {"columns", "data"} <= set(facts):  # noqa: SIM118  not a dict
            raise UserError("has no embedding, or no columns in its facts; `clipreid embed` writes both")
        return pd.DataFrame(facts["data"], columns=facts["columns"]), file.get_tensor("embedding")
