"""The people that the embedded CLIP is trained and tested on: their pictures drawn once, in compact arrays.

They and their sessions vary more than the demo's (``Person.wide``), as photographs do.
"""

from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from clipreid_lib.base import files
from clipreid_lib.base.errors import UserError
from clipreid_lib.embedded import captions
from clipreid_lib.embedded.hand_drawing import render
from clipreid_lib.embedded.hand_people import Person
from clipreid_lib.embedded.hand_sessions import set_up_shot
from clipreid_lib.embedded.synthetic_hands import ASPECTS, SIZE, map_people

STORED = 112  # side in pixels of the drawn squares: a little above the network's 96, room for zooming in
SHOTS = ((0, 0), (0, 1), (1, 0), (2, 0))  # session and shot of a hand's pictures: photographs come in bursts, too
TOGETHER = 64  # people drawn before they are written


def squash(picture: np.ndarray, size: int) -> np.ndarray:
    """Resize a whole (H, W, 3) uint8 picture to a square of ``size`` pixels, bicubic."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def _draw_person(seed: int, first: int, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Draw one person's pictures (4, shots, 3, S, S) and their facts (4, shots, F)."""
    number += first
    rng, person, pictures, facts = np.random.default_rng([seed, number]), Person(number, seed, wide=True), [], []
    for aspect in ASPECTS:
        difficulties = rng.uniform(0.6, 1.8, len(SHOTS))
        for session, shot in SHOTS:
            hand, scene = set_up_shot(person, aspect, session, shot, float(difficulties[session]), SIZE, seed)
            pictures.append(squash(render(hand, scene), STORED).transpose(2, 0, 1))
            facts.append(captions.read_hand(hand, aspect))
    return [(np.stack(pictures).reshape(4, len(SHOTS), 3, STORED, STORED), np.stack(facts).reshape(4, len(SHOTS), -1))]


def draw_people(folder: Path, people: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw every person's four hands into ``folder``, or go on where an earlier call with the same arguments stopped.

    Returns:
        uint8 pictures (people, 4, shots, 3, S, S), the whole frame squashed to a square and the file read as it is
        needed; int64 facts (people, 4, shots, F), as :func:`captions.read_hand` gives them.

    Raises:
        UserError: the folder holds other people.
    """
    recipe = {"people": people, "seed": seed, "side": STORED, "shots": len(SHOTS)}
    folder.mkdir(parents=True, exist_ok=True)
    state = files.read_json(folder / "drawn.json") or {**recipe, "drawn": 0}
    if not recipe.items() <= state.items():
        raise UserError(f"{folder} holds other people; remove it or choose another folder")
    shape, mode = (people, len(ASPECTS), len(SHOTS)), "r+" if state["drawn"] else "w+"
    pictures = np.lib.format.open_memmap(folder / "pictures.npy", mode, np.uint8, (*shape, 3, STORED, STORED))
    facts = np.lib.format.open_memmap(folder / "facts.npy", mode, np.int64, (*shape, len(captions.NAMES)))
    for first in range(state["drawn"], people, TOGETHER):
        count = min(TOGETHER, people - first)
        for number, (hands, theirs) in enumerate(map_people(partial(_draw_person, seed, first), count), first):
            pictures[number], facts[number] = hands, theirs
        pictures.flush()
        facts.flush()
        files.write_json(folder / "drawn.json", recipe | {"drawn": first + count})
    return pictures, np.array(facts)
