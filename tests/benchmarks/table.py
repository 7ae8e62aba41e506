"""The table of `make bench`: lines that can be printed one by one, the machine in words, and the files to keep."""

import csv
import importlib.metadata
import io
import os
import platform
from pathlib import Path

from rows import Row

from clipreid_lib.base.files import write_text

HEADER = ("what", "baseline", "", "ours", "", "ratio", "range", "aim", "")
WIDTHS = (29, 29, 10, 29, 10, 6, 11, 14, 6)  # known before the first row is, so that rows appear as they finish
TO_THE_RIGHT = (2, 4, 5)


def line(cells: tuple[str, ...]) -> str:
    """Align one line's cells."""
    aligned = [
        cell.rjust(width) if place in TO_THE_RIGHT else cell.ljust(width)
        for place, (cell, width) in enumerate(zip(cells, WIDTHS, strict=True))
    ]
    return "  ".join(aligned).rstrip()


def short(number: float) -> str:
    """Three digits, which is more than such measurements are good for."""
    return f"{number:.0f}" if number >= 99.5 else f"{number:.1f}" if number >= 9.95 else f"{number:.2f}"


def cells(row: Row) -> tuple[str, ...]:
    """Spell a row."""
    baseline, ours = (f"{short(number)} {row.unit}" for number in row.medians)
    spread = f"{short(min(row.ratios))}-{short(max(row.ratios))}" if len(row.pairs) > 1 else "one round"
    verdict = "met" if row.met else "missed"
    return row.what, row.baseline, baseline, row.ours, ours, short(row.ratio), spread, row.aim_in_words, verdict


def below(rows: list[Row], machine: str) -> str:
    """Return what stands under the table: how to read it, why aims were missed, what was compared, the machine."""
    lines = ["ratio: baseline / ours, or ours / baseline where the aim has <=; medians of rounds taken in turn."]
    missed = [row for row in rows if not row.met]
    lines += [f"MISSED  {row.what}: {row.reason or 'no reason is known yet; profile it'}" for row in missed]
    lines += [f"{row.what}: {row.note}" for row in rows if row.note]
    return "\n".join([*lines, machine])


def machine_in_words() -> str:
    """Describe the machine: enough to judge the numbers by, nothing that names it or its owner."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    cores = "1 core" if there == 1 else f"{there} cores"
    system = f"{platform.system()} on {platform.machine()}"
    torch = importlib.metadata.version("torch")
    busy = f", {os.getloadavg()[0]:.1f} processes at work before it began" if hasattr(os, "getloadavg") else ""
    return f"Machine: {cores}, {system}, Python {platform.python_version()}, torch {torch}{busy}."


def keep(folder: Path, name: str, rows: list[Row], machine: str) -> list[Path]:
    """Save the table as it was printed and as CSV, and return the files."""
    text = "\n".join([*map(line, [HEADER, *map(cells, rows)]), "", below(rows, machine)]) + "\n"
    sheet = io.StringIO()
    writer = csv.writer(sheet, lineterminator="\n")
    writer.writerow(
        ["what", "baseline", "baseline_median", "ours", "ours_median", "unit", "ratio", "ratio_least", "ratio_most"]
        + ["aim", "verdict", "reason", "note", "machine"]
    )
    for row in rows:
        numbers = [f"{number:.4g}" for number in (row.ratio, min(row.ratios), max(row.ratios))]
        sides = [f"{number:.4g}" for number in row.medians]
        verdict = ["met", ""] if row.met else ["missed", row.reason]
        writer.writerow(
            [row.what, row.baseline, sides[0], row.ours, sides[1], row.unit, *numbers, row.aim_in_words, *verdict]
            + [row.note, machine]
        )
    paths = [folder / f"{name}.txt", folder / f"{name}.csv"]
    for path, content in zip(paths, (text, sheet.getvalue()), strict=True):
        write_text(path, content)
    return paths
