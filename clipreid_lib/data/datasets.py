"""Data sets: every one becomes one table, one row per image, as :mod:`clipreid_lib.data.contract` says."""

import os
from pathlib import Path
from types import ModuleType

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data import contract, demo, eleven_k, folder, hd, market1501
from clipreid_lib.params.schema import BURST_GAP

MODULES: dict[str, ModuleType] = {
    "demo": demo,
    "11k": eleven_k,
    "hd": hd,
    "market1501": market1501,
    "folder": folder,
}


def summary(dataset: str) -> contract.Summary:
    """Return the facts about a data set.

    Raises:
        UserError: unknown data set.
    """
    if dataset not in MODULES:
        raise UserError(f"dataset: {dataset!r} is unknown; allowed: {', '.join(MODULES)}")
    return MODULES[dataset].SUMMARY


def load_images(
    dataset: str, root: str | Path, allow_missing: bool = False, burst_gap: int = BURST_GAP
) -> pd.DataFrame:
    """Read a data set's metadata into one table; no image is opened and nothing is downloaded.

    Args:
        dataset: ``demo``, ``11k``, ``hd``, ``market1501`` or ``folder``.
        root: folder that holds the data set.
        allow_missing: leave out images whose file is absent instead of refusing.
        burst_gap: where sessions are read off image numbers (``11k``, ``demo``), the largest step inside one.

    Returns:
        The table of :mod:`clipreid_lib.data.contract`, all aspects, sorted by path.

    Raises:
        UserError: unknown data set, missing root, broken metadata, or files absent.
    """
    facts = summary(dataset)
    if not os.path.isdir(root):  # also where a folder above it may not be entered
        raise UserError(f"data_root: {root} is not a folder; {facts.where}")
    root = Path(root)
    if dataset in ("demo", "11k"):  # the demo hands are written in 11k Hands' layout
        table = eleven_k.read(root, allow_missing, burst_gap)
    else:
        table = MODULES[dataset].read(root, allow_missing)
    table = contract.check_table(table, root)
    table.attrs = {"named": len(table), "missing": 0, **table.attrs, "dataset": dataset}
    return table
