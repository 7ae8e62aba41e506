"""Content hashes of photographs: they tell a replaced photograph from the one that a run or a feature was made of.

A file is read once while its size, times and inode stay as they are; one file per data root keeps what was found::

    outputs/features/photographs-<hash of the root>.json      path: [[size, mtime, ctime, inode], SHA-256]

tar, Docker and Nix set the time of the last change as they like. They cannot set the ctime.
"""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from clipreid_lib.base.errors import UnreadableImage, UserError
from clipreid_lib.base.files import locked, read_json, write_text
from clipreid_lib.data.photographs import on_all_cores, open_rgb

FRESH = 2e9  # nanoseconds; a file written so shortly before may be written again within one tick of its clock


def hash_images(root: Path, paths: Iterable[str], folder: Path) -> dict[str, str]:
    """Hash image files; read only those that were changed since they were last read.

    Args:
        root: of the data set.
        paths: of the images, relative to it.
        folder: of the features, where the hashes are kept; one that cannot be written keeps none.

    Returns:
        Path to SHA-256: of a file that is gone, or is no image any more, as it was when it was last read; empty for one
        that was never read.
    """
    kept = folder / f"photographs-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.json"
    known, stamps = read_json(kept) or {}, {path: _stamp(root / path) for path in paths}
    asked = [path for path, stamp in stamps.items() if stamp and known.get(path, [[]])[0] != stamp]
    began, fresh = time.time_ns(), {}
    for path, found in zip(asked, on_all_cores(lambda path: _read(root / path), asked), strict=True):
        before, stamp = known.get(path, [[], ""])[1], stamps[path]
        replaced = found and not (before and found != before and _is_broken(root / path))
        fresh[path] = [stamp if began - max(stamp[1:3]) > FRESH else [], found if replaced else before]
    if fresh:
        known |= fresh
        with contextlib.suppress(UserError, OSError):  # a disk that is full or read-only: they are read again next time
            folder.mkdir(parents=True, exist_ok=True)
            with locked(folder / ".lock"):  # a run beside this one may have added some meanwhile
                write_text(kept, json.dumps((read_json(kept) or {}) | fresh, ensure_ascii=False))
    return {path: known.get(path, [[], ""])[1] for path in stamps}


def _stamp(path: Path) -> list[int]:
    try:
        seen = path.stat()
    except OSError:
        return []
    return [seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino]


def _read(path: Path) -> str:
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
    return ""


def _is_broken(path: Path) -> bool:
    try:
        open_rgb(path, 32)
    except UnreadableImage:
        return True
    return False
