import csv
import platform
import re
from pathlib import Path

import pytest

from clipreid_lib.params.schema import NOTEBOOKS

HERE = Path(__file__).parent / "benchmarks"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


def make(pairs, aim, about="faster", **more):
    from rows import Row

    return Row("what", "plain", "quick", pairs, aim, about, **more)


@pytest.mark.parametrize(
    ("about", "aim", "ratio", "met"),
    [
        ("faster", 4.0, 4.0, True),
        ("faster", 4.1, 4.0, False),
        ("times", 0.25, 0.25, True),
        ("times", 0.24, 0.25, False),
        ("itself", 2.0, 0.25, True),
        ("itself", 1.9, 0.25, False),
        ("on top", -6.0, 0.25, True),
        ("on top", -6.1, 0.25, False),
    ],
)
def test_the_median_round_is_held_against_the_aim(about, aim, ratio, met):
    row = make([(8.0, 2.0), (80.0, 1.0), (8.0, 2.0)], aim, about)
    assert (row.ratio, row.met) == (ratio, met)


def test_two_things_take_turns_in_going_first():
    from rows import in_turn

    order = []
    pairs, answers = in_turn(lambda n: order.append(f"plain {n}") or 1, lambda n: order.append(f"ours {n}") or 2, 2)
    assert order == ["plain 0", "ours 0", "ours 1", "plain 1"]
    assert answers == (1, 2) and len(pairs) == 2 and min(min(pair) for pair in pairs) >= 0


def test_the_table_says_why_an_aim_is_missed_and_names_no_machine(tmp_path):
    import table

    rows = [make([(8.0, 2.0)], 3, note="equal"), make([(8.0, 2.0)], 5, reason="the disk is slow")]
    text, sheet = table.keep(tmp_path, "bench", rows, table.machine_in_words())
    told = text.read_text()
    assert "4.00  one round    >= 3            met" in told and "MISSED  what: the disk is slow" in told
    with open(sheet, newline="") as file:
        lines = list(csv.DictReader(file))
    assert [(each["verdict"], each["reason"]) for each in lines] == [("met", ""), ("missed", "the disk is slow")]
    assert re.search(r"\d cores?, \w+ on \w+, Python 3", told) and platform.node() not in told + sheet.read_text()


def test_every_benchmark_is_in_the_table_and_has_an_aim():
    import bench

    files = {path.stem.removeprefix("bench_"): path for path in HERE.glob("bench_*.py")}
    assert files.keys() == set(bench.NAMES)
    for path in files.values():
        code = path.read_text(encoding="utf-8")
        assert re.search(r"^AIM", code, re.M) and re.search(r"^def rows\(\) -> list\[Row\]:", code, re.M), path


def test_the_imports_of_every_notebook_are_whole_statements():
    import bench_start_up

    for notebook in NOTEBOOKS:
        compile(bench_start_up.imports(notebook), notebook, "exec")
    assert "thresholds" in bench_start_up.imports("04_evaluation")  # the last name of an import over several lines
