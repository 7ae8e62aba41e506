"""Reader of 11k Hands: ``HandInfo.csv`` and the folder ``Hands``.

M. Afifi, "11K Hands: gender recognition and biometric identification using a large dataset of hand images",
Multimedia Tools and Applications, 2019. 11,076 photographs (1600x1200) of 190 subjects; free for reasonable
academic fair use.
"""

import re
from pathlib import Path

import pandas as pd

from clipreid_lib.errors import UserError

WHERE = (
    "11k Hands is one download from its authors (search for '11K Hands dataset Afifi'); "
    "give the folder that holds HandInfo.csv and Hands/ as data_root"
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
# Photographs of one burst carry adjacent numbers (97 % of neighbours in one hand's list differ by 1); a jump
# beyond this many numbers starts a new capture session.
BURST_GAP = 10


def read(root: Path, allow_missing: bool) -> pd.DataFrame:
    """Read 11k Hands' metadata into the table of :mod:`clipreid_lib.datasets`.

    Args:
        root: folder with ``HandInfo.csv`` and ``Hands/``.
        allow_missing: leave out rows whose image file is absent.

    Raises:
        UserError: the CSV is missing or broken, or image files are absent and that was not allowed.
    """
    source = root / "HandInfo.csv"
    try:
        raw = pd.read_csv(source, dtype=str, keep_default_na=False)
    except FileNotFoundError:
        raise UserError(f"{source}: not found; {WHERE}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be read as CSV ({' '.join(str(error).split())})") from None
    absent = [name for name in COLUMNS if name not in raw.columns]
    if absent:
        raise UserError(f"{source}: lacks the column {absent[0]!r}; it must have {', '.join(COLUMNS)}")
    table = raw[list(COLUMNS)].rename(columns=COLUMNS)

    table["identity"] = _identities(table["identity"], source)
    unknown = table.loc[~table["aspect"].isin(list(ASPECTS)), "aspect"]
    if len(unknown):
        raise UserError(
            f"{source}: row {unknown.index[0] + 2}: aspectOfHand is {unknown.iloc[0]!r}; allowed: {', '.join(ASPECTS)}"
        )
    table["aspect"] = table["aspect"].map(ASPECTS)
    for name in ("age", "accessories", "nail_polish", "irregularities"):
        try:
            table[name] = table[name].astype(int)
        except ValueError as error:
            raise UserError(f"{source}: column {name!r} must hold whole numbers ({error})") from None
    flags = ["accessories", "nail_polish", "irregularities"]
    table[flags] = table[flags].astype(bool)
    if table["path"].duplicated().any():
        raise UserError(f"{source}: imageName {table['path'][table['path'].duplicated()].iloc[0]!r} stands twice")
    strange = table["path"][table["path"].str.contains(r"[/\\]|^\.", regex=True)]
    if len(strange):
        raise UserError(f"{source}: imageName {strange.iloc[0]!r} must be a plain file name inside Hands/")

    present = _present(root / "Hands", table["path"], allow_missing)
    missing = int((~present).sum())
    table = table[present].sort_values("path").reset_index(drop=True)
    if table.empty:
        raise UserError(f"{root / 'Hands'}: none of the images named in HandInfo.csv is there; {WHERE}")
    table["session"] = _sessions(table)
    table["camera"] = 0
    table["path"] = "Hands/" + table["path"]
    table.attrs["missing"] = missing
    return table


def _identities(ids: pd.Series, source: Path) -> pd.Series:
    # One row of the original reads "1200000 " and is person 1200000. Any other pair of ids that differ by
    # white space alone could be two people, so it is refused.
    raw = ids.where(ids != "1200000 ", "1200000")
    clean = raw.str.strip()
    if (clean != raw).any():
        raise UserError(f"{source}: id {raw[clean != raw].iloc[0]!r} has white space around it; mend the file")
    odd = clean[~clean.str.fullmatch(r"\d{1,15}")]
    if len(odd):
        raise UserError(f"{source}: id {odd.iloc[0]!r} is not a whole number of at most 15 digits")
    return clean.astype(int)


def _present(folder: Path, names: pd.Series, allow_missing: bool) -> pd.Series:
    there = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    present = names.isin(there)
    if not allow_missing and not present.all():
        raise UserError(
            f"{folder}: {(~present).sum():,} of {len(names):,} images named in HandInfo.csv are absent, the first "
            f"is {names[~present].iloc[0]}; set allow_missing: true to work with the rest"
        )
    return present


def _sessions(table: pd.DataFrame) -> pd.Series:
    number = table["path"].map(lambda name: int((re.findall(r"\d+", name) or ["0"])[-1]))
    frame = table[["identity", "aspect"]].assign(number=number).sort_values("number")
    hands = frame.groupby(["identity", "aspect"])["number"]
    return (hands.diff() > BURST_GAP).groupby([frame["identity"], frame["aspect"]]).cumsum().astype(int)
