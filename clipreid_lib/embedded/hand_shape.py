"""The shape of one posed hand: what describes it, its outline as signed distances, its relief as heights.

Lengths are in hand units: the wrist is the origin, the middle finger starts at y = 1, y points to the fingertips and
the thumb is on the negative x side. Distances are negative inside. Below, x and y are arrays (...) of points, and a
result has their shape. Arrays only see + - * / sqrt, comparisons and table look-ups: exp or sin on arrays may differ in
the last bit between processors, and a data set has to come out the same everywhere.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from clipreid_lib.embedded.hand_people import Person, Ring

CREASE, VEIN, SCAR, MOLE = range(4)  # what a mark does to the skin
ON_PALM = 5  # marks 0-4 ride on thumb, index, middle, ring, little; 5 on the palm or the back of the hand
KNUCKLE_AT = -0.29  # where the knuckles of the fist sit, as a fraction of the finger below its web

# Half width along a finger from web to tip: where, what fraction of the finger's width, whether a joint is there.
_FINGER = np.array(
    [
        (-0.20, 0.00, 0.22, 0.46, 0.60, 0.74, 0.86, 1.05),
        (0.96, 1.00, 0.95, 0.96, 0.87, 0.86, 0.82, 0.78),
        (0, 0, 0, 1, 0, 1, 0, 0),
    ]
)
_THUMB = np.array([(-0.20, 0.00, 0.25, 0.52, 0.72, 1.05), (1.10, 1.02, 0.90, 0.96, 0.98, 0.78), (0, 0, 0, 1, 0, 0)])

# Half breadth of forearm, wrist and palm at some heights, as mixtures of wrist (0) and palm (1) breadth.
_EDGE_Y = (-3.0, -0.9, -0.35, -0.05, 0.14, 0.40, 0.70, 0.95, 3.0)
_ULNAR = (0.45, 0.25, 0.0, 0.0, 0.45, 0.95, 1.0, 0.85, 0.7)
_RADIAL = (0.45, 0.25, 0.0, -0.05, 0.0, 0.55, 0.92, 0.97, 1.0)
_ROWS = np.arange(-3.0, 3.0, 0.02)
_ULNAR_TABLE, _RADIAL_TABLE = (
    np.mean([np.interp(_ROWS + 0.02 * shift, _EDGE_Y, edge) for shift in range(-6, 7)], axis=0)  # rounded
    for edge in (_ULNAR, _RADIAL)
)


class Finger:
    """One finger from its root: position and sizes in hand units, angle in radians from straight up."""

    def __init__(self, person: Person, number: int, base: tuple[float, float], angle: float, own: np.ndarray) -> None:
        """Take one of the person's fingers, 0 = thumb; ``own`` (3,) changes length, width and angle for this hand."""
        self.thumb, self.base, self.angle = number == 0, base, angle + own[2]
        self.length: float = person.lengths[number] * (1 + own[0])
        self.width: float = person.widths[number] * (1 + own[1])  # half width at the root
        self.bend: float = person.bends[number] - (0.03 if self.thumb else 0.0)  # sideways drift of the tip
        self.taper = person.taper  # 1 = as the profile, below = slimmer tip
        self.joint = person.joint  # how far the joints stand out

    def place(self, t: ArrayLike, v: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
        """Map places on the finger to x and y in hand units.

        Args:
            t: (...) along the finger, 0 at its root and 1 at its tip.
            v: (...) across it, -1 to 1 at the root's width.
        """
        t, v = np.asarray(t) * self.length, np.asarray(v) * self.width
        v = v + self.bend * (t / self.length) ** 2
        sin, cos = math.sin(self.angle), math.cos(self.angle)
        return self.base[0] + t * sin + v * cos, self.base[1] + t * cos - v * sin


@dataclass
class Marks:
    """Dense points of all thin structures of one side of one hand; every array has one entry a point."""

    part: np.ndarray  # 0-4 finger, 5 palm
    at: np.ndarray  # (n, 2) in the part's own fractions (finger) or hand units (palm)
    radius: np.ndarray  # hand units
    strength: np.ndarray  # 0 to 1
    kind: np.ndarray


@dataclass
class Hand:
    """A person's posed hand, ready to be drawn."""

    person: Person
    palmar: bool
    fingers: list[Finger]  # thumb, index, middle, ring, little
    thumb_root: tuple[float, float]
    skin: np.ndarray  # (3,) RGB in 0..1
    blotches: np.ndarray  # (7, 6, 3) slow colour changes over the hand
    nail_colour: np.ndarray  # (3,)
    polished: bool
    ring: Ring | None  # where it is worn on this hand
    marks: Marks


def smooth_min(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Take the minimum of two distances with a fillet of size k, so that parts grow into each other.

    The quadratic polynomial of Quilez (Smooth minimum): at most ``k / 4`` below the smaller one, and equal to it
    where the two differ by k or more.
    """
    h = (k - np.abs(a - b)).clip(0.0) / k
    return np.minimum(a, b) - h * h * (k / 4)


def smooth_max(a: np.ndarray, b: np.ndarray, k: float) -> np.ndarray:
    """Take the maximum of two distances with a rounding of size k, as :func:`smooth_min` does the minimum."""
    return -smooth_min(-a, -b, k)


def raise_bump(
    x: np.ndarray, y: np.ndarray, cx: float | np.ndarray, cy: float | np.ndarray, rx: float, ry: float
) -> np.ndarray:
    """Raise a smooth hill of height 1 at (cx, cy), exactly 0 outside its ellipse of half widths (rx, ry)."""
    q = (1.0 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2).clip(0.0)
    return q * q


def raise_dome(distance: np.ndarray, radius: float | np.ndarray) -> np.ndarray:
    """Raise a rounded edge from 0 at the outline to the height ``radius`` that far behind it."""
    inside = (-distance).clip(0.0, radius)
    return np.sqrt(inside * (2 * radius - inside))


def _measure_capsule(
    x: np.ndarray, y: np.ndarray, a: tuple[float, float], b: tuple[float, float], ra: float, rb: float
) -> np.ndarray:
    dx, dy = b[0] - a[0], b[1] - a[1]
    t = (((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy)).clip(0.0, 1.0)
    return np.sqrt((x - a[0] - t * dx) ** 2 + (y - a[1] - t * dy) ** 2) - (ra + (rb - ra) * t)


def measure_body(hand: Hand, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Measure the signed distance (nearly) to palm, thumb ball and forearm."""
    step = ((y + 3.0) / 0.02).clip(0.0, len(_ROWS) - 1.001)
    low = step.astype(np.intp)
    part, wrist = step - low, hand.person.wrist
    more = hand.person.palm - wrist
    right = x - wrist - more * (_ULNAR_TABLE[low] * (1 - part) + _ULNAR_TABLE[low + 1] * part)
    left = -x - wrist - more * (_RADIAL_TABLE[low] * (1 - part) + _RADIAL_TABLE[low + 1] * part)
    bases = [finger.base for finger in hand.fingers[1:]]
    webs_x = [-3.0, *(base[0] for base in bases), 3.0]
    webs_y = [bases[0][1] - 0.02, *(base[1] for base in bases), bases[-1][1] - 0.06]
    top = y - np.interp(x, webs_x, webs_y)
    body = smooth_max(smooth_max(left, right, 0.05), top, 0.12)
    thumb = hand.fingers[0]
    return smooth_min(body, _measure_capsule(x, y, hand.thumb_root, thumb.base, 0.17, thumb.width * 1.12), 0.14)


def raise_body(hand: Hand, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Raise tendons and knuckles of the back, or the pads of the palm: extra height in hand units."""
    relief = hand.person.relief
    if hand.palmar:
        pads = 0.050 * raise_bump(x, y, -0.22, 0.36, 0.26, 0.40) + 0.036 * raise_bump(x, y, 0.24, 0.34, 0.22, 0.42)
        pads += 0.022 * raise_bump(x, y, 0.0, 0.90, 0.46, 0.17) - 0.028 * raise_bump(x, y, 0.04, 0.58, 0.22, 0.24)
        return relief * pads
    extra = 0.02 * raise_bump(x, y, 0.0, 0.5, 0.5, 0.7)
    for finger in hand.fingers[1:]:
        kx, ky = finger.place(KNUCKLE_AT, 0.0)
        extra += 0.030 * raise_bump(x, y, kx, ky, 0.11, 0.13)
        dx, dy = kx - 0.02, ky - 0.05
        along = ((x - 0.02) * dx + (y - 0.05) * dy) / (dx * dx + dy * dy)
        across = ((x - 0.02) * dy - (y - 0.05) * dx) / math.sqrt(dx * dx + dy * dy)
        fade = np.maximum(1.0 - ((along - 0.62) / 0.42) ** 2, 0.0)  # gone well before wrist and knuckle
        ridge = np.maximum(1.0 - (across / 0.045) ** 2, 0.0)
        extra += 0.013 * relief * fade * fade * ridge * ridge
    return extra


def measure_finger(
    finger: Finger, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Measure signed distance, height, q along the finger (0 web, 1 tip) and v across it, in hand units."""
    sin, cos = math.sin(finger.angle), math.cos(finger.angle)
    rx, ry = x - finger.base[0], y - finger.base[1]
    t = rx * sin + ry * cos
    q = t / finger.length
    v = rx * cos - ry * sin - finger.bend * q * np.abs(q)
    where, profile, joint = _THUMB if finger.thumb else _FINGER
    radii = finger.width * profile * (1.0 - (1.0 - finger.taper) * where.clip(0.0)) * np.where(joint, finger.joint, 1.0)
    radius = np.interp(q, where, radii)
    over = (t - (finger.length - 1.25 * radii[-1])).clip(0.0) / 1.25  # an oval fingertip
    under = np.minimum(t + 0.16 * finger.length, 0.0)
    distance = np.sqrt(v * v + over * over + under * under) - radius
    return distance, raise_dome(distance, radius), q, v
