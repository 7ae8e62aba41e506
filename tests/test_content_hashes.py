import hashlib
import os
import shutil

import pytest

from clipreid_lib.data import content_hashes
from clipreid_lib.data.content_hashes import hash_images

HAND, OTHER = "Hands/Hand_0000001.jpg", "Hands/Hand_0000002.jpg"


@pytest.fixture
def root(hands, tmp_path, monkeypatch):
    """A copy of the hands, written long ago."""
    monkeypatch.setattr(content_hashes, "FRESH", -1)
    return shutil.copytree(hands, tmp_path / "hands")


@pytest.fixture
def read(monkeypatch):
    """Return the names of the files as they are read."""
    seen, real = [], content_hashes._read
    monkeypatch.setattr(content_hashes, "_read", lambda path: seen.append(path.name) or real(path))
    return seen


def replace_unseen(path, other) -> None:
    """Put another picture in a file's place; its size and its time of change stay."""
    before = path.stat()
    content = other.read_bytes()[: before.st_size]  # a JPEG may end in anything
    path.write_bytes(content + b"\0" * (before.st_size - len(content)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_a_file_is_read_once_while_it_stays(root, tmp_path, read):
    found = hash_images(root, [HAND, OTHER], tmp_path / "features")
    assert found == {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in (HAND, OTHER)}
    assert hash_images(root, [HAND, OTHER], tmp_path / "features") == found and len(read) == 2
    elsewhere = shutil.copytree(root, tmp_path / "copy")
    assert hash_images(elsewhere, [HAND], tmp_path / "features") == {HAND: found[HAND]} and len(read) == 3


def test_other_content_of_the_same_size_and_time_is_found(root, tmp_path):
    smaller, larger = sorted((root / path for path in (HAND, OTHER)), key=lambda path: path.stat().st_size)
    name = larger.relative_to(root).as_posix()
    before = hash_images(root, [name], tmp_path)
    replace_unseen(larger, smaller)
    assert hash_images(root, [name], tmp_path)[name] not in (before[name], "")


def test_what_is_gone_or_broken_has_the_hash_it_had(root, tmp_path):
    before = hash_images(root, [HAND, OTHER], tmp_path)
    (root / HAND).unlink()
    (root / OTHER).write_bytes(b"no picture")
    assert hash_images(root, [HAND, OTHER], tmp_path) == before
    assert hash_images(root, ["Hands/never.jpg"], tmp_path) == {"Hands/never.jpg": ""}


def test_a_file_just_written_is_read_again(root, tmp_path, read, monkeypatch):
    monkeypatch.setattr(content_hashes, "FRESH", 1e18)
    for _ in range(2):
        hash_images(root, [HAND], tmp_path)
    assert len(read) == 2


def test_hashes_that_cannot_be_kept_are_still_found(root, tmp_path):
    (tmp_path / "features").write_text("a file where a folder should be")
    assert hash_images(root, [HAND], tmp_path / "features")[HAND]
