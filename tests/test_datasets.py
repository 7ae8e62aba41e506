import shutil

import pandas as pd
import pytest

from clipreid_lib.base.errors import UserError
from clipreid_lib.data import datasets


def test_the_table_keeps_its_contract(hands):
    table = datasets.load_images("demo", hands)
    promised = (
        "path identity aspect session camera age gender skin_color accessories nail_polish irregularities"
    ).split()
    assert sorted(table.columns) == sorted(promised)
    assert len(table) == 8 * 4 * 4
    assert table["path"].is_monotonic_increasing
    assert (hands / table["path"].iloc[0]).is_file()
    assert set(table["aspect"]) == {"dorsal_r", "dorsal_l", "palmar_r", "palmar_l"}
    assert table.groupby(["identity", "aspect"])["session"].nunique().eq(2).all()


@pytest.fixture
def broken(hands, tmp_path):
    """Write a copy of the CSV, changed by a function, beside the same images."""

    def make(change):
        raw = pd.read_csv(hands / "HandInfo.csv", dtype=str, keep_default_na=False)
        change(raw)
        root = tmp_path / "broken"
        shutil.copytree(hands, root, dirs_exist_ok=True)
        raw.to_csv(root / "HandInfo.csv", index=False)
        return root

    return make


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.pop("skinColor"), "lacks the column 'skinColor'"),
        (lambda raw: raw.__setitem__("aspectOfHand", "dorsal"), "row 2: aspectOfHand is 'dorsal'"),
        (lambda raw: raw.__setitem__("id", "12 "), "row 2: id is '12 '; .* without white space"),
        (lambda raw: raw.__setitem__("id", "x1"), "row 2: id is 'x1'; it must be a whole number"),
        (lambda raw: raw.__setitem__("age", "old"), "row 2: age is 'old'; it must be a whole number"),
        (lambda raw: raw.__setitem__("imageName", raw["imageName"][0]), "stands twice"),
        (lambda raw: raw.loc.__setitem__((0, "imageName"), "../Hand_1.jpg"), "plain file name"),
        (lambda raw: raw.loc.__setitem__((0, "imageName"), "Hand_none.jpg"), "1 of 128 .* Hands/Hand_none.jpg"),
    ],
)
def test_broken_metadata_is_told_in_one_line(broken, change, message):
    root = broken(change)
    with pytest.raises(UserError, match=message) as error:
        datasets.load_images("11k", root)
    assert "\n" not in str(error.value)


def test_the_one_id_with_a_trailing_space_is_known(broken):
    def change(raw):
        raw["id"] = raw["id"].where(raw["id"] != raw["id"].iloc[0], "1200000 ")

    assert 1200000 in set(datasets.load_images("11k", broken(change))["identity"])


def test_absent_images_and_folders(broken, tmp_path):
    root = broken(lambda raw: raw.loc.__setitem__((0, "imageName"), "Hand_none.jpg"))
    table = datasets.load_images("11k", root, allow_missing=True)
    assert len(table) == 127 and table.attrs["missing"] == 1
    with pytest.raises(UserError, match="is not a folder"):
        datasets.load_images("11k", tmp_path / "nowhere")
    with pytest.raises(UserError, match="HandInfo.csv: not found"):
        datasets.load_images("11k", tmp_path)
    with pytest.raises(UserError, match="'lfw' is unknown; allowed: demo, 11k, hd, market1501, folder"):
        datasets.load_images("lfw", root)


def test_the_real_piece_reads_as_a_partial_download(real_hands):
    with pytest.raises(UserError, match="10,049 of 11,076 images"):
        datasets.load_images("11k", real_hands)
    table = datasets.load_images("11k", real_hands, allow_missing=True)
    assert len(table) == 1027 and table.attrs["missing"] == 10049
    assert table["aspect"].value_counts().to_dict() == {"dorsal_r": 525, "palmar_r": 502}
