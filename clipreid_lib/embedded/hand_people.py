"""Made-up people: what is fixed about a person and his hands, and the random streams that decide it."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SKINS = ("very fair", "fair", "medium", "dark")
_SKIN_EDGES = (0.15, 0.45, 0.80)  # 15/30/35/20 %, flatter than 11k's 3/32/58/7 %: every word needs pictures
_SKIN_BAND = ((0.00, 0.15), (0.22, 0.42), (0.49, 0.72), (0.80, 1.00))  # tone, with gaps a caption can rely on
_POLISH = ((178, 20, 40), (226, 60, 120), (70, 16, 50), (24, 22, 28), (36, 70, 150), (20, 120, 110), (150, 60, 160))
_METAL = ((226, 178, 70), (206, 210, 216), (214, 150, 120))
_STONE = ((240, 244, 250), (170, 20, 40), (30, 60, 150))


@dataclass(frozen=True)
class Ring:
    """A ring on one finger, worn at a fraction of its length."""

    finger: int
    sides: str  # "right", "left" or "both"
    at: float
    height: float  # hand units
    metal: tuple[int, int, int]  # RGB in 0..255
    stone: tuple[int, int, int] | None


def open_stream(*key: object) -> np.random.RandomState:
    """Open a random stream of its own for every combination of plain values.

    It is the same on every machine: numpy promises that `RandomState` stays as it is.
    """
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, "<u4"))


def _pick(rng: np.random.RandomState, options: Sequence) -> Any:
    return options[int(rng.random_sample() * len(options))]


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


class Person:
    """One made-up person; lengths in hand units, relative sizes around 1, angles in radians."""

    def __init__(self, number: int, seed: int, wide: bool = False) -> None:
        """Invent the person, the same for the same arguments. The order of the draws below is part of that.

        ``wide`` people and their sessions vary as photographs do, beyond what the demo needs.
        """
        self.number, self.seed, self.wide = number, seed, wide
        rng = open_stream("person", seed, number)
        z = rng.standard_normal
        female = rng.random_sample() < 0.6
        self.gender = "female" if female else "male"
        self.age = age = int(min(75, 18 + rng.gamma(1.3, 6.0)))  # years
        where = rng.random_sample()
        kind = sum(where >= edge for edge in _SKIN_EDGES)
        low, high = _SKIN_BAND[kind]
        self.skin = SKINS[kind]
        self.tone = low + (high - low) * rng.random_sample()  # 0 lightest to 1 darkest
        longer, wider = 1 + 0.05 * z(), (0.97 if female else 1.03) + 0.045 * z()
        # Of thumb, index, middle, ring and little finger; widths are half widths.
        self.lengths = np.array([0.56, 0.71, 0.79, 0.73, 0.57]) * longer * (1 + 0.050 * z(5))
        self.widths = np.array([0.105, 0.093, 0.096, 0.091, 0.080]) * wider * (1 + 0.040 * z(5))
        self.angles = np.array([-0.46, -0.035, 0.0, 0.030, 0.075]) + 0.045 * np.array([2.0, 1, 0.8, 1, 1.5]) * z(5)
        overhang = max(0.0, (0.17 if female else 0.04) + 0.17 * z())
        # length, width (fractions of the finger's half width), overhang
        self.nail = _clip(1.0 + 0.14 * z(), 0.7, 1.4), _clip(0.86 + 0.08 * z(), 0.65, 1.0), overhang
        ring = Ring(
            finger=_pick(rng, (1, 2, 3, 3, 4)),
            sides=_pick(rng, ("right", "right", "left", "left", "both")),
            at=0.20 + 0.03 * z(),
            height=_clip(0.062 + 0.015 * z(), 0.045, 0.10),
            metal=_pick(rng, _METAL),
            stone=_pick(rng, _STONE) if rng.random_sample() < 0.4 else None,
        )
        self.ring = ring if rng.random_sample() < 0.15 else None
        paints = rng.random_sample() < (0.35 if female else 0.03)
        self.warmth = z()  # of the skin: yellow (+) or pink (-)
        self.size = (0.97 if female else 1.04) * (1 + 0.04 * z())
        self.palm = 0.415 * wider * (1 + 0.05 * z())  # half breadth
        self.wrist = 0.285 * wider * (1 + 0.06 * z())  # half breadth
        self.bends, self.shifts = 0.022 * z(5), 0.022 * z(5)  # of the fingers; shifts move their roots up or down
        self.taper = _clip(0.95 + 0.05 * z(), 0.80, 1.05)
        self.joint = _clip(1.03 + 0.035 * z(), 0.97, 1.12)  # how far the joints stand out
        self.knuckle = _clip(0.07 + 0.04 * z() + 0.09 * self.tone, 0.02, 0.28)  # how dark the knuckles are
        self.relief = _clip((0.8 if female else 1.1) + 0.35 * z(), 0.2, 2.0)  # of tendons and pads
        self.veins = _clip((0.35 if female else 0.6) + 0.25 * z() + 0.008 * (age - 22), 0.05, 1.0)
        self.lines = _clip(0.62 + 0.14 * z() + 0.004 * (age - 22), 0.35, 0.95)  # how deep the creases are
        self.flush = _clip(1.0 + 0.45 * z(), 0.1, 2.2)  # how red tips and pads are
        self.nail_pink = z()
        self.moles = rng.gamma(1.5, 1.2)  # expected number on the back of a hand
        self.polish = _pick(rng, _POLISH) if paints else None
        self.irregular = bool(rng.random_sample() < 0.02)
        if wide:
            self._widen(open_stream("wide person", seed, number).uniform)

    def _widen(self, vary: Callable[[float, float], float]) -> None:
        self.lengths = self.lengths * vary(0.88, 1.12)
        self.widths = self.widths * vary(1.0, 1.22)
        self.palm *= vary(0.95, 1.18)
        self.wrist *= vary(1.0, 1.4)
        self.warmth += vary(-1.0, 3.5)  # backs of hands are yellower in photographs, lines and tips paler
        self.lines *= vary(0.35, 1.0)
        self.flush *= vary(0.2, 1.0)
        self.relief *= vary(0.6, 1.4)


def draw_own(person: Person, side: str, what: str, *shape: int) -> np.ndarray:
    """Draw standard normals of one hand: 0.8 shared by both hands of the person + 0.6 of its own (variance 1)."""
    shared = open_stream(what, person.seed, person.number).standard_normal(shape)
    return 0.8 * shared + 0.6 * open_stream(what, person.seed, person.number, side).standard_normal(shape)
