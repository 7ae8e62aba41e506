"""Reader of 11k Hands: ``HandInfo.csv`` and the folder ``Hands``."""

from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.contract import (
    FLAGS,
    Summary,
    drop_absent,
    parse_flags,
    parse_whole_numbers,
    read_csv,
    refuse_rows,
)

SUMMARY = Summary(
    title="11k Hands: 11,076 photographs of the hands of 189 people (190 ids, as one is written in two ways), both "
    "sides of both hands",
    licence="free for reasonable academic fair use",
    citation="M. Afifi, 11K Hands: gender recognition and biometric identification using a large dataset of hand "
    "images. Multimedia Tools and Applications, 2019",
    where="11k Hands is one download from its authors (search for '11K Hands dataset Afifi'); "
    "give the folder that holds HandInfo.csv and Hands/ as data_root",
    protocol="mba",
    size=(1600, 1200),
    # 190 id strings are 189 people: "1200000 " and "1200000" are one.
    counts={
        **{"images": 11076, "identities": 189},
        **{"dorsal_r": 2892, "dorsal_l": 2788, "palmar_r": 2813, "palmar_l": 2583},
    },
    # MBA-Net's split, one validation image per training person taken out (arXiv 2108.02234).
    published={
        aspect: {
            **{"train": (train - people, people), "validation": (people, people)},
            **{"test": (test, tested), "query": (test - tested, tested), "gallery": (290, 290)},
        }
        for aspect, train, people, test, tested in (
            ("dorsal_r", 962, 72, 1042, 71),
            ("dorsal_l", 808, 73, 1061, 73),
            ("palmar_r", 977, 72, 988, 71),
            ("palmar_l", 1004, 76, 1023, 75),
        )
    },
)
COLUMNS = {  # the CSV's name -> ours
    "id": "identity",
    "age": "age",
    "gender": "gender",
    "skinColor": "skin_color",
    "accessories": "accessories",
    "nailPolish": "nail_polish",
    "aspectOfHand": "aspect",
    "imageName": "path",
    "irregularities": "irregularities",
}
ASPECTS = {
    "dorsal right": "dorsal_r",
    "dorsal left": "dorsal_l",
    "palmar right": "palmar_r",
    "palmar left": "palmar_l",
}


def read(root: Path, allow_missing: bool, burst_gap: int) -> pd.DataFrame:
    """Read the table of :mod:`clipreid_lib.data.contract`; for ``burst_gap`` see :func:`find_sessions`."""
    return drop_absent(read_metadata(root, burst_gap), root, allow_missing, "HandInfo.csv")


def read_metadata(root: Path, burst_gap: int) -> pd.DataFrame:
    """Read ``HandInfo.csv`` alone: every row it has, whether or not the image is there.

    Raises:
        UserError: the CSV is missing or broken.
    """
    source = root / "HandInfo.csv"
    raw = read_csv(source, SUMMARY.where)
    absent = [name for name in COLUMNS if name not in raw.columns]
    if absent:
        raise UserError(f"{source}: lacks the column {absent[0]!r}; it must have {', '.join(COLUMNS)}")
    table = raw[list(COLUMNS)].rename(columns=COLUMNS)

    # One row of the original reads "1200000 " and is person 1200000. Any other pair of ids that differ by
    # white space alone could be two people, so it is refused.
    ids = table["identity"].replace("1200000 ", "1200000")
    rule = "it must be a whole number of at most 15 digits, without white space around it"
    refuse_rows(~ids.str.fullmatch(r"[0-9]{1,15}"), ids, "id", source, rule)
    table["identity"] = ids.astype(int)
    unknown = ~table["aspect"].isin(list(ASPECTS))
    refuse_rows(unknown, table["aspect"], "aspectOfHand", source, f"allowed: {', '.join(ASPECTS)}")
    table["aspect"] = table["aspect"].map(ASPECTS)
    table["age"] = parse_whole_numbers(table["age"], "age", source)
    for name in FLAGS:
        table[name] = parse_flags(table[name], name, source)
    strange = table["path"].str.contains(r"[/\\]|^\.|^$", regex=True)
    refuse_rows(strange, table["path"], "imageName", source, "it must be a plain file name inside Hands/")
    table["session"] = find_sessions(table, burst_gap)
    table["camera"] = 0
    table["path"] = "Hands/" + table["path"]
    return table


def find_sessions(table: pd.DataFrame, burst_gap: int) -> pd.Series:
    """Cut each hand's images into capture bursts, by their file numbers (the last digits of ``path``) alone.

    The photographs carry running numbers and no time. Within one hand (identity, aspect) a burst is a run of
    numbers each at most ``burst_gap`` above the one before; a larger jump starts the next burst. In 11k Hands
    10,269 of 10,323 neighbours lie within 10, 24 are 11 to 55 apart (a pause in one sitting), and 30 are at least
    4,476 apart: somebody came back. Grey pixels correlate at 0.99 between next neighbours, 0.9 some ten numbers
    apart and 0.6 beyond 200. Runs are found among all rows of the metadata, so that a partial download does not
    tear them.

    Returns:
        (rows,) burst of each image, counted from 0 within its hand.
    """
    number = table["path"].str.extract(r"(\d{1,15})\D*$", expand=False).fillna("0").astype(int)
    frame = table[["identity", "aspect"]].assign(number=number).sort_values("number")
    hands = frame.groupby(["identity", "aspect"])["number"]
    return (hands.diff() > burst_gap).groupby([frame["identity"], frame["aspect"]]).cumsum().astype(int)
