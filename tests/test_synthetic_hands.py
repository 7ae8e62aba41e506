"""The made-up hands: same pixels everywhere, rows like the real file, folders complete or absent."""

import copy
import csv
import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipreid_lib.base.errors import UserError
from clipreid_lib.embedded import hand_people, synthetic_hands
from clipreid_lib.embedded.hand_sessions import set_up_shot
from clipreid_lib.embedded.synthetic_hands import ASPECTS, Person, draw, write_dataset

SMALL = dict(people=2, images_per_aspect=3, sessions=2, size=(48, 36), seed=3)
# sha256 of the pixels for (aspect, person). They change only together with synthetic_hands.GENERATOR.
PINNED = {
    ("dorsal right", 0): "6807306a62dc51c6b28d89fc0e3ce43a4e5389df12e1c3d1d31a56ba45ef5293",
    ("dorsal left", 1): "754303656d20b1f85c07fba7978b8dcde3b2ded62b0403e69b58dc83db5d2505",
    ("palmar right", 2): "81520cfbbc891c8df327aab2a00a34831d339d6002b3b2e4139610584b9de394",
    ("palmar left", 3): "4b41359fd5b47c0dc718ed543a70e9831100a6f9c123256ac21760501f24c701",
}


def _skin(pixels):
    """Pixels that are clearly darker in blue than the light ground."""
    pixels = pixels.astype(int)
    return pixels[..., 0] - pixels[..., 2] > 20


@pytest.mark.parametrize("aspect, number", list(PINNED))
def test_pixels_are_pinned(aspect, number):
    pixels, _ = draw(Person(number, 0), aspect, 1, 2, seed=0)
    assert pixels.shape == (120, 160, 3) and pixels.dtype == np.uint8
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == PINNED[aspect, number]


def test_draw_does_not_depend_on_what_was_drawn_before():
    person = Person(7, 1)
    first, _ = draw(person, ASPECTS[2], 0, 1, seed=1)
    np.random.seed(5)
    draw(Person(8, 1), ASPECTS[2], 0, 1, seed=1)
    draw(person, ASPECTS[0], 2, 0, seed=1, size=(64, 48))
    assert np.array_equal(first, draw(Person(np.int64(7), 1), ASPECTS[2], 0, 1, seed=1)[0])


def test_seed_session_shot_and_person_change_the_picture():
    base = dict(aspect=ASPECTS[0], session=0, shot=0, seed=0)
    pictures = [draw(Person(0, 0), **base)[0], draw(Person(1, 0), **base)[0]]
    pictures += [draw(Person(0, 0), **(base | change))[0] for change in ({"session": 1}, {"shot": 1}, {"seed": 1})]
    assert len({picture.tobytes() for picture in pictures}) == 5


@pytest.mark.parametrize("aspect, left", list(zip(ASPECTS, (True, False, False, True), strict=True)))
def test_thumb_is_on_the_side_of_the_real_photographs(aspect, left):
    # The thumb starts lowest: beside the palm, below the four fingers, there is skin on its side only.
    balance = []
    for number in range(4):
        pixels, _ = draw(Person(number, 0), aspect, 0, 0, difficulty=0, size=(80, 60), seed=0)
        skin = _skin(pixels)
        spine = np.median(np.nonzero(skin[-6:])[1])  # the wrist
        columns = np.nonzero(skin[25:45])[1] - spine
        balance.append(columns.min() + columns.max())
    assert (np.array(balance) < 0).all() if left else (np.array(balance) > 0).all()


def test_left_is_not_just_the_mirrored_right():
    right, left = (draw(Person(2, 0), aspect, 0, 0, difficulty=0, seed=0)[0] for aspect in ASPECTS[2:])
    mirrored = np.abs(left[:, ::-1].astype(int) - right).mean()
    stranger = np.abs(draw(Person(5, 0), ASPECTS[2], 0, 0, difficulty=0, seed=0)[0].astype(int) - right).mean()
    assert 0 < mirrored < stranger


def test_no_difficulty_means_one_picture_per_session():
    person = Person(0, 0)
    shots = [draw(person, ASPECTS[1], 0, shot, difficulty=0, seed=0)[0] for shot in range(3)]
    assert np.array_equal(shots[0], shots[1]) and np.array_equal(shots[0], shots[2])
    assert not np.array_equal(shots[0], draw(person, ASPECTS[1], 0, 0, difficulty=0.5, seed=0)[0])


def test_sessions_differ_more_than_shots():
    def gray(number, session, shot):
        pixels = draw(Person(number, 0), ASPECTS[0], session, shot, size=(64, 48), seed=0)[0]
        return pixels.mean(axis=2)

    within, across = [], []
    for number in range(12):
        within.append(np.abs(gray(number, 0, 0) - gray(number, 0, 1)).mean())
        across.append(np.abs(gray(number, 0, 0) - gray(number, 1, 0)).mean())
    assert np.mean(across) > 1.3 * np.mean(within)


def test_skin_words_are_visible():
    brightness = {}
    for number in range(60):
        pixels, row = draw(Person(number, 0), ASPECTS[0], 0, 0, difficulty=0, size=(64, 48), seed=0)
        brightness.setdefault(row["skinColor"], []).append(pixels[_skin(pixels)].mean())
    means = [np.mean(brightness[word]) for word in ("very fair", "fair", "medium", "dark")]
    assert means == sorted(means, reverse=True) and min(-np.diff(means)) > 8


@pytest.mark.parametrize("habit, column", [("ring", "accessories"), ("polish", "nailPolish")])
def test_ring_and_polish_show_exactly_where_the_row_says_so(habit, column):
    seen = []
    people = [p for p in (Person(n, 0) for n in range(150)) if getattr(p, habit)]
    assert 10 < len(people) < 50  # about 15 and 22 % of 150
    for person in people[:6]:
        bare = copy.copy(person)
        setattr(bare, habit, None)
        for aspect in ASPECTS:
            pixels, row = draw(person, aspect, 0, 0, seed=0)
            changed = (np.abs(draw(bare, aspect, 0, 0, seed=0)[0].astype(int) - pixels).max(axis=2) > 25).sum()
            assert (changed >= 12) == bool(row[column]), (person.number, aspect, changed)
            seen.append((row[column], aspect.split()[0]))
    assert {value for value, _ in seen} == {0, 1}
    assert column == "accessories" or (1, "palmar") not in seen


def test_rows_look_like_the_real_file(tmp_path):
    root = write_dataset(tmp_path / "hands", **SMALL)
    raw = (root / "HandInfo.csv").read_bytes()
    header, first = raw.split(b"\r\n")[:2]
    assert header == b"id,age,gender,skinColor,accessories,nailPolish,aspectOfHand,imageName,irregularities"
    assert first.startswith(b'"0000000",') and b'"dorsal right","Hand_0000001.jpg",' in first
    rows = list(csv.DictReader(raw.decode().splitlines()))
    assert len(rows) == 2 * 4 * 3
    for row in rows:
        assert row["gender"] in ("male", "female") and 18 <= int(row["age"]) <= 75
        assert row["skinColor"] in ("very fair", "fair", "medium", "dark")
        assert row["aspectOfHand"] in ASPECTS
        assert {row["accessories"], row["nailPolish"], row["irregularities"]} <= {"0", "1"}
        with Image.open(root / "Hands" / row["imageName"]) as image:
            assert image.size == (48, 36) and image.mode == "RGB"
    assert sorted(p.name for p in (root / "Hands").iterdir()) == [row["imageName"] for row in rows]


def test_image_numbers_have_a_gap_between_sessions(tmp_path):
    root = write_dataset(tmp_path / "hands", **SMALL)
    with open(root / "HandInfo.csv", newline="") as file:
        numbers = [int(row["imageName"][5:12]) for row in csv.DictReader(file)]
    steps = np.diff(numbers)
    bursts = [2, 1] * 8  # three images in two sessions, two people, four aspects
    assert sum(steps == 1) == sum(burst - 1 for burst in bursts)
    assert (steps[steps != 1] > 20).all() and (steps > 1).sum() == len(bursts) - 1


def test_processes_change_nothing(tmp_path, monkeypatch):
    many = dict(people=5, images_per_aspect=2, sessions=2, size=(32, 24), seed=1)  # five people use processes
    shared = write_dataset(tmp_path / "shared", **many)
    monkeypatch.setattr(synthetic_hands.sys, "platform", "darwin")
    alone = write_dataset(tmp_path / "alone", **many)
    names = sorted(p.relative_to(shared) for p in shared.rglob("*") if p.is_file())
    assert len(names) == 40 + 2
    assert names == sorted(p.relative_to(alone) for p in alone.rglob("*") if p.is_file())
    assert all((shared / name).read_bytes() == (alone / name).read_bytes() for name in names)


def test_same_recipe_returns_and_another_is_refused(tmp_path, monkeypatch):
    root = write_dataset(tmp_path / "hands", **SMALL)
    monkeypatch.setattr(synthetic_hands, "draw", None)  # drawing again would fail
    assert write_dataset(root, **SMALL) == root
    recipe = json.loads((root / "recipe.json").read_text())  # of an earlier version, which said more
    (root / "recipe.json").write_text(json.dumps(recipe | {"first_number": 0}))
    assert write_dataset(root, **SMALL) == root
    with pytest.raises(UserError, match="hands already holds"):
        write_dataset(root, **(SMALL | {"seed": 4}))
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match="mine already holds"):
        write_dataset(foreign, **SMALL)
    assert [p.name for p in foreign.iterdir()] == ["thesis.txt"]


def test_broken_write_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("disk full")

    monkeypatch.setattr(synthetic_hands, "draw", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        write_dataset(tmp_path / "hands", **SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_folder_both_succeed(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(write_dataset, tmp_path / "hands", **SMALL) for _ in range(2)]
        assert {future.result() for future in futures} == {tmp_path / "hands"}
    assert [p.name for p in tmp_path.iterdir()] == ["hands"]
    assert len(list((tmp_path / "hands" / "Hands").iterdir())) == 24
    assert json.loads((tmp_path / "hands" / "recipe.json").read_text())["people"] == 2


def test_more_people_are_added_to_the_same_world(tmp_path):
    one, two = (write_dataset(tmp_path / str(n), **(SMALL | {"people": n})) for n in (1, 2))
    names = sorted(path.name for path in (one / "Hands").iterdir())
    assert len(names) == 12 and all((one / "Hands" / n).read_bytes() == (two / "Hands" / n).read_bytes() for n in names)


def test_hard_scenes_stay_drawable():
    for number in range(6):
        pixels, _ = draw(Person(number, 2), ASPECTS[number % 4], 0, 0, difficulty=4, size=(64, 48), seed=2)
        assert pixels.std() > 20  # neither empty nor filled by one finger


def test_wide_people_vary_more_and_are_the_same_people():
    plain, wide = ([Person(number, 4, wide) for number in range(60)] for wide in (False, True))
    for what in ("palm", "wrist", "warmth", "lines"):
        one, other = (np.array([getattr(person, what) for person in people]) for people in (plain, wide))
        assert other.std() / abs(other.mean()) > 1.1 * one.std() / abs(one.mean()) or other.std() > 1.2 * one.std()
    assert [person.tone for person in plain] == [person.tone for person in wide]


def test_wide_sessions_are_overexposed_and_hands_move_within_a_burst():
    grounds, moved = [], {False: [], True: []}
    for number in range(30):
        for wide in (False, True):
            shots = [set_up_shot(Person(number, 4, wide), ASPECTS[0], 0, shot, 1.0, (64, 48), 4)[0] for shot in (0, 1)]
            angles = [np.array([finger.angle for finger in hand.fingers]) for hand in shots]
            moved[wide].append(np.abs(angles[0] - angles[1]).mean())
        grounds.append(set_up_shot(Person(number, 4, True), ASPECTS[0], 0, 0, 1.0, (64, 48), 4)[1].background.min())
    assert np.mean(moved[True]) > 1.5 * np.mean(moved[False])
    assert 0.4 < (np.array(grounds) > 1.0).mean() < 0.9


def test_streams_are_told_apart_by_every_part_of_the_key():
    draws = {
        hand_people.open_stream(*key).random_sample() for key in (("a", 1, 2), ("a", 2, 1), ("b", 1, 2), ("a", 12))
    }
    assert len(draws) == 4
    assert hand_people.open_stream("a", np.int64(1)).random_sample() == hand_people.open_stream("a", 1).random_sample()


def test_works_in_a_bare_script_and_does_not_import_torch(tmp_path):
    # a script without a main guard is where a pool that re-imports its main module would fail
    script = tmp_path / "bare.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from clipreid_lib.embedded.synthetic_hands import write_dataset\n"
        "write_dataset(Path('made'), people=4, images_per_aspect=4, sessions=2, size=(16, 16), seed=0)\n"
        "assert 'torch' not in sys.modules\n"
    )
    project = str(Path(synthetic_hands.__file__).parents[2])
    subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        check=True,
        env=os.environ | {"PYTHONPATH": project},
        timeout=60,
    )
    assert len(list((tmp_path / "made" / "Hands").iterdir())) == 64
