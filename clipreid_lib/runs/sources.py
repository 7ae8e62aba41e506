"""Images that a command is pointed at: a folder of one's own, or a part of a data set."""

from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data import datasets
from clipreid_lib.params.schema import ASPECTS

FORMS = "a folder (PERSON/IMAGE, PERSON/ASPECT/IMAGE, or one CSV) or DATASET[:ASPECT]=FOLDER"


def split_source(text: str) -> tuple[str, str, str]:
    """Split ``DATASET[:ASPECT]=FOLDER`` into data set, aspect and folder, empty where it has none of them.

    Text of another form is a folder alone: of no data set, or of one that is not known.
    """
    name, equals, folder = text.partition("=")
    dataset, _, aspect = name.partition(":")
    return (dataset, aspect, folder) if equals and dataset in ASPECTS else ("", "", text)


def read_source(text: str) -> tuple[pd.DataFrame, Path]:
    """Read which images a source names. Paths start where the command is called; no image is opened.

    Args:
        text: a folder as data set ``folder`` reads it, or ``DATASET=FOLDER`` or ``DATASET:ASPECT=FOLDER``.

    Returns:
        The table of :mod:`clipreid_lib.data.contract`, sorted by path, and the folder that its paths start from. Images
        that the data set names and the disk lacks are left out; ``attrs`` counts them as ``missing``.

    Raises:
        UserError: the source is misspelt or no folder, its metadata is broken, or it has no image of that aspect.
    """
    root, dataset, aspect = Path(text).expanduser(), "folder", ""
    if not root.is_dir():
        dataset, aspect, place = split_source(text)
        root = Path(place).expanduser()
        if not dataset or not root.is_dir():
            raise UserError(f"{text}: names no images; give {FORMS}; data sets: {', '.join(ASPECTS)}")
    table = datasets.load_images(dataset, root, allow_missing=True)
    if aspect and aspect not in set(table["aspect"]):
        raise UserError(f"{text}: has no aspect {aspect}; it has {', '.join(sorted(table['aspect'].unique()))}")
    return table[table["aspect"] == aspect].reset_index(drop=True) if aspect else table, root.resolve()
