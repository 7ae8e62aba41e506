"""Thresholds: read what notebook 04 learned."""

from pathlib import Path

from clipreid_lib.base.files import read_json

FILE = "thresholds.json"  # in the run's folder


def read_thresholds(folder: Path) -> dict | None:
    """Read what notebook 04 kept in a run's folder; None where it is not there or damaged."""
    return read_json(folder / FILE)
