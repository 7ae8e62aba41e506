"""Reader of Market-1501: people seen by six cameras, the set on which CLIP-ReID's recipe can be checked."""

import re
from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.contract import Summary, drop_absent, image_files

SUMMARY = Summary(
    title="Market-1501: 1,501 people on a campus, six cameras (whole bodies, no hands)",
    licence="research only",
    citation="L. Zheng et al., Scalable person re-identification: a benchmark. ICCV 2015",
    where="Market-1501 is a download from its authors (search for 'Market-1501 Zheng'); give the folder that holds "
    "bounding_box_train, query and bounding_box_test as data_root",
    protocol="given",
    size=(64, 128),
    counts={"images": 36036, "train": 12936, "query": 3368, "junk": 3819},
    published={"body": {"train": (12936, 751), "query": (3368, 750), "gallery": (15913, 751)}},
)
FOLDERS = {"bounding_box_train": "train", "query": "query", "bounding_box_test": "gallery"}  # folder -> split
NAME = re.compile(r"(-1|\d{4})_c(\d)s(\d)_.*")  # person, camera, sequence


def read(root: Path, allow_missing: bool) -> pd.DataFrame:
    """Read Market-1501's three folders into the table of :mod:`clipreid_lib.data.contract`.

    Person 0000 is everybody in the background (distractors, matching nobody); person -1 is junk, detections
    that neither help nor harm a ranking and therefore take no part. With ``allow_missing`` folders may be empty.
    """
    rows = []
    for name, split in FOLDERS.items():
        folder = root / name
        if not folder.is_dir():
            raise UserError(f"{folder}: folder not found; {SUMMARY.where}")
        files = image_files(folder)
        if not files and not allow_missing:
            raise UserError(f"{folder}: holds no image")
        for file in files:
            named = NAME.fullmatch(file.stem)
            if not named:
                raise UserError(f"{file}: is not named like 0002_c1s1_000451_03.jpg (person, camera and sequence)")
            person, camera, sequence = (int(part) for part in named.groups())
            part = {-1: "junk", 0: "distractor"}.get(person, split)
            rows.append((file.relative_to(root).as_posix(), person, sequence, camera, part))
    if not rows:
        raise UserError(f"{root}: none of its folders holds an image")
    table = pd.DataFrame(rows, columns=["path", "identity", "session", "camera", "split"])
    return drop_absent(table.assign(aspect="body"), root, allow_missing, "its folders")
