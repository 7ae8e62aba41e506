"""A row of the table: two things measured in turn in one process, their ratio, and what is aimed at."""

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

# What an aim can be about: how it is said, the judged number of (baseline, ours), and whether more of it is better.
AIMS = {
    "faster": (">= {:g}", lambda baseline, ours: baseline / ours, True),
    "times": ("<= {:g}", lambda baseline, ours: ours / baseline, False),
    "itself": ("ours <= {:g} {}", lambda baseline, ours: ours, False),
    "on top": ("<= {:g} {} more", lambda baseline, ours: ours - baseline, False),
}


@dataclass(frozen=True)
class Row:
    """Two things, measured the same number of times.

    Attributes:
        what: is compared.
        baseline: the way without the library's doing.
        ours: the library's way.
        pairs: (baseline, ours) of every round, in ``unit``.
        aim: the number aimed at.
        about: what the aim is about, a key of ``AIMS``.
        unit: of both numbers.
        note: what was found equal, and what else there is to say.
        reason: why the aim is missed, where it is known to be on some machines.
    """

    what: str
    baseline: str
    ours: str
    pairs: list[tuple[float, float]]
    aim: float
    about: str = "faster"
    unit: str = "s"
    note: str = ""
    reason: str = ""

    @property
    def medians(self) -> tuple[float, float]:
        """The median of each side."""
        return tuple(statistics.median(side) for side in zip(*self.pairs, strict=True))

    @property
    def ratios(self) -> list[float]:
        """Baseline over ours, round by round; ours over baseline where the aim says that less is better."""
        more = AIMS[self.about][2]
        return [baseline / ours if more else ours / baseline for baseline, ours in self.pairs]

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios, so that a machine that slows down for both sides changes little."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether the median round reaches the aim."""
        _, judged, more = AIMS[self.about]
        found = statistics.median(judged(*pair) for pair in self.pairs)
        return found >= self.aim if more else found <= self.aim

    @property
    def aim_in_words(self) -> str:
        """The aim and its direction."""
        return AIMS[self.about][0].format(self.aim, self.unit)


def peak(what: str, baseline: str, gib: float, aim: float, note: str) -> Row:
    """Set a size in GiB beside the most memory that this process ever held, which the aim is about."""
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return Row(
        what, baseline, "the whole process at its peak", [(gib, held)], aim, about="itself", unit="GiB", note=note
    )


def seconds(task: Callable[[], object]) -> tuple[float, object]:
    """Time one call, and return what it returned."""
    began = time.perf_counter()
    answer = task()
    return time.perf_counter() - began, answer


def in_turn(
    baseline: Callable[[int], object],
    ours: Callable[[int], object],
    rounds: int,
    timed: Callable[[Callable[[], object]], tuple[float, object]] = seconds,
) -> tuple[list[tuple[float, float]], tuple[object, object]]:
    """Time two things alternately, since machines wander; each goes first every other round.

    Args:
        baseline: called with the number of the round.
        ours: likewise.
        rounds: how many.
        timed: calls one and returns the seconds it took, and what it returned.

    Returns:
        (baseline, ours) seconds of each round, and what the two returned in the last.
    """
    pairs = []
    for number in range(rounds):
        taken = {}
        for way in (baseline, ours) if number % 2 == 0 else (ours, baseline):
            taken[way] = timed(lambda way=way, number=number: way(number))
        pairs.append((taken[baseline][0], taken[ours][0]))
    return pairs, (taken[baseline][1], taken[ours][1])
