"""Files: written atomically (the old one or the whole new one, whatever kills the writer), and told apart."""

import contextlib
import errno
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import yaml

from clipreid_lib.base.errors import UserError

if TYPE_CHECKING:
    import pandas

WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}  # Lustre as often mounted, some NFS


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it into place if the block ends well.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
        os.close(handle)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    try:
        yield Path(name)
        os.chmod(name, 0o644)  # mkstemp makes it private; results are meant to be shared
        os.replace(name, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: object) -> None:
    """Write plain types as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def write_yaml(path: str | Path, value: dict) -> None:
    """Write a flat mapping as YAML, atomically, in the order given."""
    write_text(path, yaml.safe_dump(value, sort_keys=False, allow_unicode=True))


def write_csv(path: str | Path, table: "pandas.DataFrame", index: bool = False) -> None:
    """Write a table as CSV, atomically."""
    write_text(path, table.to_csv(index=index))


def read_json(path: str | Path) -> dict | None:
    """Read a mapping; None where the file is missing or damaged."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def file_sha(path: Path) -> str:
    """SHA-256 of a file, to tell checkpoints apart; read once while the file stays as it is."""
    seen = os.stat(path)
    return _hashed(path, seen.st_size, seen.st_mtime_ns, seen.st_ino)


@lru_cache
def _hashed(path: Path, *_: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: str | Path) -> Iterator[None]:
    """Hold a lock file while the block runs, so that two processes never read, add and write at the same time.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        file = open(path, "w")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    with file:
        lock(file)
        yield


def lock(file: IO, wait: bool = True) -> None:
    """Lock an open file until it is closed, also by the children that inherit it.

    Where there are no locks, whoever comes second overwrites: what is lost is made again when it is asked for, and two
    runners may do one notebook twice. A file system without them is told.

    Args:
        file: open for writing.
        wait: until whoever holds the lock is done.

    Raises:
        BlockingIOError: somebody holds it, and nobody is to wait.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        _tell_once(f"{Path(file.name).parent}: this file system has no locks ({error.strerror}); start no run twice")


@lru_cache
def _tell_once(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
