"""Notebook 05's question with a photograph of one's own, in a batch run and where somebody can click."""

import os
import shutil
from datetime import UTC, datetime

import ipywidgets
import pytest
from small_rankings import random_ranking

from clipreid_lib.data.datasets import load_images
from clipreid_lib.params import schema
from clipreid_lib.runs import identify, loading, own_photograph, rankings
from clipreid_lib.runs.recognizer import VOTES, Recognizer


@pytest.fixture
def photos(tmp_path, hands):
    """PERSON/IMAGE of two people, and beside it one more image of each."""
    table = load_images("11k", hands)
    for name, (_, mine) in zip(("Ada", "Bo"), table[table["aspect"] == "dorsal_r"].groupby("identity"), strict=False):
        (tmp_path / "photos" / name).mkdir(parents=True)
        shutil.copy(hands / mine["path"].iloc[0], tmp_path / "photos" / name / "0.jpg")
        shutil.copy(hands / mine["path"].iloc[1], tmp_path / f"{name} asks.jpg")
    return tmp_path / "photos"


def rank(run):
    encoder = loading.load_pretrained_encoder(run)
    *_, ranking = rankings.rank_stages(run, encoder, encoder).values()
    return ranking


def test_without_parameters_a_test_image_asks_the_test_gallery(open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="frozen", seed=3)
    answer = own_photograph.ask(run, ranking := rank(run))
    (asked,) = answer.searches[0].asked
    assert asked in {path.rpartition("/")[2] for path in ranking.query["path"]}
    assert set(answer.gallery.table["path"]) <= set(ranking.gallery["path"])
    assert run.figure("who_is_it.png").is_file()
    for path in ranking.gallery["path"]:
        (run.data_root / path).touch()  # photographs that are written anew are enrolled anew
    assert own_photograph.ask(run, ranking).verdict == answer.verdict


def test_who_was_forgotten_stays_forgotten(open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="frozen")
    answer = own_photograph.ask(run, ranking := rank(run))
    gone, (file,) = answer.gallery.names[0], answer.gallery.files
    identify.forget(str(gone), [str(file)])
    again = own_photograph.ask(run, ranking).gallery
    assert gone not in again.names and len(again.names) == len(answer.gallery.names) - 1


def test_the_parameters_name_photograph_and_gallery(open_run, photos, tmp_path):
    mine = {"photograph": str(tmp_path / "Bo asks.jpg"), "gallery_root": str(photos)}
    run = open_run(fresh=tmp_path / "out", variant="frozen", **mine)
    answer = own_photograph.ask(run, rank(run))
    assert answer.searches[0].asked == ("Bo asks.jpg",) and sorted(answer.people["person"]) == ["Ada", "Bo"]


@pytest.mark.parametrize("own", [True, False])
def test_a_gallery_of_other_data_is_told_where_the_threshold_comes_from(own, open_run, photos, tmp_path, hands):
    run = open_run(fresh=tmp_path / "out", variant="frozen", dataset="11k", data_root=str(hands))
    recognizer = Recognizer.load(run.folder)
    recognizer.thresholds = {"rates": []}  # as if notebook 04 had been done
    told = recognizer._warn(recognizer.enrol(f"11k:dorsal_r={hands}" if own else str(photos)), [])
    assert any("learned thresholds and LLR on photographs of 11k" in each for each in told) is not own


def test_the_gallery_may_be_a_part_of_a_data_set(open_run, hands, tmp_path):
    place = os.path.relpath(hands, schema.ROOT)  # from the project's folder
    run = open_run(fresh=tmp_path, variant="frozen", gallery_root=f"11k:palmar_r={place}")
    answer = own_photograph.ask(run, rank(run))
    assert set(answer.gallery.table["aspect"]) == {"palmar_r"} and answer.gallery.root == hands.resolve()
    assert "The run was tested on dorsal_r, the gallery shows palmar_r." in answer.notes


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"variant": "tip_adapter"}, VOTES),
        ({"variant": "classifier", "side_info": "camera"}, "was trained with each image's camera, which a photograph"),
        ({"variant": "frozen", "photograph": "/nowhere/who.jpg"}, "who.jpg: image not found"),
        ({"variant": "frozen", "gallery_root": "/nowhere"}, "/nowhere: names no images"),
    ],
)
def test_what_cannot_be_asked_is_told_in_a_line(more, told, open_run, tmp_path, capsys):
    run = open_run(fresh=tmp_path, **more)
    run.manifest  # noqa: B018
    assert own_photograph.ask(run, random_ranking()) is None
    said = capsys.readouterr().out
    assert told in said and said.count("\n") == 1 and not run.figure("who_is_it.png").exists()


def test_an_upload_asks_the_same_gallery(open_run, photos, tmp_path, monkeypatch):
    run = open_run(fresh=tmp_path / "out", variant="frozen", gallery_root=str(photos))
    monkeypatch.setattr(own_photograph, "can_click", lambda: True)
    assert isinstance(own_photograph.ask(run, rank(run)), ipywidgets.VBox)
    recognizer = Recognizer.load(run.folder)
    gallery = recognizer.enrol(photos)
    upload = own_photograph.Upload(recognizer, gallery, recognizer.identify(tmp_path / "Ada asks.jpg", gallery))

    def send(name, content):
        file = {"name": name, "type": "image/jpeg", "size": len(content), "content": memoryview(content)}
        upload.button.value = ({**file, "last_modified": datetime.now(UTC)},)

    first = upload.shown.value
    send("Bo asks.jpg", (tmp_path / "Bo asks.jpg").read_bytes())
    second = upload.shown.value
    expected = recognizer.identify(tmp_path / "Bo asks.jpg", gallery).people["person"].tolist()
    assert second != first and upload.status.value == "Bo asks.jpg"
    assert second.index(f"<td>{expected[0]}</td>") < second.index(f"<td>{expected[1]}</td>")
    send("text.jpg", b"no picture")
    assert upload.status.value.startswith("text.jpg: is not an image") and upload.shown.value == second
    upload.button.value = ()
    assert upload.shown.value == second
