"""A made-up data set in the layout of 11k Hands: people, capture sessions, pictures, HandInfo.csv.

The pictures stand in where the real photographs cannot be shipped. They are drawn, so results on them say
that the code works, not how well a method recognises real hands.
"""

import math
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_all_start_methods, get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from clipreid_lib.base.files import read_json, write_json
from clipreid_lib.embedded.hand_drawing import render
from clipreid_lib.embedded.hand_people import Person, make_person
from clipreid_lib.embedded.hand_sessions import set_up_shot

ASPECTS = ("dorsal right", "dorsal left", "palmar right", "palmar left")  # the spellings of HandInfo.csv
SIZE = (160, 120)  # (width, height) in pixels
HEADER = "id,age,gender,skinColor,accessories,nailPolish,aspectOfHand,imageName,irregularities"
GENERATOR = 1  # goes up whenever the same arguments would give other pixels
SESSION_GAP = 25  # image numbers left out between sessions, more than a burst_gap of 10 bridges
_Made = TypeVar("_Made")


def draw(
    person: Person,
    aspect: str,
    session: int,
    shot: int,
    *,
    difficulty: float = 1.0,
    size: tuple[int, int] = SIZE,
    seed: int,
) -> tuple[np.ndarray, dict]:
    """Photograph one hand.

    Args:
        person: whose hand.
        aspect: one of `ASPECTS`.
        session: capture session; light, background, camera and base pose are drawn anew for each.
        shot: picture inside the session.
        difficulty: how much pose, light and camera vary; 0 = not at all.
        size: (width, height) in pixels.
        seed: which set of sessions.

    Returns:
        (H, W, 3) uint8 picture and its row of HandInfo.csv, `imageName` left empty.

    Raises:
        ValueError: unknown aspect, negative difficulty, or a side below 16 pixels.
    """
    if aspect not in ASPECTS:
        raise ValueError(f"aspect must be one of {ASPECTS}, got {aspect!r}")
    if not (math.isfinite(difficulty) and difficulty >= 0):
        raise ValueError(f"difficulty must be a number >= 0, got {difficulty}")
    if min(size) < 16:
        raise ValueError(f"size is (width, height), both at least 16 pixels, got {size}")
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


def map_people(make: Callable[[int], _Made], people: int, pictures: int, workers: int | None = None) -> list[_Made]:
    """Make something for every person, in order, in parallel where that is safe and worth it.

    Forked workers need no importable main module, so this works from a notebook and from a bare script;
    where forking is not offered (Windows) or not safe (macOS) the work is done here.

    Args:
        make: called with 0, 1, 2, ...
        people: how often.
        pictures: how many pictures are drawn in all.
        workers: processes; None = one for each processor.
    """
    workers = workers or len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0))
    can_fork = "fork" in get_all_start_methods() and sys.platform != "darwin"
    if workers == 1 or pictures < 64 or not can_fork:
        return [make(i) for i in range(people)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: the children start none
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            return list(pool.map(make, range(people)))


def _write_person(hands: Path, recipe: dict, number: int) -> list[str]:
    """Draw and save all pictures of one person; returns their lines of HandInfo.csv in order."""
    person, sessions = make_person(number, recipe["seed"]), recipe["sessions"]
    least, more = divmod(recipe["images_per_aspect"], sessions)
    plan = [least + (session < more) for session in range(sessions)]  # shots of each session
    place, lines = 1 + number * len(ASPECTS) * (sum(plan) + SESSION_GAP * sessions), []
    how = {"difficulty": recipe["difficulty"], "size": tuple(recipe["size"]), "seed": recipe["seed"]}
    for aspect in ASPECTS:
        for session, shots in enumerate(plan):
            for shot in range(shots):
                pixels, row = draw(person, aspect, session, shot, **how)
                row["imageName"] = f"Hand_{place:07d}.jpg"
                Image.fromarray(pixels).save(hands / row["imageName"], quality=92)
                lines.append(",".join(_quote(value) for value in row.values()))
                place += 1
            place += SESSION_GAP
    return lines


def _quote(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)  # as in the real file


def _is_written(root: Path, recipe: dict) -> bool:
    """Whether the folder holds this data set already; anything else in its place is an error."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if recipe.items() <= (read_json(root / "recipe.json") or {}).items():
        return True
    raise ValueError(f"{root} already holds something else; remove it or choose another folder")


def write_dataset(
    root: str | Path,
    *,
    people: int = 100,
    images_per_aspect: int = 9,
    sessions: int = 3,
    difficulty: float = 1.0,
    size: tuple[int, int] = SIZE,
    seed: int = 0,
    workers: int | None = None,
) -> Path:
    """Write a data set that reads like 11k Hands: HandInfo.csv and Hands/Hand_0000001.jpg and on.

    The folder appears complete or not at all: everything is written beside it and moved into place last.
    A folder that already holds the same recipe is left as it is.

    Args:
        root: folder to make.
        people: how many people.
        images_per_aspect: pictures of each person and aspect.
        sessions: capture sessions over which they are spread, the first ones taking what is left over.
        difficulty: see `draw`.
        size: (width, height) in pixels.
        seed: people and sessions.
        workers: processes; None = one for each processor. Does not change a single byte.

    Returns:
        The folder.

    Raises:
        ValueError: an argument makes no sense, or the folder holds something else.
    """
    root = Path(root)
    if people < 1:
        raise ValueError(f"people must be at least 1, got {people}")
    if not 1 <= sessions <= images_per_aspect:
        raise ValueError(f"sessions must lie in 1..{images_per_aspect} (images_per_aspect), got {sessions}")
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
        write_person = partial(_write_person, beside / "Hands", recipe)
        written = map_people(write_person, people, people * images_per_aspect * len(ASPECTS), workers)
        lines = [HEADER, *(line for lines in written for line in lines)]
        (beside / "HandInfo.csv").write_bytes("".join(f"{line}\r\n" for line in lines).encode("ascii"))
        write_json(beside / "recipe.json", recipe)
        beside.chmod(0o755)  # mkdtemp makes private folders; a data set is an ordinary one
        try:
            if root.exists() and os.name == "nt":
                root.rmdir()  # Windows moves a folder onto nothing, not even onto an empty one
            os.replace(beside, root)
        except OSError:
            if not _is_written(root, recipe):  # another process may have put the same data set there first
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return root
