"""Reader of HD, the PolyU Contactless Hand Dorsal Images Database."""

from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data.contract import Summary, drop_absent, image_files, is_number

SUMMARY = Summary(
    title="HD: the Hong Kong Polytechnic University Contactless Hand Dorsal Images Database",
    licence="research only, on request from the Hong Kong Polytechnic University",
    citation="A. Kumar and Z. Xu, Personal identification using minor knuckle patterns from palm dorsal surface. "
    "IEEE Transactions on Information Forensics and Security, 2016",
    where="HD is given out on request by the Hong Kong Polytechnic University (search for 'PolyU Contactless Hand "
    "Dorsal Images Database'); give the folder that holds 'Original Images' as data_root",
    protocol="mba",
    counts={"images": 5992, "identities": 715, "distractor": 1342},
    # MBA-Net's split: 502 people in the first folder, 213 more in the second, who join every gallery.
    published={
        "dorsal": {
            **{"train": (2156, 251), "validation": (251, 251), "test": (2243, 251)},
            **{"query": (1992, 251), "gallery": (1593, 464)},
        }
    },
)
FOLDERS = {"1-501": "", "502-712": "distractor"}  # folder -> split


def read(root: Path, allow_missing: bool) -> pd.DataFrame:
    """Read HD's two folders into the table of :mod:`clipreid_lib.data.contract`.

    The identity stands before a file name's first underscore. People of ``502-712`` are marked as distractors;
    ``allow_missing`` goes without that folder.
    A number that both folders use names two people; the second folder's then gets 10,000 added.
    """
    parts = []
    for name, split in FOLDERS.items():
        folder = root / "Original Images" / name
        if not folder.is_dir():
            if split and allow_missing:
                continue
            raise UserError(f"{folder}: folder not found; {SUMMARY.where}")
        files = image_files(folder)
        if not files:
            raise UserError(f"{folder}: holds no image")
        number = [path.name.partition("_")[0] for path in files]
        wrong = [path for path, text in zip(files, number, strict=True) if not is_number(text)]
        if wrong:
            raise UserError(f"{wrong[0]}: the file name must begin with the person's number and an underscore")
        paths = [path.relative_to(root).as_posix() for path in files]
        parts.append(pd.DataFrame({"path": paths, "identity": [int(text) for text in number], "split": split}))
        parts[-1].loc[parts[-1]["identity"].isin(parts[0]["identity"]) & (split != ""), "identity"] += 10_000
    table = pd.concat(parts, ignore_index=True)
    return drop_absent(table.assign(aspect="dorsal", session=pd.NA, camera=0), root, allow_missing, "its folders")
