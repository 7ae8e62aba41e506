"""The lines only one hand has: palm lines, finger creases, veins, knuckle folds, moles and scars.

Right and left hand of a person share most of a line's course and own the rest, as real hands do.
"""

import math
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from clipreid_lib.embedded.hand_people import Person, draw_own, open_stream
from clipreid_lib.embedded.hand_shape import CREASE, KNUCKLE_AT, MOLE, ON_PALM, SCAR, VEIN, Marks


class _Pen:
    """Collects curves as dense points; `density` is points per hand unit."""

    def __init__(self, person: Person, density: float) -> None:
        self.density = density
        self.units = [*np.column_stack([person.lengths, person.widths]), np.ones(2)]  # of each part's coordinates
        self.rows: list[tuple[int, np.ndarray, np.ndarray, np.ndarray, int]] = []

    def curve(
        self, part: int, points: ArrayLike, radius: float, strength: float, kind: int = CREASE, fade: bool = True
    ) -> None:
        """Add a Bezier curve with 1-4 control points in the part's own coordinates; one point alone is a dot."""
        points = np.asarray(points, dtype=np.float64)
        legs = np.diff(points, axis=0) * self.units[part]
        count = max(2, math.ceil(float(np.sqrt((legs * legs).sum(1)).sum()) * self.density))
        s = np.linspace(0.0, 1.0, count)[:, None]
        while len(points) > 1:  # de Casteljau, for all points of the curve at once
            points = [p + (q - p) * s for p, q in zip(points[:-1], points[1:], strict=True)]
        ends = np.minimum(1.0, 0.25 + 3.0 * np.minimum(s, 1 - s))[:, 0] if fade else np.ones(count)
        course = np.broadcast_to(points[0], (count, 2))
        self.rows.append((part, course, radius * (0.6 + 0.4 * ends), strength * ends, kind))

    def marks(self) -> Marks:
        """All points collected so far."""
        parts, points, radii, strengths, kinds = zip(*self.rows, strict=True)
        counts = [len(at) for at in points]
        return Marks(
            part=np.repeat(parts, counts),
            at=np.concatenate(points),
            radius=np.concatenate(radii),
            strength=np.concatenate(strengths).clip(0.0, 1.0),
            kind=np.repeat(kinds, counts),
        )


def _add_palm_lines(person: Person, side: str, pen: _Pen) -> None:
    z = draw_own(person, side, "palm lines", 12, 4, 2) * 0.040
    depth = person.lines * np.array([1.0, 1.0, 1.1]) * (1 + 2.5 * z[0, :3, 0])
    main = (  # heart, head and life line
        ((0.40, 0.64), (0.20, 0.58), (0.00, 0.64), (-0.10, 0.88)),
        ((-0.40, 0.70), (-0.20, 0.68), (0.05, 0.60), (0.24, 0.40)),
        ((-0.40, 0.67), (-0.12, 0.64), (0.00, 0.34), (-0.10, 0.06)),
    )
    for line, jitter, strength in zip(main, z[1:4], depth, strict=True):
        points = (np.array(line) + jitter * [[0.4], [1.0], [1.0], [1.2]]) * [person.palm / 0.415, 1.0]
        pen.curve(ON_PALM, points, 0.011, 0.95 * strength)
    if z[4, 0, 0] > -0.01:  # not everyone has a line from the wrist to the middle finger
        fate = np.array(((0.02, 0.12), (0.05, 0.45), (0.0, 0.82))) + 1.4 * z[4, 1:]
        pen.curve(ON_PALM, fate, 0.007, 0.6 * person.lines)
    for jitter in z[5:]:
        middle, turn = np.array([0.02, 0.50]) + jitter[0] * [4.5, 6.0], jitter[1] * 2.2
        middle = middle.clip([-0.30, 0.12], [0.32, 0.86])
        pen.curve(ON_PALM, (middle - turn, middle + jitter[2], middle + turn), 0.007, 0.6 * person.lines)
    for row, shift in enumerate(draw_own(person, side, "wrist", 2) * 0.015):
        y = shift - 0.06 * row
        pen.curve(ON_PALM, ((-0.24, y + shift), (0, y - 0.03), (0.24, y)), 0.008, 0.5 * person.lines)


# Of thumb and of other fingers, seen from the palm (True) and from the back: (place along the finger, creases there).
_JOINTS = {
    True: (((0.06, 1), (0.52, 2)), ((0.03, 2), (0.42, 2), (0.71, 1))),
    False: (((0.52, 3),), ((0.46, 3), (0.74, 2))),
}


def _add_finger_lines(person: Person, side: str, palmar: bool, pen: _Pen) -> None:
    z = draw_own(person, side, f"finger lines {'palmar' if palmar else 'dorsal'}", 5, 3, 4)
    for part in range(5):
        for (joint, count), (where, more, skew, reach) in zip(_JOINTS[palmar][part > 0], z[part], strict=False):
            middle, reach = joint + 0.014 * where, (0.85 if palmar else 0.62) + 0.06 * reach
            strength = person.lines * (0.62 if palmar else 0.50) * (1 + 0.15 * more)
            for line in range(count + (more > 0.8)):
                place = line - (count - 1) / 2
                t = middle + place * (0.050 + 0.012 * skew)
                bow = (0.012 if palmar else 0.03) * (place - 0.2) + 0.012 * skew
                tilt = 0.012 * where
                pen.curve(part, ((t + tilt, -reach), (t + bow, 0.0), (t - tilt, reach)), 0.008, strength)


def _add_back_lines(person: Person, side: str, pen: _Pen) -> None:
    z = draw_own(person, side, "veins", 6, 4, 2) * 0.05
    ends = np.array(((-0.19, 0.84), (0.01, 0.87), (0.20, 0.82), (0.31, 0.70)))
    roots = np.array(((-0.12, 0.02), (-0.02, 0.0), (0.10, 0.0), (0.18, 0.04)))
    paths = []
    for end, root, jitter in zip(ends, roots, z, strict=False):
        paths.append(np.array([root, root + (end - root) * 0.35, root + (end - root) * 0.7, end]) + jitter * 1.3)
        pen.curve(ON_PALM, paths[-1], 0.016, 0.75 * person.veins * (1 + 4 * jitter[0, 0]), VEIN)
    for (one, other), jitter in zip(((0, 1), (2, 3)), z[4:], strict=True):
        start, end = paths[one][1] + jitter[0], paths[other][2] + jitter[1]
        pen.curve(ON_PALM, (start, (start + end) / 2 + jitter[2], end), 0.013, 0.65 * person.veins, VEIN)
    for part, folds in enumerate(draw_own(person, side, "knuckle folds", 4, 3, 3), 1):
        for where, shift, bow in folds:
            t, v = KNUCKLE_AT + 0.03 * where, 0.35 * shift
            pen.curve(part, ((t, v - 0.45), (t + 0.03 * bow, v), (t, v + 0.45)), 0.006, 0.25 * person.lines)


@lru_cache(maxsize=16)  # a person's shots follow each other
def draw_lines(person: Person, side: str, palmar: bool, density: float) -> Marks:
    """Draw lines, veins, moles and scars of the palm or back of one hand, with ``density`` points a hand unit."""
    pen = _Pen(person, density)
    _add_finger_lines(person, side, palmar, pen)
    if palmar:
        _add_palm_lines(person, side, pen)
    else:
        _add_back_lines(person, side, pen)
    rng = open_stream("moles", person.seed, person.number, side, palmar)
    for _ in range(min(5, rng.poisson(person.moles * (0.3 if palmar else 0.8)))):
        part = (1, 2, 3, 4, ON_PALM, ON_PALM, ON_PALM, ON_PALM)[int(rng.random_sample() * 8)]
        x, y, big = rng.random_sample(3)
        at = (-0.33 + 0.66 * x, 0.1 + 0.75 * y) if part == ON_PALM else (0.05 + 0.75 * y, -0.6 + 1.2 * x)
        pen.curve(part, [at], 0.006 + 0.014 * big * big, 0.5 + 0.4 * big, MOLE, fade=False)
    if person.irregular:
        points = rng.random_sample((3, 2)) * [0.2, 0.6] + [[-0.25, 0.2], [0.0, 0.2], [0.1, 0.2]]
        pen.curve(ON_PALM, points, 0.018, 1.0, SCAR, fade=False)
    return pen.marks()
