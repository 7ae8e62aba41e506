"""Made-up people with hands, and how a person's hand is put into a pose."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np

from clipreid_lib.embedded.hand_lines import fine_structure, own_normals, stream
from clipreid_lib.embedded.hand_shape import Finger, Hand, Ring

SKINS = ("very fair", "fair", "medium", "dark")
_SKIN_EDGES = (0.15, 0.45, 0.80)  # 15/30/35/20 %, flatter than 11k's 3/32/58/7 %: every word needs pictures
_SKIN_BAND = ((0.00, 0.15), (0.22, 0.42), (0.49, 0.72), (0.80, 1.00))  # tone, with gaps a caption can rely on
_DORSAL = ((248, 219, 203), (236, 196, 172), (216, 169, 140), (186, 136, 108), (142, 98, 76), (94, 65, 53))
_PALMAR = (
    (250, 217, 204),
    (243, 199, 181),
    (232, 180, 158),
    (213, 155, 132),
    (184, 127, 108),
    (156, 106, 92),
)
_POLISH = (
    (178, 20, 40),
    (226, 60, 120),
    (70, 16, 50),
    (24, 22, 28),
    (36, 70, 150),
    (20, 120, 110),
    (150, 60, 160),
)
_METAL = ((226, 178, 70), (206, 210, 216), (214, 150, 120))
_STONE = ((240, 244, 250), (170, 20, 40), (30, 60, 150))
_SPREAD = (-0.115, -0.020, 0.075, 0.210)  # radians a finger turns out at a spread of 1
_Option = TypeVar("_Option")


@dataclass(frozen=True)
class Person:
    """One made-up person; lengths in hand units, relative sizes around 1, angles in radians."""

    number: int
    seed: int
    age: int  # years
    gender: str
    skin: str
    tone: float  # 0 lightest to 1 darkest
    warmth: float  # yellow (+) or pink (-)
    size: float
    palm: float  # half breadth
    wrist: float  # half breadth
    lengths: tuple[float, ...]  # thumb, index, middle, ring, little
    widths: tuple[float, ...]  # half widths
    angles: tuple[float, ...]
    bends: tuple[float, ...]
    shifts: tuple[float, ...]  # where the fingers start, up or down
    taper: float
    joint: float
    knuckle: float
    relief: float
    veins: float
    lines: float  # how deep the creases are
    flush: float
    nail: tuple[float, float, float]  # length, width, overhang
    nail_pink: float
    moles: float  # expected number on the back of a hand
    ring: Ring | None
    polish: tuple[float, float, float] | None
    irregular: bool


def _unit(colour: tuple[int, int, int]) -> tuple[float, float, float]:
    red, green, blue = (channel / 255.0 for channel in colour)
    return red, green, blue


def _pick(rng: np.random.RandomState, options: Sequence[_Option]) -> _Option:
    return options[int(rng.random_sample() * len(options))]


def _clip(value: float, low: float, high: float) -> float:
    return float(min(max(value, low), high))


@lru_cache(maxsize=256)
def make_person(number: int, seed: int) -> Person:
    """Invent one person.

    Args:
        number: which person; becomes the id of HandInfo.csv.
        seed: which world of people.

    Returns:
        The same person for the same arguments, always.

    Raises:
        ValueError: the number is negative or has more than seven digits.
    """
    if not 0 <= number <= 9_999_999:
        raise ValueError(f"number must lie in 0..9999999 (ids have seven digits), got {number}")
    rng = stream("person", seed, number)
    z = rng.standard_normal
    female = rng.random_sample() < 0.6
    age = int(min(75, 18 + rng.gamma(1.3, 6.0)))
    where = rng.random_sample()
    kind = sum(where >= edge for edge in _SKIN_EDGES)
    low, high = _SKIN_BAND[kind]
    tone = low + (high - low) * rng.random_sample()
    longer, wider = 1 + 0.05 * z(), (0.97 if female else 1.03) + 0.045 * z()
    lengths = np.array([0.56, 0.71, 0.79, 0.73, 0.57]) * longer * (1 + 0.050 * z(5))
    widths = np.array([0.105, 0.093, 0.096, 0.091, 0.080]) * wider * (1 + 0.040 * z(5))
    angles = np.array([-0.46, -0.035, 0.0, 0.030, 0.075]) + 0.045 * np.array([2.0, 1, 0.8, 1, 1.5]) * z(5)
    overhang = max(0.0, (0.17 if female else 0.04) + 0.17 * z())
    nail = (_clip(1.0 + 0.14 * z(), 0.7, 1.4), _clip(0.86 + 0.08 * z(), 0.65, 1.0), float(overhang))
    ring = Ring(
        finger=_pick(rng, (1, 2, 3, 3, 4)),
        sides=_pick(rng, ("right", "right", "left", "left", "both")),
        at=float(0.20 + 0.03 * z()),
        height=_clip(0.062 + 0.015 * z(), 0.045, 0.10),
        metal=_unit(_pick(rng, _METAL)),
        stone=_unit(_pick(rng, _STONE)) if rng.random_sample() < 0.4 else None,
    )
    rings, paints = rng.random_sample() < 0.15, rng.random_sample() < (0.35 if female else 0.03)
    return Person(
        number=int(number),
        seed=int(seed),
        age=age,
        gender="female" if female else "male",
        skin=SKINS[kind],
        tone=float(tone),
        warmth=float(z()),
        size=float((0.97 if female else 1.04) * (1 + 0.04 * z())),
        palm=float(0.415 * wider * (1 + 0.05 * z())),
        wrist=float(0.285 * wider * (1 + 0.06 * z())),
        lengths=tuple(lengths.tolist()),
        widths=tuple(widths.tolist()),
        angles=tuple(angles.tolist()),
        bends=tuple((0.022 * z(5)).tolist()),
        shifts=tuple((0.022 * z(5)).tolist()),
        taper=_clip(0.95 + 0.05 * z(), 0.80, 1.05),
        joint=_clip(1.03 + 0.035 * z(), 0.97, 1.12),
        knuckle=_clip(0.07 + 0.04 * z() + 0.09 * tone, 0.02, 0.28),
        relief=_clip((0.8 if female else 1.1) + 0.35 * z(), 0.2, 2.0),
        veins=_clip((0.35 if female else 0.6) + 0.25 * z() + 0.008 * (age - 22), 0.05, 1.0),
        lines=_clip(0.62 + 0.14 * z() + 0.004 * (age - 22), 0.35, 0.95),
        flush=_clip(1.0 + 0.45 * z(), 0.1, 2.2),
        nail=nail,
        nail_pink=float(z()),
        moles=float(rng.gamma(1.5, 1.2)),
        polish=_unit(_pick(rng, _POLISH)) if paints else None,
        ring=ring if rings else None,
        irregular=bool(rng.random_sample() < 0.02),
    )


_marks = lru_cache(maxsize=16)(fine_structure)  # a person's shots follow each other


@lru_cache(maxsize=16)
def _blotches(person: Person, side: str, palmar: bool) -> np.ndarray:
    colour = own_normals(person, side, f"blotches {palmar}", 7, 6, 3) * [0.012, 0.017, 0.017]
    return colour + own_normals(person, side, f"shade {palmar}", 7, 6, 1) * 0.020


def _skin_colour(person: Person, palmar: bool) -> np.ndarray:
    table, tones = (_PALMAR if palmar else _DORSAL), [i / 5 for i in range(6)]
    skin = np.array([np.interp(person.tone, tones, [row[c] / 255.0 for row in table]) for c in range(3)])
    return skin * (1.0 + person.warmth * np.array([0.006, 0.010, -0.026]))


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


def pose_hand(
    person: Person,
    side: str,
    palmar: bool,
    *,
    spread: float = 0.5,
    turns: Sequence[float] = (0.0, 0.0, 0.0, 0.0, 0.0),
    ring: bool = False,
    polish: bool = False,
    density: float = 110.0,
) -> Hand:
    """Put a person's hand into a pose.

    Args:
        person: whose hand.
        side: "right" or "left"; the two differ a little in build and more in their lines.
        palmar: the palm rather than the back.
        spread: 0 = fingers closed, 1 = wide open.
        turns: radians added to each finger's angle, thumb first.
        ring: wear the person's ring, if there is one for this hand.
        polish: wear the person's nail polish, if any; it shows on the back only.
        density: points per hand unit along thin lines; about two a pixel.

    Returns:
        The hand as `hand_drawing.render` takes it.
    """
    own = own_normals(person, side, "build", 3, 5) * 0.012  # no one's hands are exact mirror images
    base_x = np.array([-0.31, -0.10, 0.10, 0.29]) * person.palm / 0.415
    base_y = np.array([0.945, 1.0, 0.965, 0.865]) + person.shifts[1:]
    thumb_angle = min(person.angles[0] + turns[0] - (0.16 if palmar else 0.0), -0.12)
    root = (-0.15 * person.wrist / 0.285, 0.16)
    lean, reach = -0.72 + 0.55 * (thumb_angle + 0.46), 0.43 + person.shifts[0]
    bases = [(root[0] + reach * math.sin(lean), root[1] + reach * math.cos(lean))]
    bases += zip(base_x.tolist(), base_y.tolist(), strict=True)
    angles = [thumb_angle] + [person.angles[i] + turns[i] + _SPREAD[i - 1] * spread for i in range(1, 5)]
    fingers = [
        Finger(
            base=bases[i],
            angle=angles[i] + float(own[2, i]),
            length=person.lengths[i] * (1 + float(own[0, i])),
            width=person.widths[i] * (1 + float(own[1, i])),
            bend=person.bends[i] - (0.03 if i == 0 else 0.0),
            taper=person.taper,
            joint=person.joint,
            thumb=i == 0,
        )
        for i in range(5)
    ]
    _part_fingers(fingers)
    skin = _skin_colour(person, palmar)
    polished = bool(polish and person.polish and not palmar)
    nail = skin * 0.55 + 0.45 * np.array([0.97, 0.80, 0.77]) + person.nail_pink * np.array([0.0, -0.022, -0.016])
    return Hand(
        palmar=palmar,
        fingers=fingers,
        thumb_root=root,
        palm=person.palm,
        wrist=person.wrist,
        skin=skin,
        flush=person.flush,
        knuckle=person.knuckle,
        relief=person.relief,
        blotches=_blotches(person, side, palmar),
        nail=person.nail,
        nail_colour=np.array(person.polish) if polished else nail,
        polished=polished,
        ring=person.ring if ring and person.ring and person.ring.sides in (side, "both") else None,
        marks=_marks(person, side, palmar, density),
    )
