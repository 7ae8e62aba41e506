"""Sections one after the other in processes of their own, each under a time limit, within one budget."""

import importlib
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from verdicts import FAILED, NO_TIME, Row

PATIENCE = 2.5  # times its estimate that a section may take
# A clean process that has imported torch but not started CUDA; each section is forked from it and saves the imports.
CONTEXT: Any = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
if sys.platform != "win32":
    CONTEXT.set_forkserver_preload(["place"])


def run_sections(
    costs: dict[str, float],
    seconds: float,
    start: Callable[[str, float], Iterator[Row]],
    tell: Callable[[Row], None],
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, float]:
    """Run sections in order, each only where its estimate fits into what is left.

    Args:
        costs: each section's name and the seconds that it is estimated to take.
        seconds: for all of them.
        start: runs a section for at most so many seconds, and yields its rows.
        tell: given every row at once.
        clock: seconds that only grow.

    Returns:
        The seconds that each section took; those that had no time are not in it.
    """
    end, taken = clock() + seconds, {}
    for name, cost in costs.items():
        left = end - clock()
        if left < cost:
            note = f"it takes about {cost:.0f} s, and {max(0.0, left):.0f} s are left"
            tell(Row(name, verdict=NO_TIME, note=note, section=name))
            continue
        began, limit = clock(), min(left, PATIENCE * cost)
        for row in start(name, limit):
            if row.verdict == FAILED and clock() >= end:  # no fault of the section's
                row = replace(row, verdict=NO_TIME, note=f"it was stopped after {limit:.0f} s, when the time was up")
            tell(replace(row, section=name))
        taken[name] = clock() - began
    return taken


def run_in_child(name: str, limit: float, where: tuple, log: Path) -> Iterator[Row]:
    """Run ``section_NAME.rows(place)`` in a process of its own and yield each row when it is there.

    Args:
        name: of the section.
        limit: seconds after which it is killed with everything that it started.
        where: what its ``Place`` is made of.
        log: file that what it prints is added to.

    Yields:
        Its rows; last one that says FAILED, if it raised, died or took too long.
    """
    ours, theirs = CONTEXT.Pipe(duplex=False)
    child = CONTEXT.Process(target=_work, args=(name, where, log, theirs))
    child.start()
    theirs.close()
    end = time.monotonic() + limit
    problem, patience = f"took more than {limit:.0f} s", 0
    try:
        while ours.poll(max(0.0, end - time.monotonic())):
            kind, told = ours.recv()
            if kind == "row":
                yield told
                continue
            problem, patience = told, 5
            break
    except EOFError:
        child.join(5)
        problem = f"its process ended with status {child.exitcode}"
    finally:
        _end(child, patience)
        ours.close()
    if problem:
        yield Row(name, verdict=FAILED, note=problem)


def _end(child: Any, patience: float) -> None:
    """Let a child leave by itself for some seconds; then kill it, with what it started."""
    child.join(patience)
    try:
        os.killpg(child.pid, signal.SIGKILL)  # its group, which may outlive it
    except (ProcessLookupError, PermissionError, AttributeError):
        child.kill()
    child.join()


def _work(name: str, where: tuple, log: Path, told: Connection) -> None:
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)
    with log.open("ab", buffering=0) as file:
        file.write(f"\n===== {name} =====\n".encode())
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    try:
        place = importlib.import_module("place").Place(*where)  # not by the parent, which needs no torch
        for row in importlib.import_module(f"section_{name}").rows(place):
            told.send(("row", row))
        print(f"{sum(os.times()[:4]):.1f} s of CPU, with what it waited for", flush=True)
        told.send(("end", ""))
    except BaseException as error:
        traceback.print_exc()
        sys.stderr.flush()
        last = traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
        told.send(("end", last[:300]))
