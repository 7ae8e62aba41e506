"""A hand in front of a camera: its pose, and what changes between capture sessions and between shots of one session.

What tells hands apart is drawn once per person (`hand_people`); everything drawn here is nuisance, mostly
that of the session: a burst looks alike, as in the real data, and the hard part is to match pictures of two days.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np

from clipreid_lib.embedded.hand_lines import draw_lines
from clipreid_lib.embedded.hand_people import Person, draw_own, open_stream
from clipreid_lib.embedded.hand_shape import Finger, Hand

Box = tuple[slice, slice]  # rows and columns of a part of the picture
WORN = 0.85  # share of the sessions in which someone with the habit wears the ring or the polish
SLEEVED = 0.22  # share of the sessions with a sleeve in the picture
_CLOTH = ((0.13, 0.13, 0.15), (0.55, 0.57, 0.62), (0.16, 0.20, 0.36), (0.45, 0.12, 0.16), (0.90, 0.90, 0.88))
_SPREAD = (-0.115, -0.020, 0.075, 0.210)  # radians a finger turns out at a spread of 1
# Skin from the lightest to the darkest tone, 0 to 255.
_DORSAL = ((248, 219, 203), (236, 196, 172), (216, 169, 140), (186, 136, 108), (142, 98, 76), (94, 65, 53))
_PALMAR = ((250, 217, 204), (243, 199, 181), (232, 180, 158), (213, 155, 132), (184, 127, 108), (156, 106, 92))


@lru_cache(maxsize=16)  # a person's shots follow each other
def _draw_blotches(person: Person, side: str, palmar: bool) -> np.ndarray:
    colour = draw_own(person, side, f"blotches {palmar}", 7, 6, 3) * [0.012, 0.017, 0.017]
    return colour + draw_own(person, side, f"shade {palmar}", 7, 6, 1) * 0.020


def _mix_skin(person: Person, palmar: bool) -> np.ndarray:
    tones, colours = [i / 5 for i in range(6)], np.array(_PALMAR if palmar else _DORSAL) / 255.0
    skin = np.array([np.interp(person.tone, tones, channel) for channel in colours.T])
    warmth = min(person.warmth, 1.0) if person.wide and palmar else person.warmth
    return skin * (1.0 + warmth * np.array([0.006, 0.010, -0.026]))


def _part_fingers(fingers: list[Finger]) -> None:
    """Turn fingers outwards from the middle one until none lies on another, then the thumb away from them."""
    for inner, outer, way in ((2, 1, -1.0), (2, 3, 1.0), (3, 4, 1.0)):
        a, b = fingers[inner], fingers[outer]
        reach = min(a.length, b.length)
        room = way * (b.base[0] - a.base[0] + reach * (b.angle - a.angle) + b.bend - a.bend)
        lacking = 0.82 * (a.width + b.width) - room
        if lacking > 0:
            b.angle += way * lacking / reach
    thumb, index = fingers[:2]
    for _ in range(2):  # one correction is not quite enough, the edge of the index finger being slanted
        x, y = thumb.place(0.95, 0.0)
        edge = index.base[0] + max(float(y) - index.base[1], 0.0) * index.angle - index.width
        thumb.angle -= max(float(x) + 0.9 * thumb.width - edge, 0.0) / thumb.length


def _pose_fingers(
    person: Person, side: str, palmar: bool, root: tuple[float, float], spread: float, turns: Sequence[float]
) -> list[Finger]:
    """Place the five fingers, thumb first: ``spread`` 0 = closed, 1 = wide open; ``turns`` (5) in radians."""
    own = draw_own(person, side, "build", 3, 5) * 0.012  # no one's hands are exact mirror images
    base_x = np.array([-0.31, -0.10, 0.10, 0.29]) * person.palm / 0.415
    base_y = np.array([0.945, 1.0, 0.965, 0.865]) + person.shifts[1:]
    thumb_angle = min(person.angles[0] + turns[0] - (0.16 if palmar else 0.0), -0.12)
    lean, reach = -0.72 + 0.55 * (thumb_angle + 0.46), 0.43 + person.shifts[0]
    bases = [(root[0] + reach * math.sin(lean), root[1] + reach * math.cos(lean))]
    bases += zip(base_x.tolist(), base_y.tolist(), strict=True)
    angles = [thumb_angle] + [person.angles[i] + turns[i] + _SPREAD[i - 1] * spread for i in range(1, 5)]
    fingers = [Finger(person, i, bases[i], angles[i], own[:, i]) for i in range(5)]
    _part_fingers(fingers)
    return fingers


class _Wobble:
    """Nuisance values: the session's part and the shot's part, each a new normal at every call."""

    def __init__(self, key: tuple[object, ...], shot: int, difficulty: float) -> None:
        self.common, self.own = open_stream("session", *key), open_stream("shot", *key, shot)
        self.wide = open_stream("wide session", *key)  # for wide people alone
        self.difficulty = difficulty

    def __call__(self, session_sd: float, shot_sd: float = 0.0) -> float:
        values = (min(max(rng.standard_normal(), -2.5), 2.5) for rng in (self.common, self.own))
        return self.difficulty * sum(sd * value for sd, value in zip((session_sd, shot_sd), values, strict=True))


class Scene:
    """Camera, light and background of one shot; positions in pixels, angles in radians, colours in 0..1."""

    def __init__(
        self, wobble: _Wobble, hand: Hand, side: str, scale: float, size: tuple[int, int], cloth: tuple | None
    ) -> None:
        """Draw everything but the ``scale`` (pixels per hand unit) and the sleeve's colour, in this order."""
        width, height = size
        cast = np.array([wobble(0.018, 0.004) for _ in range(3)])
        shade = max(0.985 - abs(wobble(0.03)), 0.80)  # 11k was taken on white
        self.scale = scale
        self.centre = width * (0.52 + wobble(0.045, 0.018)), height * (0.97 + wobble(0.035, 0.015))  # of the wrist
        self.rotation = wobble(0.07, 0.03) + (-0.06 if hand.palmar else 0.06)
        self.shear = wobble(0.02, 0.006)
        self.mirror = (side == "left") != hand.palmar  # thumb at the left of the picture: dorsal right, palmar left
        self.light = -0.25 + wobble(0.30, 0.05), -0.35 + wobble(0.22, 0.05), 1.0  # x, y, towards the camera
        self.ambient = min(max(0.58 + wobble(0.05), 0.42), 0.72)
        self.gain = (1.02 + wobble(0.055, 0.015) + cast).clip(0.6, 1.3)  # (3,) brightness and colour of the hand
        self.background = np.minimum(shade * (1.0 + 0.6 * cast), 1.0)  # (3,)
        self.slope = wobble(0.05), wobble(0.04)  # brightness change across the picture, x and y
        self.shadow_shift = 0.05 + wobble(0.04), 0.04 + wobble(0.03)  # hand units, x and y
        self.shadow_soft = 0.10 + abs(wobble(0.03))  # hand units
        self.shadow_dark = min(max(0.20 + wobble(0.06), 0.05), 0.40)
        self.sleeve = (-0.06 + wobble(0.05), cloth) if cloth else None  # y of its edge (hand units), colour
        self.blur = min(abs(wobble(0.06, 0.03)), 0.20)  # weight of each neighbour, 0 = sharp
        noise = abs(wobble(0.004)) + 0.008 * min(wobble.difficulty, 3.0)
        self.grain = noise * wobble.own.standard_normal((height, width))  # its shape is the picture's
        if hand.person.wide:
            self._widen(wobble.wide.uniform)
        self._keep_inside(hand)

    def _widen(self, vary: Callable[[float, float], float]) -> None:
        """Expose most sessions until the background is plain white; harder light, turned hands, any sleeves."""
        if vary(0.0, 1.0) < 0.65:
            self.background = self.background * vary(1.05, 1.6)  # above 1 is cut off, and most of the shadow with it
        self.shadow_dark *= vary(0.0, 1.5)
        self.grain = self.grain * vary(0.0, 1.0)
        self.ambient -= vary(0.0, 0.2)
        self.light = self.light[0] * vary(0.5, 2.0), self.light[1] * vary(0.5, 2.0), 1.0
        self.rotation += vary(-0.25, 0.25)
        self.scale *= vary(0.88, 1.18)
        edge, cloth = vary(-0.15, 0.25), np.array([vary(0.0, 1.0) for _ in range(3)]) * vary(0.1, 1.0)
        if vary(0.0, 1.0) < 0.3:
            self.sleeve = edge, tuple(cloth)

    def _keep_inside(self, hand: Hand) -> None:
        """Move the camera until all fingertips are in the picture, which a caption about nails relies on."""
        tips = np.array([self.to_pixels(*finger.place(1.04, 0.0)) for finger in hand.fingers])  # (5, 2)
        size = np.array(self.grain.shape[::-1])
        edge = 0.03 * size
        x, y = (edge - tips.min(0)).clip(0.0) - (tips.max(0) - (size - edge)).clip(0.0)
        self.centre = self.centre[0] + x, self.centre[1] + y

    def _map(self) -> tuple[float, float, float, float]:
        cos, sin = math.cos(self.rotation), math.sin(self.rotation)
        across = -self.scale if self.mirror else self.scale
        return across * (cos - self.shear * sin), across * (sin + self.shear * cos), self.scale * sin, -self.scale * cos

    def to_pixels(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map points (...) in hand units to pixels (...), x from the left and y from the top."""
        (cx, cy), (a, b, c, d) = self.centre, self._map()
        return cx + a * x + b * y, cy + c * x + d * y

    def make_grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Give the hand coordinates of every pixel centre, two (H, W) arrays."""
        (cx, cy), (a, b, c, d), (height, width) = self.centre, self._map(), self.grain.shape
        px, py = (np.arange(width) + 0.5 - cx)[None, :], (np.arange(height) + 0.5 - cy)[:, None]
        return (d * px - b * py) / (a * d - b * c), (a * py - c * px) / (a * d - b * c)

    def cut_out(self, x: np.ndarray, y: np.ndarray, margin: float) -> Box:
        """Cut out the pixels around some points, all in hand units; empty where they fall outside the picture."""
        px, py = self.to_pixels(x, y)
        pad = margin * self.scale
        left, right = int(px.min() - pad), int(px.max() + pad) + 1
        top, bottom = int(py.min() - pad), int(py.max() + pad) + 1
        return slice(max(top, 0), max(bottom, 0)), slice(max(left, 0), max(right, 0))


def set_up_shot(
    person: Person, aspect: str, session: int, shot: int, difficulty: float, size: tuple[int, int], seed: int
) -> tuple[Hand, Scene]:
    """Draw all nuisance of one shot.

    The arguments are those of :func:`synthetic_hands.draw`. ``difficulty`` multiplies every standard deviation below.
    """
    palmar, side = aspect.startswith("palmar"), aspect.split()[1]
    key = seed, person.seed, person.number, aspect, session
    wobble = _Wobble(key, shot, difficulty)
    wears_ring, wears_polish, sleeved, which = wobble.common.random_sample(4)
    scale = 0.44 * size[1] * person.size * max(1 + wobble(0.045, 0.015), 0.5)
    turns = [wobble(a, b) for a, b in ((0.11, 0.05), (0.035, 0.02), (0.03, 0.018), (0.035, 0.02), (0.05, 0.03))]
    spread, root = min(max(0.45 + wobble(0.34, 0.16), 0.0), 1.3), (-0.15 * person.wrist / 0.285, 0.16)
    if person.wide:  # fingers side by side, or opened wide; the thumb along the hand, or far from it
        later = open_stream("wide shot", *key, shot).uniform if shot else lambda low, high: 0.0  # hands move in a burst
        spread = min(max(spread + wobble.wide.uniform(-1.1, 0.9) + later(-1.0, 1.0), 0.0), 2.0)
        turns[0] += wobble.wide.uniform(-0.45, 0.45) + later(-0.4, 0.4)
        scale *= 1.0 + later(-0.06, 0.06)
    skin, ring, polished = _mix_skin(person, palmar), person.ring, wears_polish < WORN and not palmar and person.polish
    nail = skin * 0.55 + 0.45 * np.array([0.97, 0.80, 0.77]) + person.nail_pink * np.array([0.0, -0.022, -0.016])
    density = max(110.0, 55.0 * math.ceil(2.2 * scale / 55.0))  # two points a pixel, in steps: lines are made once
    hand = Hand(
        person=person,
        palmar=palmar,
        fingers=_pose_fingers(person, side, palmar, root, spread, turns),
        thumb_root=root,
        skin=skin,
        blotches=_draw_blotches(person, side, palmar),
        nail_colour=np.array(polished) / 255.0 if polished else nail,
        polished=bool(polished),
        ring=ring if ring and wears_ring < WORN and ring.sides in (side, "both") else None,
        marks=draw_lines(person, side, palmar, density),
    )
    cloth = _CLOTH[int(which * 5)] if difficulty > 0 and sleeved < SLEEVED else None
    return hand, Scene(wobble, hand, side, scale, size, cloth)
