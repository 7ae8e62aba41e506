"""Embeddings for other programs: ``clipreid embed`` writes one row per image, with all that is known of the image."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.base.files import replacing, write_csv
from clipreid_lib.data.contract import OPTIONAL, REQUIRED
from clipreid_lib.runs.recognizer import Recognizer
from clipreid_lib.runs.sources import read_source

FORMATS = (".npz", ".csv", ".parquet", ".safetensors")


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
    if path.suffix.lower() not in FORMATS or path.is_dir():
        raise UserError(f"--out {out}: write a file that ends in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if path.suffix.lower() == ".parquet" and not importlib.util.find_spec("pyarrow"):
        raise UserError(f"--out {out}: parquet needs pyarrow (pip install pyarrow)")
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
