"""`clipreid embed`: what is written is what images are compared by, and other programs read it."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
from PIL import Image
from small_runs import finetune
from torch.nn.functional import normalize

from clipreid_lib.__main__ import main
from clipreid_lib.data import datasets
from clipreid_lib.runs import feature_files, loading
from clipreid_lib.runs.sources import read_source


@pytest.fixture(scope="module")
def people(tmp_path_factory, hands):
    """A folder of one's own, with people's names, an aspect, and no sessions."""
    root = tmp_path_factory.mktemp("own") / "people"
    for person, numbers in {"Ana": (1, 2), "Bo": (30, 31, 32)}.items():
        (root / person / "left").mkdir(parents=True)
        for number, path in zip(numbers, sorted((hands / "Hands").iterdir())[: len(numbers)], strict=True):
            shutil.copy(path, root / person / "left" / f"{number}.jpg")
    return root


def see_by_hand(clip, paths):
    """The tower's features of pixels that PIL resized, without the library's own way to them."""
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in clip.normalisation)
    images = [Image.open(path).convert("RGB") for path in paths]
    resized = [np.array(image.resize(clip.image_size[::-1], Image.Resampling.BICUBIC)) for image in images]
    with torch.no_grad():
        return clip.image_features(
            torch.stack([(torch.from_numpy(p).permute(2, 0, 1) / 255 - mean) / std for p in resized])
        )


@pytest.fixture(scope="module")
def written(people, tmp_path_factory):
    """The same images in every format that needs no other package."""
    place = tmp_path_factory.mktemp("written")
    said = [feature_files.embed("embedded", str(people), str(place / f"out{end}")) for end in (".npz", ".csv")]
    said.append(feature_files.embed("embedded", str(people), str(place / "deeper" / "OUT.SAFETENSORS")))
    assert all("5 images, 640 numbers each" in line for line in said)
    return place


def test_numpy_reads_the_npz(written, people, open_run):
    found = np.load(written / "out.npz")  # pickle is not allowed
    assert found["path"].tolist() == ["Ana/left/1.jpg", "Ana/left/2.jpg", *(f"Bo/left/{n}.jpg" for n in (30, 31, 32))]
    assert found["name"].tolist() == ["Ana"] * 2 + ["Bo"] * 3 and found["identity"].tolist() == [1, 1, 2, 2, 2]
    assert np.isnan(found["session"]).all() and found["aspect"].tolist() == ["left"] * 5
    assert found["embedding"].dtype == np.float32 and str(found["checkpoint"]).startswith("file ")
    clip = loading.load_network(open_run(variant="frozen")).backbone
    seen = see_by_hand(clip, [people / path for path in found["path"]])
    by_hand = normalize(torch.cat([seen.f, seen.f_proj], dim=1), dim=1)
    np.testing.assert_allclose(found["embedding"], by_hand.numpy(), atol=1e-6)
    assert np.abs(found["embedding"][:2] @ found["embedding"][2:].T - 1).max() > 1e-3  # they are not all one


def test_pandas_reads_every_digit_of_the_csv(written):
    table, found = pd.read_csv(written / "out.csv"), np.load(written / "out.npz")
    assert list(table)[:6] == ["path", "identity", "aspect", "session", "camera", "name"]
    numbers = table[[f"embedding_{place}" for place in range(640)]].to_numpy(np.float32)
    assert np.array_equal(numbers, found["embedding"]) and table["session"].isna().all()


def test_safetensors_reads_its_own(written):
    found = np.load(written / "out.npz")
    with safetensors.safe_open(written / "deeper" / "OUT.SAFETENSORS", framework="np") as file:
        assert np.array_equal(file.get_tensor("embedding"), found["embedding"])
        facts = json.loads(file.metadata()["facts"])
    table = pd.DataFrame(facts["data"], columns=facts["columns"])
    assert table["name"].tolist() == found["name"].tolist() and facts["checkpoint"] == str(found["checkpoint"])


def test_pandas_reads_parquet(written, people, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    feature_files.embed("embedded", str(people), str(tmp_path / "out.parquet"))
    table, found = pd.read_parquet(tmp_path / "out.parquet"), np.load(written / "out.npz")
    assert np.array_equal(np.stack(table["embedding"]), found["embedding"])
    assert table["name"].tolist() == found["name"].tolist() and table["session"].isna().all()
    assert parquet.read_schema(tmp_path / "out.parquet").metadata[b"checkpoint"].decode() == str(found["checkpoint"])


@pytest.mark.training
def test_a_trained_run_embeds_other_images_when_its_own_are_gone(open_run, hands, people, tmp_path, capsys):
    shutil.copytree(hands, tmp_path / "hands")
    run = open_run(
        fresh=tmp_path / "out",
        variant="classifier",
        dataset="folder",
        data_root=str(_as_folder(tmp_path)),
        test_features="after_neck",
        aspect="hand",
    )
    model = finetune(run)[1].eval()
    shutil.rmtree(tmp_path / "mine")
    assert main(["embed", str(run.folder), str(people), "--out", str(tmp_path / "e.npz")]) == 0
    assert "5 images" in capsys.readouterr().out
    found = np.load(tmp_path / "e.npz")
    seen = see_by_hand(model.backbone, sorted(people.rglob("*.jpg")))
    with torch.no_grad():
        after = torch.cat([model.head.norm(seen.f), model.head_proj.norm(seen.f_proj)], dim=1)
    np.testing.assert_allclose(found["embedding"], normalize(after, dim=1).numpy(), atol=1e-5)


def _as_folder(place):
    """Sort the tiny data set's dorsal right hands into a folder per person."""
    table = datasets.load_images("11k", place / "hands")
    for row in table[table["aspect"] == "dorsal_r"].itertuples():
        folder = place / "mine" / f"person {row.identity}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(place / "hands" / row.path, folder)
    return place / "mine"


def test_a_source_is_a_folder_or_a_part_of_a_data_set(hands, people, tmp_path):
    table, root = read_source(f"11k:palmar_l={hands}")
    assert set(table["aspect"]) == {"palmar_l"} and len(table) == 32 and root == hands
    assert table.index.tolist() == list(range(32)) and (root / table["path"][0]).is_file()
    assert len(read_source(f"demo={hands}")[0]) == 128  # the same layout
    odd = tmp_path / "11k=here"
    shutil.copytree(people, odd)
    assert read_source(str(odd))[0]["name"].tolist() == ["Ana"] * 2 + ["Bo"] * 3
    shutil.copytree(hands, tmp_path / "part")
    (tmp_path / "part" / "Hands" / "Hand_0000001.jpg").unlink()
    assert read_source(f"11k={tmp_path}/part")[0].attrs["missing"] == 1


@pytest.mark.parametrize(
    ("run", "source", "out", "told"),
    [
        ("embedded", "PEOPLE", "out.xlsx", "write a file that ends in .npz, .csv, .parquet or .safetensors"),
        ("embedded", "PEOPLE", "out", "write a file that ends in"),
        ("vit", "PEOPLE", "out.npz", "vit: is no run's folder and no backbone (embedded, vitb16"),
        ("PEOPLE", "PEOPLE", "out.npz", "is no run's folder (it holds no params.yaml)"),
        ("embedded", "nowhere", "out.npz", "nowhere: names no images; give a folder"),
        ("embedded", "12k=PEOPLE", "out.npz", "data sets: demo, 11k, hd, market1501, folder"),
        ("embedded", "folder:right=PEOPLE", "out.npz", "has no aspect right; it has left"),
        ("embedded", "PEOPLE", "PEOPLE/Ana/left/1.jpg/out.npz", "cannot be written"),
    ],
)
def test_mistakes_cost_one_line(run, source, out, told, people, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, source, out = (text.replace("PEOPLE", str(people)) for text in (run, source, out))
    assert main(["embed", run, source, "--out", out]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_parquet_says_what_it_needs(people, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["embed", "embedded", str(people), "--out", str(tmp_path / "out.parquet")]) == 2
    assert "parquet needs pyarrow (pip install pyarrow)" in capsys.readouterr().err


def test_an_image_that_is_none_is_named_and_nothing_is_written(people, tmp_path, capsys):
    shutil.copytree(people, tmp_path / "people")
    (tmp_path / "people" / "Bo" / "left" / "31.jpg").write_text("no picture")
    assert main(["embed", "embedded", str(tmp_path / "people"), "--out", str(tmp_path / "out.npz")]) == 2
    assert "Bo/left/31.jpg: is not an image" in capsys.readouterr().err
    assert not (tmp_path / "out.npz").exists()


def test_votes_are_no_embedding(open_run, people, tmp_path, capsys):
    run = open_run(variant="tip_adapter")
    assert main(["embed", str(run.folder), str(people), "--out", str(tmp_path / "out.npz")]) == 2
    assert "tip_adapter compares the votes of its training images" in capsys.readouterr().err
