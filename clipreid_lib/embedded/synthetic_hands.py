"""A made-up data set in the layout of 11k Hands: people, capture sessions, pictures, HandInfo.csv.

The pictures stand in where the real photographs cannot be shipped. They are drawn, so results on them say
that the code works, not how well a method recognises real hands.
"""

import json
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

import numpy as np
from PIL import Image

from clipreid_lib.embedded.hand_drawing import render
from clipreid_lib.embedded.hand_people import Person, make_person
from clipreid_lib.embedded.hand_sessions import one_shot

__all__ = ["ASPECTS", "COLUMNS", "Person", "draw", "make_person", "write_dataset"]

ASPECTS = ("dorsal right", "dorsal left", "palmar right", "palmar left")  # the spellings of HandInfo.csv
COLUMNS = (
    "id",
    "age",
    "gender",
    "skinColor",
    "accessories",
    "nailPolish",
    "aspectOfHand",
    "imageName",
    "irregularities",
)
GENERATOR = 1  # goes up whenever the same arguments would give other pixels
SESSION_GAP = 25  # image numbers left out between sessions, more than a burst_gap of 10 bridges


def draw(
    person: Person,
    aspect: str,
    session: int,
    shot: int,
    *,
    difficulty: float = 1.0,
    size: tuple[int, int] = (160, 120),
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
        ValueError: unknown aspect, negative session, shot or difficulty, or a side below 16 pixels.
    """
    if aspect not in ASPECTS:
        raise ValueError(f"aspect must be one of {ASPECTS}, got {aspect!r}")
    if session < 0 or shot < 0:
        raise ValueError(f"session and shot count from 0, got session={session}, shot={shot}")
    if not (math.isfinite(difficulty) and difficulty >= 0):
        raise ValueError(f"difficulty must be a number >= 0, got {difficulty}")
    if len(size) != 2 or min(size) < 16:
        raise ValueError(f"size is (width, height), both at least 16 pixels, got {size}")
    hand, scene = one_shot(person, aspect, session, shot, difficulty, (size[0], size[1]), seed)
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
    return render(hand, scene, (size[0], size[1])), row


def _shots(images: int, sessions: int) -> list[int]:
    """Spread the images over the sessions, the first ones taking what is left over."""
    return [images // sessions + (s < images % sessions) for s in range(sessions)]


def _write_person(folder: str, recipe: dict, position: int) -> list[dict]:
    """Draw and save all pictures of one person; returns their rows in order."""
    person = make_person(recipe["first_number"] + position, recipe["seed"])
    plan = _shots(recipe["images_per_aspect"], recipe["sessions"])
    per_person = len(recipe["aspects"]) * (sum(plan) + SESSION_GAP * len(plan))
    number, rows = 1 + position * per_person, []
    for aspect in recipe["aspects"]:
        for session, shots in enumerate(plan):
            for shot in range(shots):
                pixels, row = draw(
                    person,
                    aspect,
                    session,
                    shot,
                    difficulty=recipe["difficulty"],
                    size=(recipe["size"][0], recipe["size"][1]),
                    seed=recipe["seed"],
                )
                row["imageName"] = f"Hand_{number:07d}.jpg"
                Image.fromarray(pixels).save(Path(folder, "Hands", row["imageName"]), quality=92)
                rows.append(row)
                number += 1
            number += SESSION_GAP
    return rows


def _map_people(task: Callable[[int], list[dict]], count: int, workers: int, pictures: int) -> list[list[dict]]:
    """Run a task for every person, in order, in parallel where that is safe and worth it.

    Forked workers need no importable main module, so this works from a notebook and from a bare script;
    where forking is not offered (Windows) or not safe (macOS) the work is done here.
    """
    can_fork = "fork" in get_all_start_methods() and sys.platform != "darwin"
    if workers == 1 or count == 1 or pictures < 64 or not can_fork:
        return [task(i) for i in range(count)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads: the children start none
        with ProcessPoolExecutor(workers, mp_context=get_context("fork")) as pool:
            return list(pool.map(task, range(count)))


def _written_recipe(root: Path) -> dict | None:
    try:
        return json.loads((root / "recipe.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _cell(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)  # the quoting of the real file


def write_dataset(
    root: str | Path,
    *,
    people: int = 100,
    images_per_aspect: int = 9,
    sessions: int = 3,
    aspects: tuple[str, ...] = ASPECTS,
    difficulty: float = 1.0,
    size: tuple[int, int] = (160, 120),
    seed: int = 0,
    first_number: int = 0,
    workers: int | None = None,
) -> Path:
    """Write a data set that reads like 11k Hands: HandInfo.csv and Hands/Hand_0000001.jpg and on.

    The folder appears complete or not at all: everything is written beside it and moved into place last.
    A folder that already holds the same recipe is left as it is.

    Args:
        root: folder to make.
        people: how many people.
        images_per_aspect: pictures of each person and aspect.
        sessions: capture sessions over which they are spread.
        aspects: which of `ASPECTS`, in this order.
        difficulty: see `draw`.
        size: (width, height) in pixels.
        seed: people and sessions.
        first_number: number of the first person; other numbers with the same seed are other people.
        workers: processes; None = one for each processor. Does not change a single byte.

    Returns:
        The folder.

    Raises:
        ValueError: an argument makes no sense, or the folder holds something else.
    """
    root = Path(root)
    unknown = [a for a in aspects if a not in ASPECTS]
    if isinstance(aspects, str) or unknown or not aspects or len(set(aspects)) != len(aspects):
        raise ValueError(f"aspects must be different ones of {ASPECTS}, got {aspects!r}")
    if people < 1 or first_number < 0 or first_number + people > 10_000_000:
        raise ValueError(f"people must be at least 1 and ids fit seven digits, got {people} from {first_number}")
    if not 1 <= sessions <= images_per_aspect:
        raise ValueError(f"sessions must lie in 1..{images_per_aspect} (images_per_aspect), got {sessions}")
    if not (math.isfinite(difficulty) and difficulty >= 0):
        raise ValueError(f"difficulty must be a number >= 0, got {difficulty}")
    if len(size) != 2 or min(size) < 16:
        raise ValueError(f"size is (width, height), both at least 16 pixels, got {size}")
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1 or None, got {workers}")
    recipe = {
        "generator": GENERATOR,
        "people": int(people),
        "images_per_aspect": int(images_per_aspect),
        "sessions": int(sessions),
        "aspects": list(aspects),
        "difficulty": float(difficulty),
        "size": [int(side) for side in size],
        "seed": int(seed),
        "first_number": int(first_number),
    }

    def settled() -> bool:
        """Whether the folder is there already; anything else in its place is an error."""
        if not root.exists() or (root.is_dir() and not any(root.iterdir())):
            return False
        if root.is_dir() and _written_recipe(root) == recipe:
            return True
        raise ValueError(f"{root} already holds something else; remove it or choose another folder")

    if settled():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{root.name}-", dir=root.parent))
    try:
        (beside / "Hands").mkdir()
        workers = workers or len(getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))(0))
        pictures = people * images_per_aspect * len(aspects)
        rows = _map_people(partial(_write_person, str(beside), recipe), people, workers, pictures)
        lines = [",".join(COLUMNS)]
        lines += [",".join(_cell(row[column]) for column in COLUMNS) for person in rows for row in person]
        (beside / "HandInfo.csv").write_bytes(("\r\n".join(lines) + "\r\n").encode("ascii"))
        (beside / "recipe.json").write_text(json.dumps(recipe, indent=1) + "\n", encoding="utf-8")
        beside.chmod(0o755)  # mkdtemp makes private folders; a data set is an ordinary one
        try:
            if root.exists() and os.name == "nt":
                root.rmdir()  # Windows moves a folder onto nothing, not even onto an empty one
            os.replace(beside, root)
        except OSError:
            if not settled():  # another process may have put the same data set there first
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return root
