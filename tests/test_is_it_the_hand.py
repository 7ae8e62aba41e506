"""Is it the hand? Masks against drawn ones, changes pixel by pixel, and the table counted by hand."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.clip.encode import encode
from clipreid_lib.data.changed_pixels import CHANGES, change_all
from clipreid_lib.data.hand_mask import find_hand, to_lab
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.embedded import hand_drawing, hand_sessions
from clipreid_lib.embedded.hand_people import Person
from clipreid_lib.pages import mask_sheet, report, report_scores
from clipreid_lib.runs import embeddings, loading, results
from clipreid_lib.scores import hand_test
from clipreid_lib.scores.assessment import assess
from clipreid_lib.scores.evaluation import evaluate
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.finished_run import FinishedRun
from clipreid_lib.scores.hand_table import BACKGROUND, describe_refused, names_by_background, tabulate
from clipreid_lib.scores.hand_test import HandTest, compare_changed

SIZE = (160, 120)


def shoot(person: int, session: int = 0, shot: int = 0, **scene) -> np.ndarray:
    """Draw a hand, with some of its scene set by the test."""
    hand, place = hand_sessions.set_up_shot(Person(person, 0), "dorsal right", session, shot, 1.0, SIZE, 0)
    for name, value in scene.items():
        setattr(place, name, value)
    return hand_drawing.render(hand, place)


def true_cover(person: int, session: int = 0) -> np.ndarray:
    """Where the hand and its sleeve are, (H, W) bool: where a black and a white backdrop make no difference."""
    plain = {"shadow_dark": 0.0, "slope": (0.0, 0.0), "blur": 0.0, "grain": np.zeros(SIZE[::-1]), "sleeve": None}
    black, white = (shoot(person, session, background=np.full(3, level), **plain) for level in (0.0, 1.0))
    return (white.astype(int) - black).mean(axis=2) < 127.5


def expose(image: np.ndarray, light: float) -> np.ndarray:
    return (image * light).round().clip(0, 255).astype(np.uint8)


def fit(image: np.ndarray, side: int = 96) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


def test_masks_are_those_that_were_drawn():
    overlaps = []
    for person in range(24):
        found = find_hand(fit(shoot(person, sleeve=None)))
        assert found.refused == ""
        true = fit(true_cover(person).astype(np.uint8) * 255) > 127
        overlaps.append((found.mask & true).sum() / (found.mask | true).sum())
    assert np.median(overlaps) >= 0.95 and min(overlaps) > 0.8


@pytest.mark.parametrize("light", [1.0, *(pytest.param(each, marks=pytest.mark.heavy) for each in (1.3, 1.6)), 2.0])
@pytest.mark.parametrize("grain", [0, 8])
def test_the_background_alone_is_the_empty_table(light, grain):
    """Drawn without the hand; also with grain, and with light in which skin is as white as the table and masks miss it.

    A pixel has something of the hand where it is more than a visible step of 8 levels off the table.
    """
    rng, hands, stayed, missed = np.random.default_rng(0), 0, [], []
    for person in range(40):
        plain = {"sleeve": None, "grain": np.zeros(SIZE[::-1])}
        image, table = (fit(expose(shoot(person, **plain, **place), light)) for place in ({}, {"centre": (-1e4, 0.0)}))
        image = np.clip(image + rng.normal(0, grain, (96, 96, 1)), 0, 255).astype(np.uint8)
        found = find_hand(image)
        if found.refused:
            continue
        true = fit(true_cover(person).astype(np.uint8) * 255) > 127
        off = np.abs(change(BACKGROUND, image, found.mask).astype(int) - table).max(axis=2) > 8
        hands, stayed, missed = (
            hands + 1,
            [*stayed, off[true].mean(), off.mean()],
            [*missed, (true & ~found.mask).mean()],
        )
    assert hands >= 15 and max(stayed) < 0.001
    assert light < 1.6 or grain or max(missed) > 0.05  # else this asks nothing


def test_a_mask_needs_a_plain_backdrop_and_something_before_it():
    rng = np.random.default_rng(0)
    hand = true_cover(3)[..., None]
    board = np.indices(SIZE[::-1]).sum(axis=0) // 10 % 2 * 200
    for backdrop in (rng.integers(0, 256, (*SIZE[::-1], 3)), np.repeat(board[..., None], 3, axis=2)):
        busy = np.where(hand, shoot(3), backdrop).astype(np.uint8)
        found = find_hand(fit(busy))
        assert found.refused == "the border is not plain" and not found.mask.any()
    for level in (0, 128, 255):
        assert find_hand(np.full((96, 96, 3), level, np.uint8)).refused == "nothing stands out from the backdrop"
    faint = np.clip(rng.normal(200, 2, (96, 96, 3)), 0, 255).astype(np.uint8)  # grain alone
    assert find_hand(faint).refused == "nothing stands out from the backdrop"
    white = np.full((96, 96, 3), 255, np.uint8)

    def refused(*boxes) -> str:
        image = white.copy()
        for box in boxes:
            image[box] = (180, 120, 90)
        return find_hand(image).refused

    middle = slice(30, 66)
    assert refused((middle, middle)) == ""
    assert refused((slice(10, 40), slice(10, 40)), (slice(60, 90), slice(60, 90))) == "several things stand out"
    assert refused((slice(40, 50), slice(40, 50))) == "what stands out is too small or too large"
    assert refused((slice(40, 56), slice(0, 96)), (slice(56, 96), slice(40, 56))) == "it reaches across the picture"
    assert refused((slice(4, 96), slice(4, 92))) == "it fills the picture"
    depth = np.zeros((96, 96, 1))  # one heap of colour distances, which a threshold only cuts in two
    depth[5:91, 5:91, 0] = rng.normal(0.5, 0.15, (86, 86)).clip(0.02, 1)
    heap = (255 - depth * [0, 80, 120]).astype(np.uint8)
    assert find_hand(heap).refused == "hand and backdrop are not separated"


def test_a_hole_in_the_hand_is_hand():
    image = np.full((96, 96, 3), 255, np.uint8)
    image[20:96, 30:66] = (180, 120, 90)
    whole = find_hand(image).mask
    image[50:56, 45:51] = 255  # a ring that shines
    assert np.array_equal(find_hand(image).mask, whole) and whole.sum() == 76 * 36


def test_lab_has_the_known_values():
    """Of sRGB's red, green, blue and white, as tables of CIELAB under D65 print them."""
    image = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]], np.uint8)
    known = [[53.2, 80.1, 67.2], [87.7, -86.2, 83.2], [32.3, 79.2, -107.9], [100, 0, 0], [0, 0, 0]]
    np.testing.assert_allclose(to_lab(image)[0], known, atol=0.15)


@pytest.fixture
def picture():
    """A backdrop that grows brighter to the right, a hand of noise, and its mask."""
    image = np.empty((64, 64, 3), np.uint8)
    image[:] = (100 + 2 * np.arange(64))[None, :, None]
    mask = np.zeros((64, 64), bool)
    mask[24:64, 20:40] = True
    image[mask] = np.random.default_rng(0).integers(0, 60, (mask.sum(), 3))
    return image, mask


def change(name: str, image: np.ndarray, mask: np.ndarray, path: str = "a.jpg") -> np.ndarray:
    made = CHANGES[name].make(image.copy(), mask, path)
    assert made.shape == image.shape and made.dtype == np.uint8
    return made


def test_each_change_does_what_it_says(picture):
    image, mask = picture
    alone = change("hand alone", image, mask)
    assert np.array_equal(alone[mask], image[mask]) and (alone[~mask] == 255).all()
    behind = change(BACKGROUND, image, mask)
    ramp = np.broadcast_to((100 + 2 * np.arange(64))[None, :, None], image.shape)
    assert np.array_equal(behind, ramp)  # where the hand was, too
    dark = image.copy()
    dark[:4, :4] = 0  # a thing in the corner stays
    assert (change(BACKGROUND, dark, mask)[:4, :4] == 0).all()
    shape = change("silhouette alone", image, mask)
    assert (shape[mask] == 0).all() and (shape[~mask] == 255).all()
    assert np.array_equal(change("queries mirrored", image, mask)[:, 0], image[:, -1])


def test_grey_and_half_resolution_pixel_by_pixel():
    mask = np.zeros((4, 4), bool)
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 0], image[0, 1] = (255, 0, 0), (10, 100, 200)
    grey = change("grey", image, mask)
    assert grey[0, 0].tolist() == [76] * 3 and grey[0, 1].tolist() == [84] * 3 and not grey[1:].any()
    image = np.zeros((4, 4, 3), np.uint8)
    image[:, 2:] = [[[80] * 3, [120] * 3]] * 4  # means of the blocks: 0 and 100
    assert change("half resolution", image, mask)[1, :, 0].tolist() == [0, 25, 75, 100]


def test_light_changes_by_factors_of_the_path_alone():
    image, mask = np.full((4, 4, 3), 100, np.uint8), np.zeros((4, 4), bool)
    made = {path: change("brightness and colour", image, mask, path) for path in map(str, range(40))}
    for path, one in made.items():
        assert (one == one[0, 0]).all() and np.array_equal(one, change("brightness and colour", image, mask, path))
    factors = np.array([one[0, 0] for one in made.values()]) / 100
    assert len(np.unique(factors, axis=0)) > 35 and factors.min() >= 0.63 and factors.max() <= 1.43
    assert factors.mean(axis=1).std() > 0.1 and (factors / factors.mean(axis=1, keepdims=True)).std() > 0.02


def test_a_picture_has_all_changes_or_those_that_need_no_mask():
    image = fit(shoot(5))
    found, made = change_all(image, "a.jpg")
    assert np.array_equal(found.mask, find_hand(image).mask) and found.mask.any() and list(made) == list(CHANGES)
    for name, one in made.items():
        assert np.array_equal(one, change(name, image, found.mask))
    found, made = change_all(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8), "a.jpg")
    assert found.refused and list(made) == [name for name in CHANGES if not name.endswith("alone")]


def test_mirrored_queries_meet_the_gallery_as_it_is():
    """Two people of two images: each query against its person's other image, over both images of the other person."""
    images = pd.DataFrame({"path": list("abcd"), "identity": [1, 1, 2, 2], "role": "test", "protocol": "own"})
    images = images.assign(dataset="x", subject=images["identity"], aspect="d", draw_0=["query", "gallery"] * 2)
    manifest = Manifest(images)
    shelf = Embeddings(list("abcd"), torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]))
    asking = Embeddings(list("abcd"), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [0.6, 0.65]]))
    found = evaluate(shelf, manifest, asking=asking)
    assert found.per_query["rank1"].tolist() == [0, 1, 1, 0.5]  # to the last, b is nearer than c and a farther off
    assert found.drawn.set_index("path")["rank1"].to_dict() == {"a": 0.0, "c": 1.0}
    assert evaluate(shelf, manifest).per_query["rank1"].tolist() == [1.0] * 4
    assert hand_test.find_chance(manifest) == 0.5


def test_the_difference_is_paired_and_counted_over_people():
    """Four people; by hand: means over queries, and all 16 flips of the people's signs."""
    people = [1, 1, 2, 3, 3, 4]
    before = pd.DataFrame({"path": list("abcdef"), "identity": people, "weight": 1.0})
    before = before.assign(rank1=[1.0, 1, 1, 1, 1, 0], map=[1.0, 1, 1, 1, 1, 0.5])
    after = before.assign(rank1=[0.0, 1, 0, 0, 0, 0], map=[0.5, 1, 0.5, 0.25, 0.5, 0.5]).sample(frac=1, random_state=1)
    row = compare_changed(after, before)
    assert (row["people"], row["rank1"], row["rank1_unchanged"]) == (4, pytest.approx(1 / 6), pytest.approx(5 / 6))
    assert row["rank1_difference"] == pytest.approx(-4 / 6) and row["map_difference"] == pytest.approx(-2.25 / 6)
    sums = np.array([-1, -1, -2, 0])
    flips = np.array(np.meshgrid(*[[-1, 1]] * 4)).reshape(4, -1).T @ sums
    assert row["rank1_p"] == pytest.approx(2 * (flips <= sums.sum()).mean(), abs=1e-9)
    share = np.array([2, 1, 2, 1]) / 6
    off = sums / [2, 1, 2, 1] - sums.sum() / 6
    error = np.sqrt(4 / 3 * (share**2 @ off**2))
    reach = stats.t.ppf(0.975, 3) * error
    assert row["rank1_difference_low"] == pytest.approx(-4 / 6 - reach)
    assert row["rank1_low"] < 1 / 6 < row["rank1_high"]
    with pytest.raises(UserError, match="other queries"):
        compare_changed(after.head(5), before)
    table = tabulate({"rows": {"grey": row | {"images": 6, "chance": 0.25}}})
    assert table.loc["grey", "rank-1 difference"].startswith("-66.7 [") and table.loc["grey", "chance"] == "25.0"


@pytest.fixture(scope="module")
def clip():
    return backbone.load("embedded")


@pytest.mark.heavy
def test_the_background_names_nobody_where_it_is_random(clip, tmp_path):
    """Every photograph with a backdrop of its own: frozen features of backgrounds are at chance, those of hands not."""
    rng, rows = np.random.default_rng(0), []
    for person in range(24):
        for shot in range(4):
            backdrop = rng.uniform(0.55, 1.0) * rng.uniform(0.94, 1.0, 3)
            path = f"{person:02d}_{shot}.png"
            Image.fromarray(shoot(person, shot // 2, shot, background=backdrop)).save(tmp_path / path)
            rows.append({"path": path, "identity": person})
    images = pd.DataFrame(rows).assign(role="test", protocol="own", dataset="x", aspect="dorsal_r")
    images["subject"] = images["identity"]
    images["draw_0"] = ["gallery", "query", "query", "query"] * 24
    manifest, photographs = Manifest(images).check(), Photographs(tmp_path)

    def embed(table, pixels):
        return Embeddings(table["path"].tolist(), encode(clip, pixels).embedding)

    whole = torch.from_numpy(photographs.load(images, clip.image_size))
    asked = hand_test.ask(photographs, clip.image_size, manifest, embed(images, whole), embed)
    row = asked.record["rows"][BACKGROUND]
    assert row["chance"] == pytest.approx(1 / 24) and row["images"] == 96 - sum(asked.record["refused"].values()) > 80
    assert row["rank1_low"] <= 1 / 24 and row["rank1"] < 3 / 24 and not names_by_background(asked.record)
    alone = asked.record["rows"]["hand alone"]
    assert alone["rank1"] > 0.4 and alone["rank1_difference_low"] > 0  # the backdrops had misled


def test_what_is_refused_is_left_out_on_both_sides(clip, tmp_path):
    rows = []
    for person in range(4):
        for shot in range(3):
            path = f"{person}_{shot}.png"
            image = shoot(person, shot)
            if shot == 2 and person < 2:
                image = np.random.default_rng(person).integers(0, 256, image.shape, dtype=np.uint8)
            Image.fromarray(image).save(tmp_path / path)
            rows.append({"path": path, "identity": person, "subject": person})
    images = pd.DataFrame(rows).assign(role="test", protocol="own", dataset="x", aspect="dorsal_r")
    images["draw_0"] = ["gallery", "query", "query"] * 4
    seen: dict[int, int] = {}

    def embed(table, pixels):
        seen[len(table)] = seen.get(len(table), 0) + 1
        assert len(pixels) == len(table)
        return Embeddings(table["path"].tolist(), encode(clip, pixels).embedding)

    photographs = Photographs(tmp_path)
    own = embed(images, torch.from_numpy(photographs.load(images, clip.image_size)))
    seen.clear()
    asked = hand_test.ask(photographs, clip.image_size, Manifest(images), own, embed)
    assert asked.record["refused"] == {"the border is not plain": 2} and seen == {10: 3, 12: 5}
    kept = Manifest(images[~images["path"].isin(["0_2.png", "1_2.png"])])
    for name, row in asked.record["rows"].items():
        masked = name.endswith("alone")
        assert row["images"] == (10 if masked else 12)
        wanted = evaluate(own, kept if masked else Manifest(images)).summary()
        assert row["rank1_unchanged"] == pytest.approx(wanted["rank1"])
        assert row["map"] - row["map_unchanged"] == pytest.approx(row["map_difference"])
    told = "No mask to trust for 2 of 12 photographs (16.7 %): the border is not plain: 2."
    assert describe_refused(asked.record) == told
    sheet = np.asarray(mask_sheet.draw_masks(asked))
    assert (sheet == mask_sheet.OUTLINE).all(axis=2).sum() > 1000
    few = images[images["path"].isin(["0_2.png", "1_2.png", "3_0.png", "3_1.png"])]
    rows = hand_test.ask(photographs, clip.image_size, Manifest(few), own, embed).record["rows"]
    assert rows["hand alone"] == {"left_out": "fewer than two people have photographs left"} and "rank1" in rows["grey"]
    shutil.move(tmp_path / "0_0.png", tmp_path / "gone.png")
    lost = hand_test.ask(photographs, clip.image_size, Manifest(images), own, embed)
    assert "0_0.png: image not found" in lost.record["left_out"] and lost.table.shape == (1, 1)
    assert mask_sheet.draw_masks(lost).height == 80


def test_a_run_keeps_it_with_its_scores_and_its_report_tells(open_run, tmp_path):
    run = open_run(tmp_path, variant="frozen")
    encoder = loading.load_trained_encoder(run)
    embedded = embeddings.embed(run, encoder, run.manifest.in_tests)
    found = {"own": assess(embedded, run.manifest, run.params)}
    metrics = results.write_metrics(run, found, encoder, {}, {})
    asked = results.ask_about_hand(run, metrics, encoder, found["own"], embedded)
    kept = json.loads((run.folder / "metrics.json").read_text())
    assert kept["is_it_the_hand"] == json.loads(json.dumps(asked.record)) and kept["rank1"] == metrics["rank1"]
    assert list(asked.record["rows"]) == list(CHANGES)
    done = FinishedRun(run.folder, run.params, kept)
    blocks = report_scores.show_hand_test(done)
    assert [row[0] for row in blocks[0].rows] == list(CHANGES) and "No mask to trust" in blocks[1].text

    def lead(**changed) -> list[str]:
        row = asked.record["rows"][BACKGROUND] | changed
        rows = asked.record["rows"] | {BACKGROUND: row}
        return report._sum_up(FinishedRun(done.folder, done.params, kept | {"is_it_the_hand": {"rows": rows}}))

    told = lead(rank1=0.5, rank1_low=0.4, rank1_high=0.6, chance=0.25)
    assert told[-1].startswith("Mind: the background alone tells people apart.") and "50.0 [40.0, 60.0]" in told[-1]
    assert "25.0" in told[-1] and len(told) == 3
    assert len(lead(rank1=0.5, rank1_low=0.2, rank1_high=0.6, chance=0.25)) == 2
    older = FinishedRun(done.folder, done.params, {key: kept[key] for key in kept if key != "is_it_the_hand"})
    assert len(report_scores.show_hand_test(older)) == 1 and len(report._sum_up(older)) == 2
    changed = embeddings.embed_changed(run, encoder, run.manifest.test, _whole(run, encoder))
    torch.testing.assert_close(changed.values, embedded["image"].of(run.manifest.test))


def _whole(run, encoder):
    return torch.from_numpy(run.photographs.load(run.manifest.test, encoder.backbone.image_size))


def test_nothing_is_asked_of_features_alone_or_of_whole_bodies(open_run, tmp_path):
    run = open_run(tmp_path, variant="frozen")
    for change, why in (({"variant": "external"}, "features only"), ({"aspect": "body"}, "whole people")):
        other = type("Other", (), {"params": run.params.model_copy(update=change), "folder": tmp_path})()
        asked = results.ask_about_hand(other, {}, None, None, {})
        assert why in asked.record["left_out"] and asked.samples == []
        assert json.loads((tmp_path / "metrics.json").read_text()) == {"is_it_the_hand": asked.record}
    assert tabulate(HandTest({"left_out": "so"}).record).loc["left out"].tolist() == ["so"]


def test_chance_leaves_out_what_the_same_camera_rule_hides():
    rows = [("a", 1, 1, "query"), ("b", 1, 1, "gallery"), ("c", 1, 2, "gallery"), ("d", 2, 1, "gallery")]
    rows += [("e", 2, 2, "gallery"), ("f", 2, 2, "query")]
    images = pd.DataFrame(rows, columns=["path", "identity", "camera", "draw_0"])
    images = images.assign(dataset="folder", protocol="given", role="test", aspect="hand", session=1)
    manifest = Manifest(images.assign(subject=images["identity"]))
    assert manifest.same_camera_rule
    assert hand_test.find_chance(manifest) == pytest.approx(1 / 3)  # of three images each query sees, one is right


def test_nobody_left_to_ask_is_a_sentence_in_the_table():
    features = torch.eye(6)
    images = pd.DataFrame({"path": [f"{n}.jpg" for n in range(6)], "identity": range(6), "session": 1, "camera": 1})
    images = images.assign(aspect="dorsal_r", dataset="demo", protocol="own", role="test", draw_0="gallery")
    manifest = Manifest(images.assign(subject=images["identity"]))
    with pytest.raises(UserError, match="nobody is left who can ask"):
        hand_test._score(Embeddings(images["path"].tolist(), features), manifest)
