"""Capture sessions: pose, camera, light and background of one shot of one hand.

A session shares most of the nuisance, a shot inside it changes little: this is what makes pictures of one
burst so much easier to match than pictures of two days.
"""

import math

import numpy as np

from clipreid_lib.embedded.hand_drawing import Camera, Scene
from clipreid_lib.embedded.hand_lines import stream
from clipreid_lib.embedded.hand_people import Person, pose_hand
from clipreid_lib.embedded.hand_shape import Hand

WORN = 0.85  # share of the sessions in which someone with the habit wears the ring or the polish
SLEEVED = 0.22  # share of the sessions with a sleeve in the picture
_CLOTH = ((0.13, 0.13, 0.15), (0.55, 0.57, 0.62), (0.16, 0.20, 0.36), (0.45, 0.12, 0.16), (0.90, 0.90, 0.88))


class _Wobble:
    """Nuisance values: the session's part and the shot's part, each a new normal at every call."""

    def __init__(self, key: tuple[object, ...], shot: int, difficulty: float) -> None:
        self.common, self.own, self.n = stream("session", *key), stream("shot", *key, shot), difficulty

    def __call__(self, session_sd: float, shot_sd: float = 0.0) -> float:
        values = (min(max(rng.standard_normal(), -2.5), 2.5) for rng in (self.common, self.own))
        return self.n * sum(sd * value for sd, value in zip((session_sd, shot_sd), values, strict=True))


def _keep_inside(hand: Hand, scene: Scene, size: tuple[int, int]) -> None:
    """Move the camera until all fingertips are in the picture, which a caption about nails relies on."""
    tips = [Camera(scene, size).to_pixels(*finger.place(1.04, 0.0)) for finger in hand.fingers]
    shift = []
    for axis in (0, 1):
        first, last = min(float(tip[axis]) for tip in tips), max(float(tip[axis]) for tip in tips)
        edge = 0.03 * size[axis]
        shift.append(max(edge - first, 0.0) - max(last - (size[axis] - edge), 0.0))
    scene.centre = (scene.centre[0] + float(shift[0]), scene.centre[1] + float(shift[1]))


def one_shot(
    person: Person, aspect: str, session: int, shot: int, difficulty: float, size: tuple[int, int], seed: int
) -> tuple[Hand, Scene]:
    """Draw all nuisance of one shot.

    Args:
        person: whose hand.
        aspect: a spelling of HandInfo.csv, such as "dorsal right".
        session: capture session.
        shot: picture inside the session.
        difficulty: multiplies every standard deviation below; 0 = the same picture every time.
        size: (width, height) in pixels.
        seed: which set of sessions.

    Returns:
        The posed hand and the scene it is in.
    """
    palmar, side = aspect.startswith("palmar"), aspect.split()[1]
    width, height = size
    wobble = _Wobble((seed, person.seed, person.number, aspect, session), shot, difficulty)
    wears_ring, wears_polish, sleeved, cloth = wobble.common.random_sample(4)
    scale = 0.44 * height * person.size * max(1 + wobble(0.045, 0.015), 0.5)
    turns = [wobble(a, b) for a, b in ((0.11, 0.05), (0.035, 0.02), (0.03, 0.018), (0.035, 0.02), (0.05, 0.03))]
    hand = pose_hand(
        person,
        side,
        palmar,
        spread=min(max(0.45 + wobble(0.34, 0.16), 0.0), 1.3),
        turns=turns,
        ring=wears_ring < WORN,
        polish=wears_polish < WORN,
        density=max(110.0, 55.0 * math.ceil(2.2 * scale / 55.0)),  # in steps, so that lines are made once
    )
    cast = np.array([wobble(0.018, 0.004) for _ in range(3)])
    shade = max(0.985 - abs(wobble(0.03)), 0.80)  # 11k was taken on white
    scene = Scene(
        scale=scale,
        centre=(width * (0.52 + wobble(0.045, 0.018)), height * (0.97 + wobble(0.035, 0.015))),
        rotation=wobble(0.07, 0.03) + (-0.06 if palmar else 0.06),
        shear=wobble(0.02, 0.006),
        mirror=(side == "left") != palmar,  # thumb at the left of the picture: dorsal right and palmar left
        light=(-0.25 + wobble(0.30, 0.05), -0.35 + wobble(0.22, 0.05), 1.0),
        ambient=min(max(0.58 + wobble(0.05), 0.42), 0.72),
        gain=np.minimum(np.maximum(1.02 + wobble(0.055, 0.015) + cast, 0.6), 1.3),
        background=np.minimum(shade * (1.0 + 0.6 * cast), 1.0),
        slope=(wobble(0.05), wobble(0.04)),
        shadow=(
            0.05 + wobble(0.04),
            0.04 + wobble(0.03),
            0.10 + abs(wobble(0.03)),
            min(max(0.20 + wobble(0.06), 0.05), 0.40),
        ),
        sleeve=(-0.06 + wobble(0.05), _CLOTH[int(cloth * 5)]) if difficulty > 0 and sleeved < SLEEVED else None,
        blur=min(abs(wobble(0.06, 0.03)), 0.20),
        noise=None,
    )
    grain = abs(wobble(0.004)) + 0.008 * min(difficulty, 3.0)
    if grain > 0:
        scene.noise = grain * wobble.own.standard_normal((height, width))
    _keep_inside(hand, scene, size)
    return hand, scene
