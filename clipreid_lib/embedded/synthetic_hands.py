"""A made-up data set in the layout of 11k Hands: people, capture sessions, pictures, HandInfo.csv.

The pictures stand in where the real photographs cannot be shipped. They are drawn, so results on them say
that the code works, not how well a method recognises real hands.
"""

import csv
import hashlib
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import read_json, write_json
from clipreid_lib.embedded.hand_drawing import render
from clipreid_lib.embedded.hand_people import Person
from clipreid_lib.embedded.hand_sessions import set_up_shot
from clipreid_lib.params.run_params import Params

ASPECTS = ("dorsal right", "dorsal left", "palmar right", "palmar left")  # the spellings of HandInfo.csv
Size = tuple[int, int]  # (width, height) in pixels
SIZE = (160, 120)
GENERATOR = 1  # goes up whenever the same arguments would give other pixels
SESSION_GAP = 25  # image numbers left out between sessions, more than a burst_gap of 10 bridges


def draw(
    person: Person, aspect: str, session: int, shot: int, *, difficulty: float = 1.0, size: Size = SIZE, seed: int
) -> tuple[np.ndarray, dict]:
    """Photograph one hand, in one of the `ASPECTS`.

    Each capture session has its own light, background, camera and base pose; its shots differ less. ``difficulty`` is
    how much all these vary, 0 = not at all. ``seed`` is that of the sessions.

    Returns:
        (H, W, 3) uint8 picture and its row of HandInfo.csv, `imageName` left empty.
    """
    hand, scene = set_up_shot(person, aspect, session, shot, difficulty, size, seed)
    row = {
        "id": f"{person.number:07d}",
        "age": person.age,
        "gender": person.gender,
        "skinColor": person.skin,
        "accessories": int(hand.ring is not None),
        "nailPolish": int(hand.polished),
        "aspectOfHand": aspect,
        "imageName": "",
        "irregularities": int(person.irregular),
    }
    return render(hand, scene), row


def map_people(make: Callable[[int], list], people: int) -> list:
    """Make the lists of persons 0, 1, 2, ... and join them, with a process for each processor on Linux.

    Forked processes need no importable main module, so this works from a notebook and from a bare script.
    Windows cannot fork, and macOS cannot do so safely.
    """
    if people < 4 or sys.platform != "linux":
        return [each for number in range(people) for each in make(number)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: the children start none
        with ProcessPoolExecutor(len(os.sched_getaffinity(0)), mp_context=get_context("fork")) as pool:
            return [each for made in pool.map(make, range(people)) for each in made]


def _write_person(hands: Path, recipe: dict, number: int) -> list[dict]:
    """Draw and save all pictures of one person; returns their rows of HandInfo.csv in order."""
    person, sessions = Person(number, recipe["seed"]), recipe["sessions"]
    least, more = divmod(recipe["images_per_aspect"], sessions)
    plan = [least + (session < more) for session in range(sessions)]  # shots of each session
    place, rows = 1 + number * len(ASPECTS) * (sum(plan) + SESSION_GAP * sessions), []
    how = {"difficulty": recipe["difficulty"], "size": tuple(recipe["size"]), "seed": recipe["seed"]}
    for aspect in ASPECTS:
        for session, shots in enumerate(plan):
            for shot in range(shots):
                pixels, row = draw(person, aspect, session, shot, **how)
                row["imageName"] = f"Hand_{place:07d}.jpg"
                Image.fromarray(pixels).save(hands / row["imageName"], quality=92)
                rows.append(row)
                place += 1
            place += SESSION_GAP
    return rows


def _is_written(root: Path, recipe: dict) -> bool:
    """Whether the folder holds this data set already; anything else in its place is an error."""
    if not root.exists():
        return False
    if recipe.items() <= (read_json(root / "recipe.json") or {}).items():
        return True
    raise UserError(f"{root} already holds something else; remove it or choose another folder")


def write_dataset(
    root: Path,
    *,
    people: int,
    images_per_aspect: int,
    sessions: int,
    difficulty: float = 1.0,
    size: Size = SIZE,
    seed: int,
) -> Path:
    """Write a data set like 11k Hands, HandInfo.csv and Hands/Hand_0000001.jpg and on; returns its folder.

    The folder appears complete or not at all: everything is written beside it and moved into place last.
    A folder that already holds the same recipe is left as it is. The images of a person and aspect are spread over
    the sessions, and the first ones take what is left over. The rest of the recipe is as in :func:`draw`.

    Raises:
        UserError: the folder holds something else.
    """
    recipe = {
        "generator": GENERATOR,
        "people": people,
        "images_per_aspect": images_per_aspect,
        "sessions": sessions,
        "difficulty": float(difficulty),
        "size": list(size),
        "seed": seed,
    }
    if _is_written(root, recipe):
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        (beside / "Hands").mkdir()
        rows = map_people(partial(_write_person, beside / "Hands", recipe), people)
        with open(beside / "HandInfo.csv", "w", newline="", encoding="ascii") as file:
            file.write(",".join(rows[0]) + "\r\n")  # as in the real file: texts are quoted, the header is not
            csv.writer(file, quoting=csv.QUOTE_NONNUMERIC).writerows(row.values() for row in rows)
        write_json(beside / "recipe.json", recipe)
        beside.chmod(0o755)  # mkdtemp makes private folders; a data set is an ordinary one
        try:
            beside.rename(root)
        except OSError:
            if not _is_written(root, recipe):  # another process may have put the same data set there first
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return root


def draw_demo(params: Params, outputs: Path) -> Path:
    """Draw the demo's hands as the params ask, into ``demo_hands/<recipe>`` of the outputs; returns this folder.

    Raises:
        UserError: the hands cannot be written.
    """
    recipe: dict[str, Any] = {
        "people": params.demo_people,
        "images_per_aspect": params.demo_images,
        "sessions": params.demo_sessions,
        "difficulty": params.demo_difficulty,
        "seed": params.demo_seed,
    }
    key = (GENERATOR, sorted(recipe.items()))  # a generator that draws otherwise is another set
    folder = outputs / "demo_hands" / hashlib.sha256(repr(key).encode()).hexdigest()[:8]
    try:
        return write_dataset(folder, **recipe)
    except OSError as error:
        raise UserError(f"{folder}: the demo hands cannot be drawn ({error})") from None
