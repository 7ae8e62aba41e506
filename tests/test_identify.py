"""Identification: photographs against an enrolled gallery, from Python and from the shell."""

import json
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from small_runs import finetune

from clipreid_lib.__main__ import main
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_json
from clipreid_lib.clip.encode import encode
from clipreid_lib.data.datasets import load_images
from clipreid_lib.data.photographs import decode
from clipreid_lib.pages import identified
from clipreid_lib.runs.loading import load_pretrained_encoder, load_trained_encoder
from clipreid_lib.runs.recognizer import VOTES, Recognizer
from clipreid_lib.scores import enrolled, identification, strangers
from clipreid_lib.scores.enrolled import Gallery
from clipreid_lib.scores.similarity import cosine_similarity

NAMES = ("Ada", "Bo", "Çelik", "Dee")


@pytest.fixture
def frozen(open_run, tmp_path):
    """A frozen run with outputs of its own, whose manifest is made."""
    run = open_run(fresh=tmp_path / "out", variant="frozen")
    run.manifest  # noqa: B018
    return run


@pytest.fixture
def photos(tmp_path, hands) -> Path:
    """PERSON/IMAGE of four people, three images each, and beside it one more image of each."""
    table = load_images("11k", hands)
    table = table[table["aspect"] == "dorsal_r"]
    for name, (_, mine) in zip(NAMES, table.groupby("identity"), strict=False):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number, path in enumerate(mine["path"]):
            place = tmp_path / f"{name} asks.jpg" if number == 3 else tmp_path / "photos" / name / f"{number}.jpg"
            shutil.copy(hands / path, place)
    return tmp_path / "photos"


@pytest.fixture
def singles(photos) -> Path:
    """The same people, one image each: what a run's thresholds are learned with."""
    for path in photos.glob("*/[1-9].jpg"):
        path.unlink()
    return photos


def learned(made_by, threshold=0.5, **more):
    rates = [{"fpir": 0.1, "threshold": threshold, "found": 0.08, "interval": [0.01, 0.2], "searches": 90}]
    rates.append({"fpir": 0.01, "threshold": None, "found": None, "interval": None, "searches": 90, "why": "too few"})
    costs = {"cllr": 0.5, "cllr_min": 0.4, "cllr_raw": 0.9}
    line = {"people": "test", "pairs": {"genuine": 90, "impostor": 720}, "slope": 20.0, "intercept": -10.0, **costs}
    on = {"persons": 9, "enrolled": 8}
    facts = {"people": "validation", **on, "why": "", "found_on": on}
    return {"checkpoint": made_by, "rates": rates, "calibration": line, **facts} | more


def expected(clip, root, asked):
    """Score people by plain numpy: {person: (score, image)} for each photograph."""

    def one(path):
        vector = encode(clip, torch.from_numpy(decode(path, clip.image_size))[None]).embedding[0].numpy().astype(float)
        return vector / np.linalg.norm(vector)

    shelf = {path: one(path) for path in sorted(root.glob("*/*.jpg"))}
    found = []
    for photograph in asked:
        mine, best = one(photograph), {}
        for path, vector in shelf.items():
            score = float(mine @ vector)
            if score > best.get(path.parent.name, (-2, ""))[0]:
                best[path.parent.name] = (score, path.relative_to(root).as_posix())
        found.append(best)
    return found


def test_people_rank_as_plain_numpy_ranks_them(frozen, photos, tmp_path):
    recognizer = Recognizer.load(frozen.folder)
    gallery = recognizer.enrol(photos)
    asked = [tmp_path / f"{name} asks.jpg" for name in NAMES]
    answer = recognizer.identify(asked, gallery, top=3)
    truth = expected(recognizer.backbone, photos, asked)
    for one, best in zip(answer.searches, truth, strict=True):
        order = sorted(best, key=lambda name: -best[name][0])[:3]
        assert one.people["person"].tolist() == order
        assert one.people["image"].tolist() == [best[name][1] for name in order]
        assert np.allclose(one.people["score"], [best[name][0] for name in order], atol=1e-5)
    one = recognizer.identify(asked[:2], gallery, top=9, together=True).searches[0]
    means = {name: (truth[0][name][0] + truth[1][name][0]) / 2 for name in NAMES}
    assert one.asked == ("Ada asks.jpg", "Bo asks.jpg")
    assert dict(zip(one.people["person"], one.people["score"], strict=True)) == pytest.approx(means, abs=1e-5)
    assert one.people["person"].tolist() == sorted(means, key=lambda name: -means[name])


def test_any_number_of_blocks_gives_the_same_scores(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    shelf = torch.nn.functional.normalize(torch.randn(10, 6, generator=generator), dim=1)
    table = pd.DataFrame({"path": [f"{n}.jpg" for n in range(10)], "identity": range(10), "aspect": "hand"})
    asked = torch.randn(3, 6, generator=generator)
    monkeypatch.setattr(enrolled, "BLOCK", 4)
    found = Gallery(table, shelf, [b""] * 10, "one").compare(asked)
    assert np.array_equal(found, cosine_similarity(asked, shelf))


def test_embeddings_are_those_that_notebook_04_scores(frozen, tmp_path):
    recognizer = Recognizer.load(frozen.folder)
    rows = frozen.manifest.test.head(4)
    paths = [frozen.data_root / path for path in rows["path"]]
    found = recognizer.embed(paths)
    scored = load_pretrained_encoder(frozen).embed(rows).values
    assert torch.allclose(found, torch.nn.functional.normalize(scored, dim=1), atol=1e-6)
    assert found.dtype == torch.float32 and torch.allclose(found.norm(dim=1), torch.ones(4))
    assert recognizer.checkpoint == load_pretrained_encoder(frozen).sha
    pictures = [Image.open(path) for path in paths]
    arrays = np.stack([np.asarray(image.convert("RGB")) for image in pictures])
    tensor = torch.from_numpy(arrays).permute(0, 3, 1, 2)
    for given in (pictures, arrays, [*arrays], tensor, [*tensor], [paths[0], pictures[1], arrays[2], tensor[3]]):
        # A JPEG file may be decoded at a fraction of its size, which moves pixels a little.
        assert (recognizer.embed(given) * found).sum(dim=1).min() > 0.999
    for one in (paths[0], str(paths[0]), pictures[0], arrays[0], tensor[0]):
        assert recognizer.embed(one).shape == (1, found.shape[1])


def test_a_photograph_lying_on_its_side_is_turned_upright(frozen, tmp_path):
    recognizer = Recognizer.load(frozen.folder)
    upright = Image.open(frozen.data_root / frozen.manifest.test["path"].iloc[0]).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    upright.save(tmp_path / "upright.png")
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "lying.png", exif=exif)
    both = recognizer.embed([tmp_path / "upright.png", tmp_path / "lying.png", Image.open(tmp_path / "lying.png")])
    assert torch.equal(both[0], both[1]) and torch.equal(both[0], both[2])
    assert not torch.allclose(both[0], recognizer.embed(upright.transpose(Image.Transpose.ROTATE_90))[0], atol=1e-3)


def test_a_verdict_says_a_name_above_the_threshold_alone(frozen, singles, tmp_path):
    gallery = Recognizer.load(frozen.folder).enrol(singles)
    asked = tmp_path / "Ada asks.jpg"

    def ask(**more):
        recognizer = Recognizer.load(frozen.folder)
        write_json(frozen.folder / "thresholds.json", learned(recognizer.checkpoint, **more))
        return Recognizer.load(frozen.folder).identify(asked, gallery, fpir=0.1)

    plain = Recognizer.load(frozen.folder).identify(asked, gallery)
    assert plain.verdict.startswith("ranks only: ") and "has no thresholds" in plain.verdict
    assert plain.searches[0].found is None and "llr" not in plain.people
    best = float(plain.scores[0])
    who = plain.people["person"].iloc[0]
    above, level = ask(threshold=best - 1e-3), ask(threshold=best)
    assert above.searches[0].found == who and above.verdict.startswith(f"{who}: the score, {best:.4f}, is above")
    assert "at most 10 % of searches for strangers exceeded" in above.verdict
    assert level.searches[0].found is None and level.verdict.startswith(f"no name: the best score, {best:.4f} ({who})")
    assert np.allclose(above.people["llr"], 20 * above.scores - 10, atol=1e-4)
    assert not any("so more may" in note for note in above.notes)
    more = ask(enrolled=2)  # and 4 here: twice as many may exceed it
    assert any("Here 4 people are enrolled, so more may." in note for note in more.notes)
    assert "which up to 20 % of searches for strangers may exceed" in more.verdict
    assert "of the very people" in ask(people="test").notes[0]
    second = ask(threshold=float(plain.scores[1]) - 1e-4).searches[0]
    assert second.notes == ("2 people are above the threshold; the verdict names the first.",)
    assert above.searches[0].notes == ()
    assert "are of another checkpoint" in ask(checkpoint="other").verdict
    write_json(frozen.folder / "thresholds.json", learned(Recognizer.load(frozen.folder).checkpoint))
    recognizer = Recognizer.load(frozen.folder)
    assert recognizer.identify(asked, gallery, fpir=0.01).verdict.endswith(
        "supports no threshold for 1 %, too few; --fpir 0.1 has one"
    )
    with pytest.raises(UserError, match="0.2 has no threshold; there are some for 0.1, 0.03, 0.01, 0.003, 0.001"):
        recognizer.identify(asked, gallery, fpir=0.2)


def make_gallery(people: int, images: int, spread: float, seed: int = 0) -> Gallery:
    """People as random directions, their images around them."""
    random = np.random.default_rng(seed)
    person = np.repeat(np.arange(people), images)
    values = random.normal(size=(people, 16))[person] + spread * random.normal(size=(len(person), 16))
    paths = [f"{who}/{number}.jpg" for number, who in enumerate(person)]
    table = pd.DataFrame({"path": paths, "identity": person, "aspect": "hand"})
    unit = torch.nn.functional.normalize(torch.from_numpy(values).float(), dim=1)
    return Gallery(table, unit, [b"-"] * len(person), "key")


def test_a_gallery_of_several_images_a_person_has_a_threshold_of_its_own():
    """Against loops; strangers pass it as often as it promises, and one of single images twice as often."""
    gallery = make_gallery(people=60, images=4, spread=1.0)
    unit, person = gallery.embeddings.double().numpy(), gallery.person
    stranger, mate = [], []
    for asks in range(len(unit)):
        scores = {
            who: max(unit[row] @ unit[asks] for row in np.flatnonzero(person == who) if row != asks)
            for who in range(60)
        }
        own = scores.pop(person[asks])
        stranger.append(max(scores.values()))
        mate.append(own if own > stranger[-1] else -np.inf)
    searched = strangers.search_enrolled(gallery, 0.1)
    assert searched.non_mated["score"].to_numpy() == pytest.approx(stranger, abs=1e-6)
    assert np.allclose(np.exp(searched.mated["score"]), np.exp(mate), atol=1e-6) and searched.enrolled == (59, 59)
    made = learned("sha", threshold=0.1)
    bar = identification.set_bar(made, "sha", 0.1, gallery, "run")
    assert bar.threshold == pytest.approx(sorted(stranger)[::-1][24], abs=1e-6)  # 24 of 240 exceed it
    missed = np.mean(np.array(mate) <= bar.threshold)
    assert f"{100 * missed:.1f} [" in bar.notes[1] and "from the gallery: 240 of its photographs" in bar.notes[0]
    assert bar.line == (20.0, -10.0) and identification.set_bar(made, "other", 0.1, gallery, "run").line is None
    others = make_gallery(people=400, images=1, spread=1.0, seed=1).embeddings  # strangers, all of them
    best = gallery.compare(others).max(axis=1)
    assert 0.06 < (best > bar.threshold).mean() < 0.16
    alone = make_gallery(people=60, images=4, spread=1.0)
    single = Gallery(alone.table[::4], alone.embeddings[::4], [b"-"] * 60, "key")
    assert (best > strangers.search_enrolled(single, 0.1).threshold(0.1)).mean() > 0.2
    assert identification.set_bar(made, "sha", 0.1, single, "run").threshold == 0.1  # one each: the run's own
    told = identification.set_bar(made, "sha", 0.01, gallery, "run")
    assert told.threshold is None and told.why.endswith("; --fpir 0.1 has one")


def test_a_second_photograph_of_one_person_leaves_the_runs_threshold():
    """Sixty images of fifty-nine people are too few for a threshold of their own."""
    gallery = make_gallery(people=60, images=1, spread=1.0)
    gallery = Gallery(gallery.table.assign(identity=[1, *range(1, 60)]), gallery.embeddings, [b"-"] * 60, "key")
    bar = identification.set_bar(learned("sha", threshold=0.4), "sha", 0.1, gallery, "run")
    assert bar.threshold == 0.4 and bar.line == (20.0, -10.0) and "learned from 9 validation people" in bar.notes[0]
    assert "Here 60 photographs are enrolled, so more may." in bar.notes[1] and bar.most == 0.75
    none = identification.set_bar(None, "sha", 0.1, gallery, "embedded")
    assert none.threshold is None and "the gallery supports no threshold for 10 %" in none.why
    alone = Gallery(gallery.table[:2], gallery.embeddings[:2], [b"-"] * 2, "key")
    assert identification.set_bar(None, "sha", 0.1, alone, "embedded").threshold is None  # one person, nobody mated


def test_of_a_large_gallery_some_ask_chosen_by_chance():
    gallery = make_gallery(people=1500, images=2, spread=1.0)
    searched = strangers.search_enrolled(gallery, 0.1)
    assert len(searched.non_mated) == strangers.MOST == 2000 and searched is strangers.search_enrolled(gallery, 0.03)
    second = searched.non_mated["path"].str.extract(r"/(\d+)", expand=False).astype(int) % 2  # of its person's two
    assert 900 < second.sum() < 1100
    assert len(strangers.search_enrolled(gallery, 0.003).non_mated) == 3000  # all: a rate needs so many
    gallery.forget("7")
    assert gallery.searched == {}


def test_an_llr_stays_within_what_so_many_people_support():
    gallery = make_gallery(people=20, images=1, spread=0.3)
    bar = identification.Bar(0.1, None, "none", (), (20.0, -10.0), (-3.0, 5.3))
    (found,) = identification.search(gallery, ["me"], gallery.embeddings[:1], bar, 20, False)
    assert found.people["llr"].max() == 5.3 and found.people["llr"].min() == -3.0
    assert "kept from -3.0 to +5.3" in identified.explain_ratio(bar)
    assert identified.explain_ratio(identification.Bar(0.1, None)) == identified.RATIO


def test_a_forgotten_person_is_in_no_file_any_more(frozen, photos, tmp_path):
    recognizer = Recognizer.load(frozen.folder)
    gallery = recognizer.enrol(photos)
    (kept,) = gallery.files
    gallery.save(tmp_path / "saved.safetensors")
    gallery = recognizer.enrol(photos)  # of another day: read from the file
    gallery.save(tmp_path / "saved.safetensors")
    rows = {name: np.flatnonzero(gallery.people == name) for name in NAMES}
    traces = {
        name: [gallery.embeddings[row].numpy().tobytes() for row in mine]
        + [gallery.read_picture(row) for row in mine]
        + [f"{name}/".encode()]
        for name, mine in rows.items()
    }
    assert all(len(mine) == 7 and min(map(len, mine)) > 2 for mine in traces.values())
    before = {name: sum(trace in kept.read_bytes() for trace in mine) for name, mine in traces.items()}
    assert before == dict.fromkeys(NAMES, 7)
    gallery.forget("Bo")
    for file in (kept, tmp_path / "saved.safetensors"):
        content = file.read_bytes()
        assert {name: sum(trace in content for trace in mine) for name, mine in traces.items()} == {**before, "Bo": 0}
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]  # nor in a file beside it
    for each in (gallery, recognizer.enrol(photos), Gallery.load(tmp_path / "saved.safetensors")):
        assert len(each) == 9 and set(each.people) == {"Ada", "Çelik", "Dee"}
        found = recognizer.identify(photos / "Dee" / "1.jpg", each).people
        assert found["person"].iloc[0] == "Dee" and "Bo" not in set(found["person"])
        assert found["image"].iloc[0] == "Dee/1.jpg"
        assert each.read_picture(each.table["path"].tolist().index("Dee/1.jpg")) == traces["Dee"][4]
    with pytest.raises(UserError, match="nobody of 3 people enrolled is called 'Bo'"):
        gallery.forget("Bo")
    for name in ("Ada", "Çelik", "Dee"):
        gallery.forget(name)
    with pytest.raises(UserError, match="nobody is enrolled in it"):
        recognizer.identify(tmp_path / "Ada asks.jpg", Gallery.load(kept))


def test_the_shell_forgets_a_person_in_the_files_that_have_them(frozen, photos, tmp_path, capsys):
    recognizer = Recognizer.load(frozen.folder)
    both, files = recognizer.enrol(photos), [str(tmp_path / f"{name}.safetensors") for name in ("with", "without")]
    both.save(files[0])
    kept = Gallery.load(files[0])
    kept.files = []
    kept.forget("Bo")
    kept.save(files[1])
    untouched = Path(files[1]).read_bytes()
    assert main(["forget", "Bo", *files]) == 0
    said = capsys.readouterr().out
    assert f"{files[0]}: 3 images of Bo removed; 9 images of 3 people stay" in said and files[1] not in said
    assert "Bo" not in Gallery.load(files[0]).names and Path(files[1]).read_bytes() == untouched
    before = Path(files[0]).read_bytes()
    assert main(["forget", "Adah", *files]) == 2
    assert "nobody of 3 people enrolled is called 'Adah'; nearest: Ada" in capsys.readouterr().err
    assert main(["forget", "Ada", files[0], "nowhere.safetensors"]) == 2 and Path(files[0]).read_bytes() == before


def test_a_saved_gallery_comes_back_whole_and_says_what_it_holds(frozen, photos, tmp_path):
    recognizer = Recognizer.load(frozen.folder)
    gallery = recognizer.enrol(f"demo:dorsal_r={frozen.data_root}")
    gallery.save(tmp_path / "one.safetensors")
    back = recognizer.enrol(tmp_path / "one.safetensors")
    pd.testing.assert_frame_equal(back.table, gallery.table, check_dtype=False)
    assert torch.equal(back.embeddings, gallery.embeddings)
    assert [back.read_picture(row) for row in range(len(back))] == [
        gallery.read_picture(row) for row in range(len(back))
    ]
    content = (tmp_path / "one.safetensors").read_bytes()
    head = content[8 : 8 + int.from_bytes(content[:8], "little")].decode()
    people = gallery.table["identity"].nunique()
    assert f"biometric data: for {len(gallery)} images of {people} people" in head
    assert str(tmp_path).encode() not in content and str(frozen.data_root).encode() not in content
    size = Image.open(photos / "Ada" / "0.jpg").size
    assert max(back.open_picture(0, 96).size) == min(160, max(size)) and back.root is None


def test_galleries_are_joined_by_name(frozen, photos, tmp_path):
    recognizer = Recognizer.load(frozen.folder)
    for name in ("Dee", "Abe"):
        (tmp_path / "more" / name).mkdir(parents=True)
        shutil.copy(tmp_path / "Dee asks.jpg", tmp_path / "more" / name / "new.jpg")
    one, other = recognizer.enrol(photos), recognizer.enrol(tmp_path / "more")
    with pytest.raises(UserError, match="both hold an image Ada/0.jpg"):
        one.add(recognizer.enrol(photos))
    one.add(other)
    assert len(one) == 14 and sorted(set(one.people)) == ["Abe", "Ada", "Bo", "Dee", "Çelik"]
    assert (one.table.groupby("name")["identity"].nunique() == 1).all() and one.table["identity"].nunique() == 5
    found = recognizer.identify(tmp_path / "Dee asks.jpg", one)
    assert found.people["person"].tolist()[:2] == ["Abe", "Dee"]
    assert "is enrolled itself, or a copy" in found.searches[0].notes[0]
    asked = recognizer.embed(tmp_path / "Dee asks.jpg")
    (tied,) = identification.search(one, ["Dee asks.jpg"], asked, identification.Bar(0.1, 0.5), 5, False)
    assert tied.verdict.startswith("Abe or Dee: ") and tied.found is None
    assert one.read_picture(13) == other.read_picture(1) and len(recognizer.enrol(photos)) == 12  # in memory alone


def test_what_was_enrolled_is_read_again_until_something_changes(frozen, photos, capsys, monkeypatch):
    recognizer = Recognizer.load(frozen.folder)
    first = recognizer.enrol(photos)
    monkeypatch.setattr(Recognizer, "_encode", lambda *_: pytest.fail("encoded again"))
    again = recognizer.enrol(photos)
    assert torch.equal(again.embeddings, first.embeddings) and again.files == first.files
    monkeypatch.undo()
    shutil.copy(photos / "Ada" / "0.jpg", photos / "Bo" / "new.jpg")
    with pytest.raises(UserError, match="photographs have changed since they were enrolled; --again"):
        recognizer.enrol(photos)
    assert len(recognizer.enrol(photos, again=True)) == 13 and len(recognizer.enrol(photos)) == 13
    other = Recognizer.load("embedded")
    other.key = "another"
    with pytest.raises(UserError, match="was enrolled by embedded .*, not by another; enrol its photographs again"):
        other.enrol(first.files[0])
    recognizer.key = "another"
    with pytest.raises(UserError, match="was enrolled by embedded .*, not by another; --again"):
        recognizer.enrol(photos)


def test_images_that_show_nothing_are_left_out_and_told(frozen, photos, capsys):
    (photos / "Ada" / "0.jpg").write_text("no image")
    for number in range(3):
        Image.new("RGB", (90, 90), "grey").save(photos / "Bo" / f"{number}.jpg")
    gallery = Recognizer.load(frozen.folder).enrol(photos)
    assert len(gallery) == 8 and "Bo" not in gallery.names
    told = capsys.readouterr().err.splitlines()
    assert told[0] == "Ada/0.jpg: not enrolled, it cannot be read"
    assert told[1] == "Bo/0.jpg: not enrolled, it is of one colour"
    assert told[4:] == ["Bo: has no image that can be enrolled"]


def listing(*folders):
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {path: path.read_bytes() for path in files if "demo_hands" not in path.parts}


def test_the_command_writes_what_it_names_and_no_path_of_this_machine(frozen, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = listing(tmp_path)
    asked = ["identify", str(frozen.folder), "Ada asks.jpg", "photos/Bo/1.jpg", "--gallery", "photos", "--out", "here"]
    assert main([*asked, "--top", "2"]) == 0
    said = capsys.readouterr().out
    written = {path: content for path, content in listing(tmp_path).items() if before.get(path) != content}
    sheets = {tmp_path / "here" / name for name in ("Ada_asks.jpg", "1.jpg", "index.html")}
    (kept,) = set(written) - sheets
    assert set(written) > sheets and kept.parent == frozen.folder / "enrolled"
    assert str(kept) in said and all(f"here/{path.name}" in said for path in sheets)
    assert said.count("ranks only: ") == 2 and "1.jpg is enrolled itself" in said
    for path, content in written.items():
        assert str(tmp_path).encode() not in content and str(Path.home()).encode() + b"/" not in content, path
    assert main([*asked, "--json", "--together"]) == 0
    text = capsys.readouterr().out
    found = json.loads(text)
    assert str(tmp_path) not in text
    assert found["sheets"] == ["Ada_asks-together.jpg"] and found["page"] == "index.html"
    assert found["gallery"] == {"images": 12, "people": 4, "aspects": ["hand"]} and found["threshold"] is None
    (one,) = found["searches"]
    assert one["asked"] == ["Ada asks.jpg", "1.jpg"] and [each["rank"] for each in one["people"]] == [1, 2, 3, 4]
    assert all((photos / each["image"]).is_file() for each in one["people"])
    with Image.open("here/Ada_asks-together.jpg") as sheet:
        assert sheet.width > 1000 and sheet.height > 1000


def test_without_a_gallery_the_runs_own_test_gallery_is_searched(frozen, tmp_path, capsys):
    query, gallery = frozen.manifest.draw(0)
    one = query.iloc[0]
    asked = [
        "identify",
        str(frozen.folder),
        str(frozen.data_root / one["path"]),
        "--out",
        str(tmp_path / "x"),
        "--json",
    ]
    assert main(asked) == 0
    found = json.loads(capsys.readouterr().out)
    own = gallery[gallery["role"] == "test"]
    assert found["gallery"] == {"images": len(own), "people": own["identity"].nunique(), "aspects": ["dorsal_r"]}
    encoder = load_pretrained_encoder(frozen)
    alike = cosine_similarity(encoder.embed(query.head(1)).of(query.head(1)), encoder.embed(own).of(own))[0]
    assert found["searches"][0]["people"][0]["image"] == own["path"].iloc[int(alike.argmax())]
    assert found["searches"][0]["people"][0]["score"] == pytest.approx(alike.max(), abs=1e-5)


def test_another_aspect_than_the_runs_is_told(frozen):
    recognizer = Recognizer.load(frozen.folder)
    gallery = recognizer.enrol(f"11k:palmar_r={frozen.data_root}")
    photograph = frozen.data_root / gallery.table["path"].iloc[0]
    notes = recognizer.identify(photograph, gallery).notes
    assert "The run was tested on dorsal_r, the gallery shows palmar_r." in notes
    assert f"The run was tested on dorsal_r, {photograph.name} shows palmar_r." in notes
    own = recognizer.enrol(f"11k:dorsal_r={frozen.data_root}")
    assert recognizer.identify(photograph, own).notes == []


def test_mistakes_are_one_line(frozen, photos, open_run, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("text")
    (tmp_path / "nobody").mkdir()
    Image.new("RGB", (90, 90), "white").save(tmp_path / "blank.png")
    ada, run = str(tmp_path / "Ada asks.jpg"), str(frozen.folder)
    untrained = open_run(fresh=tmp_path / "out", variant="classifier")
    votes = open_run(fresh=tmp_path / "out", variant="tip_adapter")
    for each in (untrained, votes):
        each.manifest  # noqa: B018
    for arguments, message in {
        (run, str(tmp_path / "text.jpg")): "text.jpg: is not an image that can be read",
        (run, str(tmp_path / "gone.jpg")): "gone.jpg: image not found",
        (run, str(tmp_path / "blank.png")): "blank.png: is of one colour; it shows no hand",
        (run, str(photos)): "photos: is a folder; give photographs, such as",
        (run, ada, "--gallery", str(tmp_path / "nobody")): "holds neither a CSV nor a person's folder",
        (run, ada, "--gallery", "rubbish"): "rubbish: names no images",
        (run, ada, "--gallery", str(tmp_path / "gone.safetensors")): "gone.safetensors: checkpoint not found",
        (run, ada, "--fpir", "7"): "fpir: 7 is no share of searches",
        (run, ada, "--top", "0"): "give at least 1",
        (str(photos), ada): "is no run's folder",
        ("resnet", ada): "resnet: is no run's folder and no backbone (embedded, vitb16",
        ("embedded", ada): "embedded: a frozen backbone has no test gallery; give one",
        (str(untrained.folder), ada): "no trained encoder there; run notebook 03",
        (str(votes.folder), ada): VOTES,
    }.items():
        assert main(["identify", *arguments, *([] if "--gallery" in arguments else ["--out", str(tmp_path)])]) == 2
        told = capsys.readouterr().err
        assert message in told and told.count("\n") == 1, told
    recognizer = Recognizer.load(frozen.folder)
    for given, message in {
        "uint8, ": np.zeros((9, 9, 3), np.float32),
        "shape (9, 9, 4)": np.zeros((9, 9, 4), np.uint8),
        "none are given": [],
    }.items():
        with pytest.raises(UserError) as caught:
            recognizer.embed(message)
        assert given in str(caught.value)


def test_a_result_shows_itself_in_a_notebook(frozen, photos, tmp_path):
    recognizer = Recognizer.load(frozen.folder)
    Path(tmp_path / "a<b>.jpg").write_bytes((tmp_path / "Ada asks.jpg").read_bytes())
    write_json(frozen.folder / "thresholds.json", learned(recognizer.checkpoint, people="test"))
    answer = Recognizer.load(frozen.folder).identify(tmp_path / "a<b>.jpg", recognizer.enrol(photos))
    shown = answer._repr_html_()
    assert repr(answer) == f"a<b>.jpg: {answer.verdict}"
    assert "a&lt;b&gt;.jpg: ranks only" in shown and "a<b>" not in shown
    assert shown.count("data:image/jpeg;base64,") == 1 and "Ada" in shown and str(tmp_path) not in shown


def test_threads_ask_one_recognizer(frozen, photos, tmp_path):
    recognizer = Recognizer.load(frozen.folder)
    gallery = recognizer.enrol(photos)
    asked = [tmp_path / f"{name} asks.jpg" for name in NAMES]
    alone = [recognizer.identify(one, gallery) for one in asked]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: recognizer.identify(one, gallery, top=2), asked * 3))
    for one, other in zip(alone * 3, found, strict=True):
        assert one.people.head(2).equals(other.people)


@pytest.mark.training
def test_a_trained_run_needs_its_data_no_more(open_run, photos, tmp_path):
    run = open_run(fresh=tmp_path / "out", variant="classifier", test_features="after_neck")
    finetune(run)
    rows = run.manifest.test.head(3)
    scored = load_trained_encoder(run).embed(rows).values
    for path in rows["path"]:
        shutil.copy(run.data_root / path, tmp_path)
    (tmp_path / "out" / "demo_hands").unlink()
    shutil.move(run.folder, tmp_path / "elsewhere")
    recognizer = Recognizer.load(tmp_path / "elsewhere")
    found = recognizer.embed([tmp_path / Path(path).name for path in rows["path"]])
    assert torch.allclose(found, torch.nn.functional.normalize(scored, dim=1), atol=1e-6)
    assert not (tmp_path / "out" / "demo_hands").exists()
    answer = recognizer.identify(tmp_path / "Ada asks.jpg", recognizer.enrol(photos))
    assert "the gallery supports no threshold" in answer.verdict


def test_the_library_alone_stays_light():
    code = "import sys, clipreid_lib; sys.exit('torch' in sys.modules or not hasattr(clipreid_lib, '__version__'))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = "import sys; from clipreid_lib import Recognizer, __main__ as m; from clipreid_lib.runs import identify; "
    code += "sys.exit(bool({'matplotlib.pyplot', 'seaborn', 'sklearn', 'imagehash', 'papermill'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_page_opens_without_a_network(frozen, singles, tmp_path, look):
    recognizer = Recognizer.load(frozen.folder)
    write_json(frozen.folder / "thresholds.json", learned(recognizer.checkpoint, threshold=0.2))
    recognizer = Recognizer.load(frozen.folder)
    asked = [tmp_path / "Ada asks.jpg", tmp_path / "Bo asks.jpg"]
    page = recognizer.identify(asked, recognizer.enrol(singles), fpir=0.1).write(tmp_path / "page")[-1]
    for width in (1200, 390):
        shown = look(page, width)
        assert shown.locator("h2").all_inner_texts() == ["Ada asks.jpg", "Bo asks.jpg", "What this says"]
        assert shown.evaluate("[...document.images].every(image => image.naturalWidth > 500)")
        assert shown.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        text = shown.inner_text("body")
        assert "is above 0.2000" in text and "LLR" in text and "learned from 9 validation people" in text


def test_a_sheet_of_another_photograph_of_that_name_stays(singles, tmp_path):
    recognizer = Recognizer.load("embedded")
    gallery = recognizer.enrol(singles)
    asked = []
    for camera, name in (("a", "Ada"), ("b", "Bo")):
        (tmp_path / camera).mkdir()
        asked.append(shutil.copy(tmp_path / f"{name} asks.jpg", tmp_path / camera / "1.jpg"))
    first, second = (recognizer.identify(each, gallery) for each in asked)
    page = tmp_path / "page"
    assert [path.name for path in first.write(page)] == ["1.jpg", "index.html"]
    before = (page / "1.jpg").read_bytes()
    for _ in range(2):  # the same search again is the same sheet
        assert [path.name for path in second.write(page)] == ["1-2.jpg", "index.html"]
        assert [path.name for path in first.write(page)] == ["1.jpg", "index.html"]
    assert (page / "1.jpg").read_bytes() == before != (page / "1-2.jpg").read_bytes()
    assert sorted(path.name for path in page.iterdir()) == ["1-2.jpg", "1.jpg", "index.html"]


def test_a_gallerys_file_cannot_be_enrolled_again(singles, tmp_path):
    recognizer = Recognizer.load("embedded")
    recognizer.enrol(singles).save(tmp_path / "kept.safetensors")
    assert len(recognizer.enrol(tmp_path / "kept.safetensors").people) == len(NAMES)
    with pytest.raises(UserError, match="kept.safetensors: is a gallery's file, which has no photographs to enrol"):
        recognizer.enrol(tmp_path / "kept.safetensors", again=True)


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (b"x", "image: bytes; give a path, a PIL image, or uint8"),
        ([b"x"], "image: bytes; give"),
        (np.zeros((9, 10)), r"image: float64 of shape \(9, 10\); give uint8"),
        (torch.zeros(9, 10, dtype=torch.uint8), r"image: uint8 of shape \(9, 10\); give"),
    ],
)
def test_what_is_no_picture_is_told(singles, image, told):
    recognizer = Recognizer.load("embedded")
    with pytest.raises(UserError, match=told):
        recognizer.identify(image, recognizer.enrol(singles))
