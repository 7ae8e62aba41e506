"""What every data set keeps: a summary of facts, and a table whose columns are checked in one place.

A reader is a module with a ``SUMMARY`` and a function ``read(root, allow_missing)`` that returns the table, its columns
and rows in any order; :func:`check_table` sorts them and sets types. ``allow_missing`` leaves out what the disk lacks.
A reader raises UserError where something is absent or broken, naming it.

The table has one row per image, sorted by path. Its columns are the contract the rest of the library relies on:

==================  =======  ==========================================================================
``path``            str      image file, relative to the data root, with forward slashes; unique
``identity``        int      the person's number (in a :class:`~clipreid_lib.data.manifest.Manifest`: the label)
``aspect``          str      which view of the hand, for example ``dorsal_r``
``session``         Int64    capture burst, numbered within (identity, aspect); null where unknown
``camera``          int      0 where the data set has one camera; known of every image, or of none (then 0)
==================  =======  ==========================================================================

and whichever of these the data set brings:

==================  =======  ==========================================================================
``age``             Int64    years
``gender``          str      as the data set writes it
``skin_color``      str      as the data set writes it
``accessories``     bool     a ring or the like is in the picture
``nail_polish``     bool
``irregularities``  bool
``name``            str      what the person is called in folders or files that do not count people
``split``           str      the data set's own parts: ``train``, ``query``, ``gallery``, ``distractor``
                             (for galleries alone, matches nobody) or ``junk`` (takes no part); else empty
==================  =======  ==========================================================================

``table.attrs`` holds ``dataset`` (its name), ``named`` and ``missing`` (how many images the metadata names, and
how many of them the disk lacks), and where it lacks some ``absent`` (paths of the first three).
"""

import os
import re
import unicodedata
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

import pandas as pd
from PIL import Image

from clipreid_lib.base.errors import UserError

REQUIRED = ("path", "identity", "aspect", "session", "camera")
FLAGS = ("accessories", "nail_polish", "irregularities")
OPTIONAL = ("age", "gender", "skin_color", *FLAGS, "name", "split")
NOWHERE = "is a link that leads nowhere; mend it or delete it"
SPLITS = ("", "train", "query", "gallery", "distractor", "junk")
# Cells that programs write where nothing is known. A person may be called Nan or Na.
UNKNOWN = (
    *("", "nan", "NaN", "-nan", "-NaN", "NaT", "None", "none", "NONE", "NULL", "Null", "null", "NA", "N/A", "n/a"),
    *("<NA>", "#N/A", "#N/A N/A", "#NA", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"),
)

Image.init()
STUBS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}  # Pillow knows them by their first bytes and decodes none alone
# What a folder of images may hold: every suffix that this Pillow reads.
SUFFIXES = {suffix for suffix, kind in Image.registered_extensions().items() if kind in {*Image.OPEN} - STUBS}
# Pictures that telephones and cameras write and Pillow may not read: passing them over would lose people.
UNREADABLE = {
    *(".3fr", ".arw", ".avif", ".cr2", ".cr3", ".crw", ".dcm", ".dcr", ".dng", ".emf", ".eps", ".erf", ".exr"),
    *(".fff", ".gpr", ".heic", ".heics", ".heif", ".heifs", ".hif", ".iiq", ".j2k", ".jp2", ".jpm", ".jps"),
    *(".jxl", ".jxr", ".kdc", ".mef", ".mos", ".mrw", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"),
    *(".rwl", ".sr2", ".srf", ".srw", ".svg", ".webp", ".wmf", ".x3f", ".xcf"),
} - SUFFIXES


@dataclass(frozen=True)
class Summary:
    """Facts about a data set that a paper would state."""

    title: str
    licence: str
    citation: str
    where: str  # how a person gets it, and what to point ``data_root`` at; nothing is ever downloaded
    protocol: str  # the protocol its papers use
    size: tuple[int, int] | None = None  # (width, height) of every image in pixels; None where they differ
    counts: dict[str, int] = field(default_factory=dict)  # of the complete set: images, identities, each part or aspect
    # By aspect, (images, identities) of a published split's parts, for the audit to compare with.
    published: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)


def check_table(table: pd.DataFrame, source: Path) -> pd.DataFrame:
    """Check a reader's table, read from ``source``, and return it in the contract's types and order.

    Raises:
        UserError: an image stands twice, its path leaves the data root, or an image or aspect is spelt in two ways.
    """
    check_paths(table["path"], str(source))
    twice = table["path"].duplicated()
    if twice.any():
        raise UserError(f"{source}: image {table.loc[twice, 'path'].iloc[0]!r} stands twice")
    for column, what in (("path", "image"), ("aspect", "aspect")):
        refuse_two_spellings(table[column].unique(), source, what)
    table["aspect"] = [re.sub(r"[^\S ]", " ", unicodedata.normalize("NFC", each)) for each in table["aspect"]]
    extra = [name for name in table if name not in REQUIRED]
    table = table[[*REQUIRED, *extra]].astype({"identity": int, "session": "Int64", "camera": int})
    return table.sort_values("path").reset_index(drop=True)


def check_paths(paths: pd.Series, source: str) -> None:
    """Check that every path is plainly written and stays inside the data root.

    Raises:
        UserError: naming the source and the first path that does not.
    """
    for path in paths.astype(str):
        what = None
        if not path.isprintable():
            what = "holds characters that cannot be printed"
        elif not path or path.startswith("/") or re.match(r"[A-Za-z]:", path):
            what = "must be relative to the data root"
        elif ".." in path.split("/"):
            what = "leaves the data root; `..` is not allowed"
        elif "\\" in path:
            what = "must be written with forward slashes"
        elif PurePosixPath(path).as_posix() != path:
            what = f"must be written plainly: {PurePosixPath(path).as_posix()!r}"
        if what:
            raise UserError(f"{source}: path {path!r} {what}")


def refuse_two_spellings(names: Iterable[str], source: Path, what: str) -> None:
    """Refuse names that differ and read as one: by capitals, blanks or the way a letter is coded, or as 7, 07 and 7.0.

    Raises:
        UserError: naming the source and the two.
    """
    seen: dict[str, str] = {}
    for name in names:
        seen_by_eye = "".join(each for each in name if each.isprintable() or each.isspace())
        form = " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen_by_eye).casefold()).split())
        number = re.fullmatch(r"0*([0-9]+)(\.0*)?", form)
        other = seen.setdefault(number[1] if number else form, name)
        if other != name:
            alike = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)
            one, two = map(ascii if alike else repr, (other, name))
            raise UserError(f"{source}: {one} and {two} would be one {what}; write each {what} one way")


def is_number(text: str) -> bool:
    """Whether a person's name is a whole number that a computer can count with."""
    return text.isascii() and text.isdecimal() and len(text) <= 15


def image_files(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted; hidden files and other kinds of file are passed over.

    Links are followed, to files and to folders, but not into a folder that holds the link. A link to an image that is
    not there is listed, and so an absent image to :func:`drop_absent` (git-annex and DVC leave such links).

    Raises:
        UserError: a folder cannot be listed, another link leads nowhere (it may have been a folder of images), or an
            image is of a format that cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")

    files = []
    above: dict[str, tuple[str, ...]] = {str(folder): (os.path.realpath(folder),)}  # own place, and those on the way
    for here, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in folders.copy():
            place = os.path.realpath(os.path.join(here, name))
            if any(f"{own}{os.sep}".startswith(f"{place}{os.sep}") for own in above[here]):
                folders.remove(name)
            above[os.path.join(here, name)] = (*above[here], place)
        for file in (Path(here, name) for name in names if not name.startswith(".")):
            if file.suffix.lower() in SUFFIXES:
                files.append(file)
            elif file.suffix.lower() in UNREADABLE:
                raise UserError(f"{file}: cannot be read; convert it to JPEG or PNG")
            elif not file.exists():
                raise UserError(f"{file}: {NOWHERE}")
    return sorted(files)


def refuse_rows(wrong: pd.Series, column: pd.Series, name: str, source: Path, rule: str) -> None:
    """Refuse a file whose column (rows,) breaks a rule where ``wrong`` (rows,) is true.

    Raises:
        UserError: naming the file, the first such row, the column's name and the rule.
    """
    if wrong.any():
        row = wrong.idxmax()
        raise UserError(f"{source}: row {row + 2}: {name} is {column[row]!r}; {rule}")


def parse_whole_numbers(column: pd.Series, name: str, source: Path, nullable: bool = False) -> pd.Series:
    """Turn a text column into whole numbers, (rows,) Int64; an empty cell becomes null where that is allowed.

    Raises:
        UserError: as :func:`refuse_rows`, whose arguments it takes.
    """
    text = column.astype(str).str.strip()
    wrong = ~text.str.fullmatch(r"-?[0-9]{1,15}") & ~(nullable & (text == ""))
    refuse_rows(wrong, column, name, source, "it must be a whole number")
    return pd.to_numeric(text.where(text != "", None)).astype("Int64")


def parse_flags(column: pd.Series, name: str, source: Path) -> pd.Series:
    """Turn a text column of 0 and 1 (or true and false) into booleans, (rows,); an empty cell is false.

    Raises:
        UserError: as :func:`refuse_rows`, whose arguments it takes.
    """
    known = {"": False, "0": False, "1": True, "false": False, "true": True}
    values = column.astype(str).str.strip().str.lower().map(known)
    refuse_rows(values.isna(), column, name, source, "it must be 0 or 1")
    return values.astype(bool)


def read_csv(source: Path, where: str) -> pd.DataFrame:
    """Read a CSV as text, nothing guessed.

    Raises:
        UserError: it is missing (then it says ``where`` to get it) or no CSV.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # rows with more cells than the header
            return pd.read_csv(source, dtype=str, keep_default_na=False, index_col=False)
    except FileNotFoundError:
        raise UserError(f"{source}: not found; {where}") from None
    except pd.errors.ParserWarning:
        raise UserError(f"{source}: has rows with more cells than the header has columns") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{source}: cannot be read as CSV ({' '.join(str(error).split())})") from None


def read_kept(file: str | Path | IO[bytes]) -> pd.DataFrame:
    """Read an image table that was kept as CSV, with the contract's types.

    Raises:
        ValueError, OSError: it is no such file.
    """
    table = pd.read_csv(file, keep_default_na=False, dtype=str)
    for name in {"identity", "subject", "camera"} & set(table):
        table[name] = table[name].astype(int)
    for name in {"session", "age"} & set(table):
        table[name] = pd.to_numeric(table[name].where(table[name] != "", None)).astype("Int64")
    for name in set(FLAGS) & set(table):
        table[name] = table[name] == "True"
    return table


def drop_absent(table: pd.DataFrame, root: Path, allow_missing: bool, named_in: str) -> pd.DataFrame:
    """Leave out rows whose image, relative to root, the disk lacks; ``attrs`` counts images ``named`` and ``missing``.

    Raises:
        UserError: images that a file (``named_in``) names are absent and that was not allowed, or none is there at all.
    """
    present = table["path"].map(lambda path: os.path.isfile(root / path)).astype(bool)
    missing = int((~present).sum())
    if missing and not allow_missing:
        first = table.loc[~present, "path"].iloc[0]
        forms = unicodedata.normalize("NFC", first), unicodedata.normalize("NFD", first)
        other = next((form for form in forms if (root / form).is_file()), None)
        hint = "set allow_missing: true to work with the rest"
        if other:
            hint = f"the file is called {other!a}, with its accents coded in another way; write it so"
            first = ascii(first)
        raise UserError(
            f"{root}: {missing:,} of {len(table):,} images named in {named_in} are absent, the first is {first}; {hint}"
        )
    if not present.any():
        raise UserError(f"{root}: none of the images named in {named_in} is there")
    kept = table[present].copy()
    kept.attrs.update(named=len(table), missing=missing)
    if missing:
        kept.attrs["absent"] = table.loc[~present, "path"].head(3).tolist()
    return kept
