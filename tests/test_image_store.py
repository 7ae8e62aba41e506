import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from clipreid_lib.__main__ import main
from clipreid_lib.base.errors import UserError
from clipreid_lib.data import photographs as images
from clipreid_lib.data.photographs import Photographs


@pytest.fixture
def photographs(tmp_path):
    """Three photographs, one in several sizes and formats, and the store they go to."""
    random = np.random.default_rng(0)
    for name, size in (("wide.jpg", (400, 300)), ("high.jpg", (300, 400)), ("plain.png", (50, 50))):
        Image.fromarray(random.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(tmp_path / name)
    return Photographs(tmp_path, tmp_path / "store"), pd.DataFrame({"path": ["wide.jpg", "high.jpg", "plain.png"]})


def fill(photographs, table, size):
    store = photographs.at(size, make=True)
    return [store.prepare(photographs.root / path) for path in table["path"]]


def entries(photographs):
    return sorted(path for path in photographs.store.rglob("*") if path.is_file())


def test_stored_pixels_are_those_of_the_files_and_sizes_live_side_by_side(photographs):
    photographs, table = photographs
    plain = Photographs(photographs.root)
    for size in (32, 64):
        assert fill(photographs, table, size) == [True] * 3
        assert fill(photographs, table, size) == [False] * 3  # what is there is not decoded again
        assert np.array_equal(photographs.load(table, size), plain.load(table, size))
    assert len(entries(photographs)) == 6


def test_sizes_and_rules_that_differ_have_stores_of_their_own(photographs):
    photographs, table = photographs
    cropped = Photographs(photographs.root, photographs.store, "crop")
    for reader, size, name in (
        (photographs, 32, "32-bicubic-2"),
        (photographs, (32, 32), "32-bicubic-2"),
        (photographs, (64, 32), "64x32-bicubic-2"),
        (cropped, 32, "32-bicubic-crop-2"),
        (cropped, (64, 32), "64x32-bicubic-crop-2"),
    ):
        assert reader.at(size, make=True).folder == photographs.store / name
        fill(reader, table, size)
        stored = reader.load(table, size)
        assert np.array_equal(stored, Photographs(reader.root, rule=reader.rule).load(table, size))
    assert stored.shape == (3, 3, 64, 32)
    assert not np.array_equal(photographs.load(table, 32), cropped.load(table, 32))
    assert len(list(photographs.store.iterdir())) == 4 and len(entries(photographs)) == 12


def test_what_is_stored_is_read_instead_of_decoded(photographs, monkeypatch):
    photographs, table = photographs
    fill(photographs, table, 32)
    monkeypatch.setattr(images, "open_rgb", lambda *_: pytest.fail("an image was decoded"))
    assert photographs.load(table, 32).shape == (3, 3, 32, 32)


def test_a_changed_image_is_decoded_again(photographs):
    photographs, table = photographs
    fill(photographs, table, 32)
    path, before = photographs.root / "wide.jpg", photographs.load(table, 32)
    stamp = path.stat().st_mtime_ns
    Image.new("RGB", (400, 300), "red").save(path)
    os.utime(path, ns=(stamp, stamp))  # not even the clock gives it away
    after = photographs.load(table, 32)  # before it is prepared again
    assert not np.array_equal(after[0], before[0]) and np.array_equal(after[1:], before[1:])
    assert fill(photographs, table, 32) == [True, False, False]
    assert np.array_equal(photographs.load(table, 32), after)


def test_an_entry_cut_short_is_no_image(photographs):
    photographs, table = photographs
    fill(photographs, table, 32)
    whole = photographs.load(table, 32)
    for entry in entries(photographs):
        entry.write_bytes(entry.read_bytes()[:100])
    assert np.array_equal(photographs.load(table, 32), whole)
    assert fill(photographs, table, 32) == [True] * 3


def test_nothing_is_written_unless_asked(photographs):
    photographs, table = photographs
    photographs.load(table, 32)
    assert not photographs.store.exists()


def test_absent_files_are_named_with_and_without_a_store(photographs):
    photographs, table = photographs
    fill(photographs, table, 32)
    for reader in (photographs, Photographs(photographs.root)):
        with pytest.raises(UserError, match="none.jpg: image not found"):
            reader.load(pd.DataFrame({"path": ["none.jpg"]}), 32)


def test_prepare_fills_the_store_that_runs_read_and_counts(hands, tmp_path, capsys, open_run):
    arguments = ["data", "prepare", "--dataset", "11k", "--root", str(hands), "--outputs", str(tmp_path)]
    assert main([*arguments, "--size", "16", "24"]) == 0
    out = capsys.readouterr().out
    assert "16 px: 128 images decoded, 0 there already" in out and "24 px: 128 images decoded" in out
    assert main([*arguments, "--size", "16"]) == 0
    assert "16 px: 0 images decoded, 128 there already" in capsys.readouterr().out
    run = open_run(fresh=tmp_path, dataset="11k", data_root=str(hands))
    assert run.photographs.at(16) is not None and run.photographs.at(17) is None
    assert main([*arguments, "--size", "16", "32x16", "--resize", "crop"]) == 0
    out = capsys.readouterr().out
    assert "16 px: 128 images decoded" in out and "32x16 px: 128 images decoded" in out
    cropping = open_run(fresh=tmp_path, dataset="11k", data_root=str(hands), resize="crop")
    assert cropping.photographs.at((32, 16)) is not None and run.photographs.at((32, 16)) is None


def test_prepare_names_what_cannot_be_read_and_does_the_rest(hands, tmp_path, capsys):
    root = tmp_path / "hands"
    (root / "Hands").mkdir(parents=True)
    (root / "HandInfo.csv").write_bytes((hands / "HandInfo.csv").read_bytes())
    for file in (hands / "Hands").iterdir():
        (root / "Hands" / file.name).symlink_to(file)
    bad = root / "Hands" / "Hand_0000001.jpg"
    bad.unlink()
    arguments = ["data", "prepare", "--dataset", "11k", "--root", str(root), "--outputs", str(tmp_path / "out")]
    arguments += ["--size", "16"]
    assert main(arguments) == 2  # absent: said before anything is decoded
    assert "1 of 128 images" in capsys.readouterr().err
    bad.write_text("no picture")
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "127 images decoded" in out and out.count("WRONG") == 1 and f"{bad}: is not an image" in out
    (tmp_path / "file").write_text("in the way")
    arguments[arguments.index("--outputs") + 1] = str(tmp_path / "file")
    assert main(arguments) == 2
    assert "cannot be written" in capsys.readouterr().err
    assert main([*arguments[:-1], "4"]) == 2 and "at least 16" in capsys.readouterr().err
    assert main([*arguments[:-1], "32x8"]) == 2 and "--size 32x8: give at least 16" in capsys.readouterr().err
    assert main([*arguments[:-1], "16,32"]) == 2 and "--size: '16,32' is no size" in capsys.readouterr().err
    assert main([*arguments[:-1], "9999999"]) == 2 and "GB are free" in capsys.readouterr().err


def test_a_killed_prepare_goes_on_where_it_was(tmp_path):
    root = tmp_path / "mine"
    random = np.random.default_rng(0)
    for number in range(150):
        (root / str(number)).mkdir(parents=True)
        Image.fromarray(random.integers(0, 255, (500, 700, 3), dtype=np.uint8)).save(root / str(number) / "a.jpg")
    command = [sys.executable, "-m", "clipreid_lib", "data", "prepare", "--dataset", "folder", "--root", str(root)]
    command += ["--outputs", str(tmp_path / "out"), "--size", "64"]
    store = tmp_path / "out" / "image_store"
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list(store.rglob("*.u8"))) < 5:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    child.kill()
    child.wait()
    there = [path for path in store.rglob("*.u8") if not path.name.startswith(".")]
    assert 0 < len(there) < 150 and {path.stat().st_size for path in there} == {3 * 64 * 64}
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0
    assert f"{150 - len(there)} images decoded, {len(there)} there already" in again.stdout
