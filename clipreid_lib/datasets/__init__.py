"""Data sets: every one becomes one table, one row per image.

Columns of the table (the contract the rest of the library relies on):

==================  =======  ==========================================================================
``path``            str      image file, relative to the data root, with forward slashes
``identity``        int      the person
``aspect``          str      ``dorsal_r``, ``dorsal_l``, ``palmar_r`` or ``palmar_l``
``session``         int      capture burst, counted from 0 within (identity, aspect)
``camera``          int      always 0 here: the hand data sets have one camera
``age``             int      years
``gender``          str      as the data set writes it
``skin_color``      str      as the data set writes it
``accessories``     bool     a ring or the like is in the picture
``nail_polish``     bool
``irregularities``  bool
==================  =======  ==========================================================================

``table.attrs["dataset"]`` names the data set, ``table.attrs["missing"]`` counts files the metadata names
but the disk lacks.
"""

import os
from pathlib import Path

import pandas as pd

from clipreid_lib.datasets import demo, eleven_k
from clipreid_lib.errors import UserError
from clipreid_lib.params import Params, project_path

READERS = {"11k": eleven_k.read, "demo": eleven_k.read}  # the demo hands are written in 11k Hands' layout


def load_images(dataset: str, root: str | Path, aspect: str | None = None, allow_missing: bool = False) -> pd.DataFrame:
    """Read a data set's metadata into one table; no image is opened.

    Args:
        dataset: ``11k`` or ``demo``.
        root: folder that holds the data set.
        aspect: keep this aspect only; all of them where None.
        allow_missing: leave out images whose file is absent instead of refusing.

    Returns:
        The table described in this module's docstring, sorted by path.

    Raises:
        UserError: unknown data set or aspect, missing root, broken metadata, or files absent.
    """
    if dataset not in READERS:
        raise UserError(f"dataset: {dataset!r} is unknown; allowed: {', '.join(READERS)}")
    root = _folder(root)
    table = READERS[dataset](root, allow_missing)
    table.attrs["dataset"] = dataset
    if aspect is not None:
        table = table[table["aspect"] == aspect].reset_index(drop=True)
        if table.empty:
            raise UserError(f"aspect: {root} holds no image of {aspect!r}")
    return table


def locate(params: Params) -> Path:
    """Return the data root of a run, drawing the demo hands first where they are not there yet.

    Raises:
        UserError: no data root was given and none lies at the usual place.
    """
    if params.dataset == "demo":
        return demo.prepare(params, project_path(params.outputs_root))
    return _folder(project_path(params.data_root or f"data/{params.dataset}"))


def _folder(root: str | Path) -> Path:
    if not os.path.isdir(root):  # also where a folder above it may not be entered
        raise UserError(f"data_root: {root} is not a folder; {eleven_k.WHERE}")
    return Path(root)
