"""Reader of anybody's own hands: one folder per person, or a CSV with the contract's columns."""

import difflib
import re
from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.contract import (
    FLAGS,
    NOWHERE,
    OPTIONAL,
    REQUIRED,
    SPLITS,
    SUFFIXES,
    UNKNOWN,
    UNREADABLE,
    Summary,
    check_paths,
    drop_absent,
    image_files,
    is_number,
    parse_flags,
    parse_whole_numbers,
    read_csv,
    refuse_rows,
    refuse_two_spellings,
)

SUMMARY = Summary(
    title="a folder of your own",
    licence="yours to state; photograph only people who agreed to it",
    citation="yours to state",
    where="give a folder with one folder of images per person (PERSON/IMAGE or PERSON/ASPECT/IMAGE), or one that "
    "holds a single CSV with the columns path and identity, as data_root",
    protocol="own",
)
ASPECT = "hand"  # where nothing names one
COUNTED = re.compile(r"[\W_]*(ids?|no|nr|num|number|index|code|name|label|s)?[\W_\d]*$")  # how a column's name may end
TAKEN = ("subject", "role", "dataset", "protocol")  # what a manifest adds


def read(root: Path, allow_missing: bool) -> pd.DataFrame:
    """Read the table of :mod:`clipreid_lib.data.contract`: from the CSV at the folder's top, else from sub-folders."""
    try:
        top = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UserError(f"{root}: cannot be listed ({error.strerror})") from None
    tables = [path for path in top if path.suffix.lower() == ".csv"]
    if len(tables) > 1:
        raise UserError(f"{root}: holds {len(tables)} CSV files ({tables[0].name}, {tables[1].name}); keep one")
    return _read_table(tables[0], allow_missing) if tables else _read_folders(root, top, allow_missing)


def _read_folders(root: Path, top: list[Path], allow_missing: bool) -> pd.DataFrame:
    stray = [path for path in top if path.suffix.lower() in SUFFIXES | UNREADABLE and not path.is_dir()]
    if stray:
        raise UserError(f"{stray[0]}: lies in no person's folder; it must be PERSON/IMAGE or PERSON/ASPECT/IMAGE")
    gone = [path for path in top if not path.exists()]
    if gone:
        raise UserError(f"{gone[0]}: {NOWHERE}")
    rows = []
    for person in filter(Path.is_dir, top):
        if person.name in UNKNOWN:
            raise UserError(f"{person}: is no person's name; a program wrote it where it knew none")
        files = image_files(person)
        if not files:
            raise UserError(f"{person}: holds no image; each person's folder needs one at least")
        for file in files:
            place = file.relative_to(person).parts
            if len(place) > 2:
                raise UserError(f"{file}: lies too deep; it must be PERSON/IMAGE or PERSON/ASPECT/IMAGE")
            rows.append((file.relative_to(root).as_posix(), person.name, place[0] if len(place) == 2 else ASPECT))
    if not rows:
        raise UserError(f"{root}: holds neither a CSV nor a person's folder; {SUMMARY.where}")
    table = pd.DataFrame(rows, columns=["path", "name", "aspect"])
    table = table.assign(identity=_number_people(table["name"], root), session=pd.NA, camera=0)
    return drop_absent(table, root, allow_missing, "its folders")


def _read_table(source: Path, allow_missing: bool) -> pd.DataFrame:
    raw = read_csv(source, SUMMARY.where)
    for name in ("path", "identity"):
        if name not in raw:
            raise UserError(f"{source}: lacks the column {name!r}; it has {', '.join(raw.columns)}")
    known = (*REQUIRED, *OPTIONAL)
    for name in raw:
        near = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.9)
        stem = COUNTED.sub("", str(name).lower())  # of camera_id, camID, cameras: camera, cam, camera
        near = near or [each for each in known if each not in raw and len(stem) > 2 and each.startswith(stem)]
        if name not in known and near:
            hint = f"did you mean {near[0]!r}? If not, call it otherwise"
            raise UserError(f"{source}: unknown column {name!r}; {hint}")
        if name in TAKEN or str(name).startswith("draw_"):
            raise UserError(f"{source}: column {name!r} is one that manifests add; call it otherwise")
    if raw.empty:
        raise UserError(f"{source}: names no image")
    check_paths(raw["path"], str(source))
    table = raw.copy()
    unknown = raw["identity"].str.strip().isin(UNKNOWN)
    refuse_rows(unknown, raw["identity"], "identity", source, "it must name a person")
    for name in [each for each in ("aspect", "name", "gender", "skin_color") if each in raw]:
        odd = raw[name].str.strip().isin(UNKNOWN[1:])
        refuse_rows(odd, raw[name], name, source, "leave it empty where it is not known")
    if "name" not in raw and not table["identity"].str.fullmatch(r"[0-9]{1,15}").all():
        table["name"] = table["identity"]
    table["identity"] = _number_people(table["identity"], source)
    table["aspect"] = raw["aspect"].str.strip().replace("", ASPECT) if "aspect" in raw else ASPECT
    for name, absent in (("session", pd.NA), ("camera", 0)):
        table[name] = parse_whole_numbers(raw[name], name, source, nullable=True) if name in raw else absent
    if "camera" in raw:
        below = table["camera"].lt(0).fillna(False).astype(bool)  # -1 is how programs number what they do not know
        refuse_rows(below, raw["camera"], "camera", source, "it must be 0 or more")
    unknown = pd.isna(table["camera"])  # two of them would be taken for one camera, and their match left out
    if "camera" in raw and not unknown.all():
        refuse_rows(unknown, raw["camera"], "camera", source, "fill it in every row, or in none")
    table["camera"] = table["camera"].fillna(0)
    if "age" in raw:
        table["age"] = parse_whole_numbers(raw["age"], "age", source, nullable=True)
    for name in FLAGS:
        if name in raw:
            table[name] = parse_flags(raw[name], name, source)
    if "split" in raw:
        odd = ~raw["split"].isin(SPLITS)
        refuse_rows(odd, raw["split"], "split", source, f"allowed: {', '.join(SPLITS[1:])}")
    return drop_absent(table, source.parent, allow_missing, source.name)


def _number_people(names: pd.Series, source: Path) -> pd.Series:
    """Return a whole number per person: the names themselves where all are numbers, else their place in order."""
    distinct = sorted(names.unique())
    refuse_two_spellings(distinct, source, "person")
    if all(map(is_number, distinct)):
        return names.astype(int)
    return names.map({name: number for number, name in enumerate(distinct, 1)})
