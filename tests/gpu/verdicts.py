"""A row of the acceptance table: what was measured, beside what, its limit, and whether the limit is kept."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

OK, MISSED, NO_TIME, FAILED = "ok", "MISSED", "no time", "FAILED"
GPU_ONLY = "GPU only"  # measured on a CPU in a rehearsal, where the limit means nothing
SKIPPED = "skipped"  # a package is not there
HEADER = ("section", "what", "value", "beside", "ratio", "limit", "verdict")
WIDTHS = (9, 46, 18, 26, 8, 20, 8)  # known before the first row is, so that rows appear as they finish


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: was measured.
        value: what was found, a number or words.
        unit: of the number.
        beside: what it is compared with, in words.
        ratio: of the two, where they are two of a kind.
        limit: in words; empty where there is none.
        verdict: one of this module's words; FAILED comes with the error's last line in ``note``.
        note: what else there is to say.
        section: name of the section; who runs it fills it in.
    """

    what: str
    value: float | str = ""
    unit: str = ""
    beside: str = ""
    ratio: float | None = None
    limit: str = ""
    verdict: str = OK
    note: str = ""
    section: str = ""

    @property
    def bad(self) -> bool:
        """Whether this row lets the acceptance fail."""
        return self.verdict in (MISSED, FAILED)


def judge(
    what: str,
    value: float,
    unit: str = "",
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    of: str = "value",
    ratio: float | None = None,
    beside: str = "",
    note: str = "",
) -> Row:
    """Make a row whose value or ratio has a limit. What is not a number misses every limit.

    Args:
        what: was measured.
        value: the number found.
        unit: of the number.
        at_most: the upper limit.
        at_least: the lower limit.
        of: what the limit is about, ``value`` or ``ratio``.
        ratio: of the value and what is beside it.
        beside: what it is compared with.
        note: what else there is to say.
    """
    judged = {"value": value, "ratio": ratio}[of]
    kept = judged is not None and (at_most is None or judged <= at_most) and (at_least is None or judged >= at_least)
    kept = kept and judged == judged
    about = "ratio " if of == "ratio" else ""
    limits = [f"{about}{sign} {limit:g}" for sign, limit in (("<=", at_most), (">=", at_least)) if limit is not None]
    words = f" {unit}".rstrip() if limits and of == "value" else ""
    return Row(what, value, unit, beside, ratio, " and ".join(limits) + words, OK if kept else MISSED, note)


def short(number: float | str | None) -> str:
    """Spell a number with three or four digits; words stay."""
    if number is None or isinstance(number, str):
        return number or ""
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def cells(row: Row) -> tuple[str, ...]:
    """Spell a row, in the order of ``HEADER``."""
    value = f"{short(row.value)} {row.unit}".rstrip()
    return row.section, row.what, value, row.beside, short(row.ratio), row.limit, row.verdict


def line(spelt: Sequence[str], note: str = "") -> str:
    """Align one line's cells; a note follows on a line of its own."""
    text = "  ".join(cell.ljust(width) for cell, width in zip(spelt, WIDTHS, strict=True)).rstrip()
    return f"{text}\n{'':11}{note}" if note else text


def save(folder: Path, rows: Sequence[Row], title: str, seconds: dict[str, float] | None = None) -> None:
    """Write ``table.md`` and ``table.json``, anew after every row, so that a kill loses nothing.

    Args:
        folder: that is there.
        rows: as far as they are known.
        title: how it was run, for both files.
        seconds: what each section took, when all are done.
    """
    lines = [f"# {title}", "", _markdown(HEADER + ("note",)), _markdown(["---"] * (len(HEADER) + 1))]
    lines += [_markdown((*cells(row), row.note)) for row in rows]
    if seconds:
        lines += ["", "Seconds: " + ", ".join(f"{name} {each:.1f}" for name, each in seconds.items()) + "."]
    (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    told = {"title": title, "seconds": seconds or {}, "rows": [asdict(row) for row in rows]}
    (folder / "table.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def _markdown(spelt: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in spelt) + " |"
