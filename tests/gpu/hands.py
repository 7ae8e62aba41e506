"""The pictures that all sections train on: demo hands of one aspect, drawn once."""

from functools import partial
from pathlib import Path

import numpy as np

from clipreid_lib.embedded import synthetic_hands
from clipreid_lib.embedded.hand_people import Person

SEED, SESSIONS, DIFFICULTY = 0, 3, 0.6  # as the demo's


def draw_hands(path: Path, train: int, test: int, each: int, size: tuple[int, int]) -> None:
    """Draw right hands from above, and save them as one file.

    Args:
        path: of the file to write: ``train`` and ``test``, (people, each, H, W, 3) uint8.
        train: people to train on.
        test: other people.
        each: pictures of each.
        size: (width, height) of a picture.
    """
    people = train + test
    drawn = np.stack(synthetic_hands.map_people(partial(_draw, each=each, size=size), people))
    drawn = drawn.reshape(people, each, *drawn.shape[1:])
    np.savez(path, train=drawn[:train], test=drawn[train:])


def _draw(number: int, each: int, size: tuple[int, int]) -> list[np.ndarray]:
    person = Person(number, SEED)
    how = {"difficulty": DIFFICULTY, "seed": SEED, "size": size}
    shots = [(shot % SESSIONS, shot // SESSIONS) for shot in range(each)]
    return [synthetic_hands.draw(person, synthetic_hands.ASPECTS[0], *shot, **how)[0] for shot in shots]
