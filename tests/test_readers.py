import socket
import unicodedata
from pathlib import Path
from typing import get_args

import pandas as pd
import pytest
from PIL import Image

from clipreid_lib.base.errors import UserError
from clipreid_lib.data import contract, datasets, eleven_k
from clipreid_lib.params import run_params, schema


def touched(root: Path, *files: str) -> Path:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def refusal(dataset: str, root: Path, **options) -> str:
    with pytest.raises(UserError) as error:
        datasets.load_images(dataset, root, **options)
    message = str(error.value)
    assert "\n" not in message and str(root) in message
    return message


def kept(table: pd.DataFrame, column: str) -> dict:
    return dict(zip(table["path"], table[column], strict=True))


def keeps_the_contract(table: pd.DataFrame) -> bool:
    assert tuple(table.columns[: len(contract.REQUIRED)]) == contract.REQUIRED
    assert table["path"].is_monotonic_increasing and table["path"].is_unique
    assert not table["path"].str.contains("\\", regex=False).any()
    assert table["session"].dtype == "Int64"
    assert all(pd.api.types.is_integer_dtype(table[name]) for name in ("identity", "camera"))
    return not table[["path", "identity", "aspect", "camera"]].isna().any(axis=None)


# HD

FIRST, SECOND = "Original Images/1-501", "Original Images/502-712"


def test_hd_reads_two_folders_and_takes_the_person_from_the_name(tmp_path):
    names = (f"{FIRST}/12_1.jpg", f"{FIRST}/7_3_left.JPG", f"{FIRST}/7_1.jpg", f"{SECOND}/502_1.bmp")
    table = datasets.load_images("hd", touched(tmp_path, *names))
    assert keeps_the_contract(table)
    assert kept(table, "identity") == dict(zip(names, (12, 7, 7, 502), strict=True))
    assert kept(table, "split") == dict(zip(names, ("", "", "", "distractor"), strict=True))
    assert set(table["aspect"]) == {"dorsal"} and set(table["camera"]) == {0} and table["session"].isna().all()
    assert table.attrs == {"dataset": "hd", "named": 4, "missing": 0}


def test_hd_passes_over_what_is_no_image(tmp_path):
    root = touched(tmp_path, f"{FIRST}/7_1.jpg", f"{SECOND}/502_1.jpg")
    touched(root, f"{FIRST}/Thumbs.db", f"{FIRST}/.8_1.jpg", f"{SECOND}/._502_1.jpg", f"{SECOND}/read me.txt")
    assert len(datasets.load_images("hd", root)) == 2


def test_an_hd_number_in_both_folders_is_two_people(tmp_path):
    root = touched(tmp_path, f"{FIRST}/502_1.jpg", f"{FIRST}/3_1.jpg", f"{SECOND}/502_1.jpg", f"{SECOND}/503_1.jpg")
    assert datasets.load_images("hd", root)["identity"].tolist() == [3, 502, 10502, 503]


@pytest.mark.parametrize("name", ["hand_1.jpg", "12.jpg", "12-1.jpg", "_12.jpg", "1a_2.jpg", " 12_1.jpg", "-1_1.jpg"])
@pytest.mark.parametrize("folder", [FIRST, SECOND])
def test_a_wrong_hd_name_is_named(tmp_path, folder, name):
    root = touched(tmp_path, f"{FIRST}/7_1.jpg", f"{SECOND}/502_1.jpg", f"{folder}/{name}")
    message = refusal("hd", root)
    assert message.startswith(f"{root / folder / name}: ")
    assert "must begin with the person's number and an underscore" in message


@pytest.mark.parametrize("folder", [FIRST, SECOND])
def test_a_missing_or_empty_hd_folder_is_named(tmp_path, folder):
    other = SECOND if folder == FIRST else FIRST
    root = touched(tmp_path, f"{other}/7_1.jpg")
    message = refusal("hd", root)
    assert message.startswith(f"{root / folder}: folder not found") and "PolyU" in message
    touched(root, f"{folder}/Thumbs.db")
    assert refusal("hd", root) == f"{root / folder}: holds no image"


def test_hd_goes_without_its_second_folder_alone(tmp_path):
    root = touched(tmp_path, f"{FIRST}/7_1.jpg")
    table = datasets.load_images("hd", root, allow_missing=True)
    assert table["path"].tolist() == [f"{FIRST}/7_1.jpg"] and table["split"].tolist() == [""]
    (root / FIRST).rename(root / SECOND)
    assert refusal("hd", root, allow_missing=True).startswith(f"{root / FIRST}: folder not found")


# Market-1501

MARKET = {
    "bounding_box_train/0002_c1s1_000451_03.jpg": (2, 1, 1, "train"),
    "bounding_box_train/0002_c6s3_000451_03.jpg": (2, 6, 3, "train"),
    "query/0003_c2s2_000100_00.jpg": (3, 2, 2, "query"),
    "bounding_box_test/0003_c4s6_000200_01.jpg": (3, 4, 6, "gallery"),
    "bounding_box_test/0000_c1s1_000151_01.jpg": (0, 1, 1, "distractor"),
    "bounding_box_test/-1_c5s2_000300_02.jpg": (-1, 5, 2, "junk"),
}


def test_market1501_names_tell_person_camera_and_sequence(tmp_path):
    root = touched(tmp_path, *MARKET, "bounding_box_test/Thumbs.db", "query/.0003_c2s2_000100_00.jpg")
    table = datasets.load_images("market1501", root)
    assert keeps_the_contract(table)
    told = zip(table["identity"], table["camera"], table["session"], table["split"], strict=True)
    assert dict(zip(table["path"], told, strict=True)) == MARKET
    assert set(table["aspect"]) == {"body"}


@pytest.mark.parametrize("name", ["2_c1s1_1_1.jpg", "0002_s1c1_1_1.jpg", "0002c1s1_1.jpg", "-2_c1s1_1_1.jpg", "x.jpg"])
@pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test"])
def test_a_wrong_market1501_name_is_named(tmp_path, folder, name):
    root = touched(tmp_path, *MARKET, f"{folder}/{name}")
    message = refusal("market1501", root)
    assert message.startswith(f"{root / folder / name}: is not named like 0002_c1s1_000451_03.jpg")


@pytest.mark.parametrize("folder", ["bounding_box_train", "query", "bounding_box_test"])
def test_a_missing_or_empty_market1501_folder_is_named(tmp_path, folder):
    root = touched(tmp_path, *(name for name in MARKET if not name.startswith(folder)))
    message = refusal("market1501", root, allow_missing=True)
    assert message.startswith(f"{root / folder}: folder not found") and "bounding_box_train" in message
    touched(root, f"{folder}/Thumbs.db")
    assert refusal("market1501", root) == f"{root / folder}: holds no image"
    rest = datasets.load_images("market1501", root, allow_missing=True)
    assert len(rest) == sum(not name.startswith(folder) for name in MARKET)


# A folder of one's own: PERSON/IMAGE and PERSON/ASPECT/IMAGE


def test_numbered_folders_are_the_identities(tmp_path):
    root = touched(tmp_path, "10/1.jpg", "9/b.PNG", "9/a.webp", "007/1.tif")
    table = datasets.load_images("folder", root)
    assert keeps_the_contract(table)
    assert kept(table, "identity") == {"007/1.tif": 7, "10/1.jpg": 10, "9/a.webp": 9, "9/b.PNG": 9}
    assert set(table["aspect"]) == {"hand"} and set(table["camera"]) == {0} and table["session"].isna().all()


def test_other_names_are_numbered_in_order_and_kept(tmp_path):
    root = touched(tmp_path, "zoë/1.jpg", "Ben B/1.jpg", "9/1.jpg", "10/1.jpg")
    table = datasets.load_images("folder", root)
    assert dict(zip(table["name"], table["identity"], strict=True)) == {"10": 1, "9": 2, "Ben B": 3, "zoë": 4}
    assert (table["path"].str.partition("/")[0] == table["name"]).all()


def test_a_folder_between_person_and_image_is_the_aspect(tmp_path):
    root = touched(tmp_path, "ann/left palm/1.jpg", "ann/right/1.jpg", "ben/right/1.jpg", "ben/2.jpg")
    table = datasets.load_images("folder", root)
    assert kept(table, "aspect") == {
        **{"ann/left palm/1.jpg": "left palm", "ann/right/1.jpg": "right"},
        **{"ben/right/1.jpg": "right", "ben/2.jpg": "hand"},
    }
    assert table.groupby("name")["identity"].unique().str[0].to_dict() == {"ann": 1, "ben": 2}


def test_hidden_files_hidden_people_and_other_files_are_passed_over(tmp_path):
    root = touched(tmp_path, "ann/1.jpg", "ann/._1.jpg", "ann/notes.txt", ".trash/1.jpg", "read me.txt")
    assert datasets.load_images("folder", root)["path"].tolist() == ["ann/1.jpg"]


ONE_NAME = [
    *(("7", "07"), ("0", "000"), ("1", "1.0"), ("ann", "ann "), ("ann", "Ann"), ("ann b", "ann  b")),
    *(("ann b", "ann\u00a0b"), ("ann", "ann\u200b"), ("zo\u00eb", "zoe\u0308"), ("zo\u00eb", "ZOE\u0308")),
]


@pytest.mark.parametrize(("one", "other"), ONE_NAME)
def test_names_that_would_be_one_person_are_refused(tmp_path, one, other):
    message = refusal("folder", touched(tmp_path / "folders", f"{one}/1.jpg", f"{other}/1.jpg", "ben/1.jpg"))
    alike = unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other)
    assert all((ascii if alike else repr)(name) in message for name in (one, other))
    assert "would be one person" in message
    root = listed(tmp_path / "csv", "path,identity", f"ann/1.jpg,{one}", f"ann/2.jpg,{other}", "ben/1.jpg,ben")
    assert "would be one person" in refusal("folder", root)


@pytest.mark.parametrize(("one", "other"), [pair for pair in ONE_NAME if pair[1] != "ann "])  # blanks around go
def test_aspects_that_would_be_one_are_refused(tmp_path, one, other):
    root = listed(tmp_path, "path,identity,aspect", f"ann/1.jpg,1,{one}", f"ann/2.jpg,1,{other}")
    assert "would be one aspect; write each aspect one way" in refusal("folder", root)


def test_paths_that_would_be_one_are_refused(tmp_path):
    for one, other in (
        ("ann/zo\u00eb.jpg", "ann/zoe\u0308.jpg"),
        ("ann/a.jpg", "ann/A.JPG"),
        ("1/a b.jpg", "1/a  b.jpg"),
    ):
        root = touched(tmp_path / str(len(one + other)), one, other)
        assert "would be one image; write each image one way" in refusal("folder", root)


def test_an_aspect_is_named_in_composed_letters_as_params_name_it(tmp_path):
    table = datasets.load_images("folder", touched(tmp_path / "folders", "ann/pa\u0302le/1.jpg"))
    assert set(table["aspect"]) == {"p\u00e2le"} and (tmp_path / "folders" / table["path"][0]).is_file()
    root = listed(tmp_path / "csv", "path,identity,aspect", "ann/1.jpg,1,pa\u0302le\u00a0hand")
    assert set(datasets.load_images("folder", root)["aspect"]) == {"p\u00e2le hand"}


def test_a_folder_that_a_program_named_where_it_knew_no_person_is_refused(tmp_path):
    assert "nan: is no person's name" in refusal("folder", touched(tmp_path, "ann/1.jpg", "nan/1.jpg"))


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".avif", ".jp2", ".pgm", ".ppm", ".gif", ".JPG"])
def test_every_suffix_that_pillow_reads_is_an_image(tmp_path, suffix):
    Image.init()
    if suffix.lower() not in Image.registered_extensions():
        pytest.skip(f"this Pillow has no {suffix}")
    table = datasets.load_images("folder", touched(tmp_path, "ann/1.jpg", f"ann/2{suffix}", f"ben/1{suffix}"))
    assert table["path"].tolist() == ["ann/1.jpg", f"ann/2{suffix}", f"ben/1{suffix}"]
    market = touched(tmp_path / "market", *MARKET, f"query/0009_c1s1_000001_00{suffix}")
    assert f"query/0009_c1s1_000001_00{suffix}" in set(datasets.load_images("market1501", market)["path"])


def test_links_to_people_aspects_and_images_are_followed_but_not_in_circles(tmp_path):
    store, root = touched(tmp_path / "store", "a/1.jpg", "b/2.png", "3.jpg"), touched(tmp_path / "root", "ben/1.jpg")
    (root / "ann").symlink_to(store / "a")
    (root / "ben/left").symlink_to(store / "b")
    (root / "ben/4.jpg").symlink_to(store / "3.jpg")
    (store / "b/again").symlink_to(store / "b")
    (root / "ben/up").symlink_to(root)
    (store / "a/there").symlink_to(store / "back")
    (store / "back").mkdir()
    (store / "back/here").symlink_to(store / "a")
    table = datasets.load_images("folder", root)
    assert kept(table, "aspect") == {
        **{"ann/1.jpg": "hand", "ben/1.jpg": "hand", "ben/4.jpg": "hand"},
        **{"ben/left/2.png": "left"},
    }


def test_links_that_lead_nowhere_are_absent_images(tmp_path):
    folders = touched(tmp_path / "folders", "ann/1.jpg", "ann/2.jpg", "ben/1.jpg")
    market = touched(tmp_path / "market", *MARKET)
    hd = touched(tmp_path / "hd", *(f"Original Images/{name}" for name in ("1-501/1_1.jpg", "502-712/600_1.jpg")))
    for dataset, root, link in (
        ("folder", folders, "ben/2.jpg"),
        ("market1501", market, "query/0009_c1s1_000001_00.jpg"),
        ("hd", hd, "Original Images/1-501/1_2.jpg"),
    ):
        (root / link).symlink_to(tmp_path / "annex/key.jpg")
        there = len(list(root.rglob("*.jpg"))) - 1
        assert f"1 of {there + 1} images named in its folders are absent, the first is {link}" in refusal(dataset, root)
        table = datasets.load_images(dataset, root, allow_missing=True)
        assert (len(table), table.attrs["named"], table.attrs["missing"]) == (there, there + 1, 1)


@pytest.mark.parametrize("link", ["cleo", "ann/left", "ann/cleo.d"])
def test_another_link_that_leads_nowhere_is_refused(tmp_path, link):
    root = touched(tmp_path, "ann/1.jpg", "ben/1.jpg")
    (root / link).symlink_to(tmp_path / "gone")
    for allow_missing in (False, True):  # what was behind it cannot be counted
        with pytest.raises(UserError, match=f"{link}: is a link that leads nowhere"):
            datasets.load_images("folder", root, allow_missing)


@pytest.mark.parametrize(
    "name", ["ann/IMG_1.heic", "ann/IMG_1.HEIC", "ann/left/1.dng", "ben/1.NEF", "ben/1.jxl", "ben/1.x3f", "ben/1.raw"]
)
def test_a_format_that_cannot_be_read_is_refused_by_name(tmp_path, name):
    root = touched(tmp_path, "ann/1.jpg", "ben/1.jpg", name)
    message = refusal("folder", root)
    assert message.startswith(f"{root / name}: cannot be read; convert it to JPEG or PNG")


def test_a_format_that_cannot_be_read_is_refused_in_every_set_of_folders(tmp_path):
    root = touched(tmp_path, *MARKET, "query/0009_c1s1_000001_00.heic")
    assert "00.heic: cannot be read; convert it" in refusal("market1501", root)


def test_folders_that_hold_nothing_or_too_much_are_named(tmp_path):
    message = refusal("folder", tmp_path)
    assert message.startswith(f"{tmp_path}: holds neither a CSV nor a person's folder; ") and "PERSON/IMAGE" in message
    touched(tmp_path, "loose.jpg")
    assert refusal("folder", tmp_path).startswith(f"{tmp_path / 'loose.jpg'}: lies in no person's folder")
    (tmp_path / "loose.jpg").unlink()
    touched(tmp_path, "ann/1.jpg", "ben/notes.txt")
    assert refusal("folder", tmp_path) == f"{tmp_path / 'ben'}: holds no image; each person's folder needs one at least"
    touched(tmp_path, "ben/left/june/1.jpg")
    assert refusal("folder", tmp_path).startswith(f"{tmp_path / 'ben/left/june/1.jpg'}: lies too deep")


# A folder of one's own: a CSV

IMAGES = ("ann/1.jpg", "ann/2.jpg", "ben/1.jpg")


def listed(root: Path, *lines: str, name: str = "people.csv") -> Path:
    touched(root, *IMAGES)
    (root / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def test_a_csv_needs_but_path_and_identity(tmp_path):
    root = listed(tmp_path, "path,identity", "ben/1.jpg,4", "ann/2.jpg,12", "ann/1.jpg,12")
    table = datasets.load_images("folder", root)
    assert keeps_the_contract(table) and tuple(table.columns) == contract.REQUIRED
    assert kept(table, "identity") == {"ann/1.jpg": 12, "ann/2.jpg": 12, "ben/1.jpg": 4}
    assert set(table["aspect"]) == {"hand"} and set(table["camera"]) == {0} and table["session"].isna().all()
    assert table.attrs == {"dataset": "folder", "named": 3, "missing": 0}


def test_a_csv_may_name_people_in_words(tmp_path):
    root = listed(tmp_path, "path,identity", "ben/1.jpg,Ben", "ann/2.jpg,Ann A", "ann/1.jpg,Ann A")
    table = datasets.load_images("folder", root)
    assert kept(table, "identity") == {"ann/1.jpg": 1, "ann/2.jpg": 1, "ben/1.jpg": 2}
    assert kept(table, "name") == {"ann/1.jpg": "Ann A", "ann/2.jpg": "Ann A", "ben/1.jpg": "Ben"}


def test_a_csv_may_bring_the_whole_contract_with_nulls(tmp_path):
    columns = "path,identity,aspect,session,camera,age,gender,skin_color,accessories,nail_polish,irregularities,split"
    full = "ann/1.jpg,1,palm,3,2,41,female,fair,1,TRUE,0,query"
    root = listed(tmp_path, columns, full, "ann/2.jpg,1,,,4,,,,,,,", "ben/1.jpg,2,palm,0,1,7,,,false,0,1,junk")
    table = datasets.load_images("folder", root)
    assert keeps_the_contract(table) and sorted(table.columns) == sorted(columns.split(","))
    first, second, third = table.to_dict("records")
    assert first == dict(zip(columns.split(","), ["ann/1.jpg", 1, "palm", 3, 2, 41], strict=False)) | {
        **{"gender": "female", "skin_color": "fair", "split": "query"},
        **{"accessories": True, "nail_polish": True, "irregularities": False},
    }
    assert second["aspect"] == "hand" and second["camera"] == 4 and second["split"] == second["gender"] == ""
    assert pd.isna(second["session"]) and pd.isna(second["age"]) and second["accessories"] is False
    assert third["irregularities"] is True and table["accessories"].dtype == bool and table["age"].dtype == "Int64"


def test_a_file_whose_accents_are_coded_in_another_way_is_told(tmp_path):
    composed, apart = "jose\u0301.jpg", "jos\u00e9.jpg"
    root = touched(tmp_path, composed, "b.jpg")
    (root / "images.csv").write_text(f"path,identity\n{apart},1\nb.jpg,2\n", encoding="utf-8")
    message = refusal("folder", root)
    assert "the first is 'jos\\xe9.jpg'; the file is called 'jose\\u0301.jpg'" in message and "write it so" in message


def test_a_csv_may_bring_columns_of_its_own(tmp_path):
    root = listed(tmp_path, "path,identity,lamp,camera,camera_id,file_name", *(f"{i},1,left,0,x,y" for i in IMAGES))
    assert set(datasets.load_images("folder", root)["lamp"]) == {"left"}


def test_a_camera_column_may_be_empty_and_people_may_be_called_nan(tmp_path):
    table = datasets.load_images("folder", listed(tmp_path, "path,identity,camera", "ann/1.jpg,Nan,", "ben/1.jpg,Na,"))
    assert set(table["camera"]) == {0} and set(table["name"]) == {"Nan", "Na"}


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("path", "ann/1.jpg", "lacks the column 'identity'; it has path"),
        ("file,identity", "ann/1.jpg,1", "lacks the column 'path'; it has file, identity"),
        ("path,identity,sesion", "ann/1.jpg,1,0", "unknown column 'sesion'; did you mean 'session'?"),
        ("path,identity,Aspect", "ann/1.jpg,1,palm", "unknown column 'Aspect'; did you mean 'aspect'?"),
        ("path,identity,skinColor", "ann/1.jpg,1,fair", "unknown column 'skinColor'; did you mean 'skin_color'?"),
        ("path,identity,role", "ann/1.jpg,1,test", "column 'role' is one that manifests add"),
        ("path,identity,subject", "ann/1.jpg,1,1", "column 'subject' is one that manifests add"),
        ("path,identity,draw_0", "ann/1.jpg,1,query", "column 'draw_0' is one that manifests add"),
        ("path,identity", "ann/1.jpg,", "row 2: identity is ''; it must name a person"),
        ("path,identity", "ann/1.jpg,   ", "row 2: identity is '   '; it must name a person"),
        *(
            ("path,identity", f"ann/1.jpg,ann\nann/2.jpg,{cell}", f"row 3: identity is '{cell}'; it must name a person")
            for cell in ("nan", "None", "<NA>", "NULL", "N/A", "NONE", "Null", "#NA", "-nan", "1.#QNAN")
        ),
        ("path,identity,aspect", "ann/1.jpg,1,nan", "row 2: aspect is 'nan'; leave it empty"),
        (
            "path,identity,camera",
            "ann/1.jpg,1,2\nann/2.jpg,1,",
            "row 3: camera is ''; fill it in every row, or in none",
        ),
        ("path,identity,camera", "ann/1.jpg,1,2\nann/2.jpg,1,-1", "row 3: camera is '-1'; it must be 0 or more"),
        *(
            ("path,identity," + name, "ann/1.jpg,1,2", f"unknown column '{name}'; did you mean '{meant}'?")
            for name, meant in {
                **{"camera_id": "camera", "camID": "camera", "Cameras": "camera", "cam 1": "camera"},
                **{"session_no": "session", "sess": "session", "aspect_name": "aspect", "split_index": "split"},
            }.items()
        ),
        ("path,identity", "ann/1.jpg,1\nann/2.jpg,01", "'01' and '1' would be one person"),
        ("path,identity", "ann/1.jpg,1\nann/2.jpg,\uff11", "'1' and '\uff11' would be one person"),
        ("path,identity", "ann/1.jpg,Gro\u00df\nann/2.jpg,GROSS", "'GROSS' and 'Gro\u00df' would be one person"),
        ("path,identity,session", "ann/1.jpg,1,0\nann/2.jpg,1,June", "row 3: session is 'June'; it must be a whole"),
        ("path,identity,session", "ann/1.jpg,1,1.5", "row 2: session is '1.5'; it must be a whole number"),
        ("path,identity,camera", "ann/1.jpg,1,0\nann/2.jpg,1,left", "row 3: camera is 'left'; it must be a whole"),
        ("path,identity,age", "ann/1.jpg,1,0\nann/2.jpg,1,old", "row 3: age is 'old'; it must be a whole number"),
        ("path,identity,accessories", "ann/1.jpg,1,1\nann/2.jpg,1,ring", "row 3: accessories is 'ring'; it must be 0"),
        ("path,identity,split", "ann/1.jpg,1,train\nann/2.jpg,1,trian", "row 3: split is 'trian'; allowed: train, qu"),
        ("path,identity", "ann/1.jpg,1,2,3\nann/2.jpg,1,2,3,4", "cannot be read as CSV"),
        ("", "", "cannot be read as CSV"),
    ],
)
def test_a_broken_csv_is_told_in_one_line_by_its_name(tmp_path, header, row, message):
    told = refusal("folder", listed(tmp_path, header, row))
    assert told.startswith(f"{tmp_path / 'people.csv'}: ") and message in told


def test_a_csv_without_rows_is_refused(tmp_path):
    assert refusal("folder", listed(tmp_path, "path,identity")) == f"{tmp_path / 'people.csv'}: names no image"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("../outside/1.jpg", "leaves the data root"),
        ("ann/../ann/1.jpg", "leaves the data root"),
        ("{outside}/1.jpg", "must be relative to the data root"),
        ("ann\\1.jpg", "must be written with forward slashes"),
    ],
)
def test_a_path_that_leaves_the_root_is_refused_though_an_image_is_there(tmp_path, path, message):
    root = tmp_path / "root"
    outside = touched(tmp_path, "outside/1.jpg", "root/ann\\1.jpg") / "outside"
    path = path.format(outside=outside)
    told = refusal("folder", listed(root, "path,identity", "ann/1.jpg,1", f"{path},2"))
    assert repr(path) in told and message in told


def test_an_image_that_stands_twice_is_refused(tmp_path):
    root = listed(tmp_path, "path,identity", "ann/1.jpg,1", "ann/2.jpg,1", "ann/1.jpg,2")
    assert "image 'ann/1.jpg' stands twice" in refusal("folder", root)


def test_images_a_csv_names_and_the_disk_lacks(tmp_path):
    root = listed(tmp_path, "path,identity", "ann/1.jpg,1", "ann/9.jpg,1", "cleo/1.jpg,3")
    message = refusal("folder", root)
    assert "2 of 3 images named in people.csv are absent, the first is ann/9.jpg" in message
    assert "allow_missing: true" in message
    table = datasets.load_images("folder", root, allow_missing=True)
    assert table["path"].tolist() == ["ann/1.jpg"]
    assert table.attrs == {"dataset": "folder", "named": 3, "missing": 2, "absent": ["ann/9.jpg", "cleo/1.jpg"]}
    listed(root, "path,identity", "cleo/1.jpg,3")
    assert "none of the images named in people.csv is there" in refusal("folder", root, allow_missing=True)


def test_absent_people_keep_their_numbers(tmp_path):
    root = listed(tmp_path, "path,identity", "nobody/1.jpg,Abe", "ann/1.jpg,Ann", "ben/1.jpg,Ben")
    table = datasets.load_images("folder", root, allow_missing=True)
    assert dict(zip(table["name"], table["identity"], strict=True)) == {"Ann": 2, "Ben": 3}


def test_of_two_csv_files_none_is_guessed(tmp_path):
    root = listed(listed(tmp_path, "path,identity", "ann/1.jpg,1"), "path,identity", "ann/1.jpg,1", name="b.csv")
    assert refusal("folder", root) == f"{root}: holds 2 CSV files (b.csv, people.csv); keep one"
    (root / "b.csv").rename(root / "._b.csv")  # what a Mac leaves beside a copied file
    assert len(datasets.load_images("folder", root)) == 1


def test_a_csv_decides_over_folders(tmp_path):
    root = touched(listed(tmp_path, "path,identity", "ann/1.jpg,5"), "cleo/1.heic")
    assert datasets.load_images("folder", root)["identity"].tolist() == [5]


# 11k Hands

NUMBERS = (1, 8, 15, 40, 47, 200)


@pytest.fixture
def eleven(tmp_path) -> Path:
    # One hand, photographed in bursts, and another whose numbers lie between; rows out of order.
    rows = [(1, "dorsal right", number) for number in NUMBERS[::-1]] + [(2, "palmar left", n + 1) for n in (8, 15)]
    raw = pd.DataFrame({name: "0" for name in eleven_k.COLUMNS}, index=range(len(rows)))
    raw["id"], raw["aspectOfHand"] = [row[0] for row in rows], [row[1] for row in rows]
    raw["imageName"] = [f"Hand_{number:07d}.jpg" for _, _, number in rows]
    raw.to_csv(tmp_path / "HandInfo.csv", index=False)
    return touched(tmp_path, *("Hands/" + name for name in raw["imageName"]))


def bursts(root: Path, **options) -> dict:
    table = datasets.load_images("11k", root, **options)
    assert keeps_the_contract(table)
    table = table[table["aspect"] == "dorsal_r"]
    return {int(path[-11:-4]): session for path, session in kept(table, "session").items()}


@pytest.mark.parametrize(
    ("burst_gap", "expected"),
    [(7, [0, 0, 0, 1, 1, 2]), (6, [0, 1, 2, 3, 4, 5]), (25, [0, 0, 0, 0, 0, 1]), (153, [0] * 6)],
)
def test_burst_gap_decides_where_a_session_ends(eleven, burst_gap, expected):
    assert bursts(eleven, burst_gap=burst_gap) == dict(zip(NUMBERS, expected, strict=True))
    assert bursts(eleven) == bursts(eleven, burst_gap=7)  # the default, 10, cuts these numbers as 7 does


def test_a_partial_download_does_not_tear_sessions(eleven):
    whole = bursts(eleven)
    for number in (8, 40):
        (eleven / f"Hands/Hand_{number:07d}.jpg").unlink()
    part = bursts(eleven, allow_missing=True)
    assert part == {number: session for number, session in whole.items() if number not in (8, 40)}
    assert part[1] == part[15] and part[47] == 1


def test_bursts_belong_to_one_hand(eleven):
    assert set(datasets.load_images("11k", eleven).query("aspect == 'palmar_l'")["session"]) == {0}
    raw = pd.read_csv(eleven / "HandInfo.csv", dtype=str)
    raw.assign(id="1").to_csv(eleven / "HandInfo.csv", index=False)
    assert set(datasets.load_images("11k", eleven).query("aspect == 'palmar_l'")["session"]) == {0}
    assert bursts(eleven) == dict(zip(NUMBERS, [0, 0, 0, 1, 1, 2], strict=True))


# All of them


@pytest.mark.parametrize("dataset", datasets.MODULES)
def test_every_data_set_states_its_facts(dataset):
    facts = datasets.summary(dataset)
    for text in (facts.title, facts.licence, facts.citation, facts.where):
        assert text.strip() == text != "" and "\n" not in text


def test_params_know_every_data_set_and_its_aspects():
    assert tuple(schema.ASPECTS) == tuple(datasets.MODULES)
    assert get_args(run_params.Params.model_fields["dataset"].annotation) == tuple(datasets.MODULES)
    assert set(schema.ASPECTS["11k"]) == set(eleven_k.ASPECTS.values())
    for name, module in datasets.MODULES.items():
        assert set(module.SUMMARY.published) <= set(schema.ASPECTS[name])


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a reader opened a connection")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.parametrize("dataset", datasets.MODULES)
def test_a_missing_root_is_explained_and_nothing_is_downloaded(offline, tmp_path, dataset):
    where = datasets.summary(dataset).where
    assert refusal(dataset, tmp_path / "nowhere") == f"data_root: {tmp_path / 'nowhere'} is not a folder; {where}"
    (tmp_path / "file").touch()
    assert refusal(dataset, tmp_path / "file") == f"data_root: {tmp_path / 'file'} is not a folder; {where}"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("dataset", [name for name in datasets.MODULES if name != "demo"])
@pytest.mark.parametrize("allow_missing", [False, True])
def test_an_empty_root_is_explained_and_stays_empty(offline, tmp_path, dataset, allow_missing):
    message = refusal(dataset, tmp_path, allow_missing=allow_missing)
    assert message.endswith(datasets.summary(dataset).where) and not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("path,identity", "ann/1.jpg,1,", "ann/2.jpg,1,"), "more cells than the header has columns"),
        (("path,identity", "ann/1.jpg,1", "ann/2.jpg,1,7"), "more cells than the header|cannot be read as CSV"),
        (("path,identity", "../secret.png,1"), "leaves the data root"),
        (("path,identity", "/etc/nope.png,1"), "must be relative to the data root"),
        (("path,identity", "ann\\1.jpg,1"), "must be written with forward slashes"),
        (("path,identity", "./ann/1.jpg,1"), "must be written plainly: 'ann/1.jpg'"),
        (("path,identity", ",1"), "must be relative"),
        (("path,identity", "ann,1"), "are absent|none of the images"),
        (("path,identity,session", "ann/1.jpg,1,٣"), "session is '٣'; it must be a whole number"),
    ],
)
@pytest.mark.parametrize("allow_missing", [False, True])
def test_odd_csv_rows_are_told_whether_or_not_images_may_be_missing(tmp_path, lines, message, allow_missing):
    root = listed(tmp_path, *lines)
    with pytest.raises(UserError, match=message) as error:
        datasets.load_images("folder", root, allow_missing=allow_missing)
    assert "\n" not in str(error.value)


def test_hidden_files_and_folders_are_passed_over(tmp_path):
    touched(tmp_path, "ann/1.jpg", "ann/.thumbs/1.jpg", "ann/._IMG.heic", ".trash/2.jpg", "ben/left/3.gif")
    table = datasets.load_images("folder", tmp_path)
    assert table["path"].tolist() == ["ann/1.jpg", "ben/left/3.gif"]


def test_a_number_too_long_to_count_with_is_no_person(tmp_path):
    for name in ("1-501/1_1.jpg", f"1-501/{'9' * 20}_1.jpg", "502-712/600_1.jpg"):
        touched(tmp_path, f"Original Images/{name}")
    assert "must begin with the person's number" in refusal("hd", tmp_path)
