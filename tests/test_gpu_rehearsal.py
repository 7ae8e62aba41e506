"""`make gpu` without a GPU: the rehearsal, and the rules of its table and its budget."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

HERE = Path(__file__).parent / "gpu"


@pytest.fixture(autouse=True)
def beside(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


@pytest.mark.long
def test_every_section_is_rehearsed_and_none_fails(tmp_path):
    command = [sys.executable, str(HERE / "accept.py"), "--rehearse", "--minutes", "15", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    told = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    log = (tmp_path / "log.txt").read_text(encoding="utf-8")
    import accept

    assert list(dict.fromkeys(row["section"] for row in told["rows"])) == list(accept.COSTS) == list(told["seconds"])
    assert done.returncode == 0, done.stdout + done.stderr + log
    assert {row["verdict"] for row in told["rows"]} == {"ok", "GPU only"}
    assert len((tmp_path / "table.md").read_text(encoding="utf-8").splitlines()) == len(told["rows"]) + 6
    assert all(f"===== {name} =====" in log for name in accept.COSTS)
    assert done.stdout.count("\n") >= len(told["rows"])


def test_every_section_has_a_file_and_the_budget_holds_them_all():
    import accept

    assert {path.stem.removeprefix("section_") for path in HERE.glob("section_*.py")} == set(accept.COSTS)
    assert sum(accept.COSTS.values()) <= 9 * 60 + 30  # the last may have no time
    page = (HERE / "README.md").read_text(encoding="utf-8")
    assert all(f"| {number} | {name} |" in page for number, name in enumerate(accept.COSTS))


@pytest.mark.parametrize(
    ("value", "limits", "verdict"),
    [
        (1.0, {"at_most": 1}, "ok"),
        (1.01, {"at_most": 1}, "MISSED"),
        (35.0, {"at_least": 35}, "ok"),
        (34.9, {"at_least": 35}, "MISSED"),
        (float("nan"), {"at_most": 1}, "MISSED"),
        (float("nan"), {}, "MISSED"),
        (5.0, {"at_most": 1.15, "of": "ratio", "ratio": 1.1}, "ok"),
        (5.0, {"at_most": 1.15, "of": "ratio", "ratio": 1.2}, "MISSED"),
    ],
)
def test_values_and_ratios_are_held_against_limits(value, limits, verdict):
    from verdicts import judge

    row = judge("what", value, "s", **limits)
    assert (row.verdict, row.bad) == (verdict, verdict == "MISSED")


def test_sections_without_time_are_skipped_and_said_to_be():
    from budget import run_sections
    from verdicts import Row

    now, rows = [0.0], []

    def start(name, limit):
        assert limit <= 100 - now[0]
        now[0] += {"long": 70, "short": 5}[name.split("_")[0]]
        yield Row(name)

    costs = {"long_1": 60, "long_2": 40, "short_3": 10}
    taken = run_sections(costs, 100, start, rows.append, clock=lambda: now[0])
    assert [(row.section, row.verdict) for row in rows] == [("long_1", "ok"), ("long_2", "no time"), ("short_3", "ok")]
    assert "about 40 s, and 30 s are left" in rows[1].note and not rows[1].bad
    assert taken == {"long_1": 70, "short_3": 5}


def test_a_section_that_the_budget_stops_has_not_failed():
    from budget import run_sections
    from verdicts import FAILED, Row

    now, rows = [0.0], []

    def start(name, limit):
        yield Row("first")
        now[0] += limit
        yield Row(name, verdict=FAILED, note="took more than that")

    run_sections({"quick": 10, "slow": 70}, 100, start, rows.append, clock=lambda: now[0])
    assert [(row.section, row.verdict) for row in rows] == [
        *(("quick", "ok"), ("quick", "FAILED")),  # two and a half times its estimate
        *(("slow", "ok"), ("slow", "no time")),
    ]


@pytest.mark.slow
@pytest.mark.heavy
def test_a_section_that_fails_dies_or_hangs_leaves_its_rows_and_says_why(tmp_path, monkeypatch):
    from budget import run_in_child

    sections = {
        "good": "yield judge('one', 2, at_most=1)\n    print('heard')",
        "raises": "yield Row('first')\n    raise ValueError('two\\nlines')",
        "dies": "yield Row('first')\n    import os\n    os._exit(3)",
        "hangs": "yield Row('first')\n    import time\n    time.sleep(600)",
    }
    for name, body in sections.items():
        text = f"from verdicts import Row, judge\n\n\ndef rows(place):\n    {body}\n"
        (tmp_path / f"section_{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(HERE.parents[1])]))
    log = tmp_path / "log.txt"

    def run(name, limit=300.0):
        return [(row.what, row.verdict, row.note) for row in run_in_child(name, limit, (True, tmp_path), log)]

    assert run("good") == [("one", "MISSED", "")]
    assert run("raises") == [("first", "ok", ""), ("raises", "FAILED", "lines")]
    assert run("dies") == [("first", "ok", ""), ("dies", "FAILED", "its process ended with status 3")]
    assert run("hangs", 4.0)[-1] == ("hangs", "FAILED", "took more than 4 s")
    told = log.read_text()
    assert "heard" in told and "ValueError: two" in told


def test_tables_are_written_row_by_row(tmp_path):
    import verdicts

    rows = [verdicts.judge("a | b", 1234.5, "images/s", beside="bare", ratio=1.2, at_most=1.15, of="ratio", note="why")]
    verdicts.save(tmp_path, rows, "title")
    line = "| a \\| b | 1234 images/s | bare | 1.2 | ratio <= 1.15 | MISSED | why |"
    assert line in (tmp_path / "table.md").read_text()
    (row,) = json.loads((tmp_path / "table.json").read_text())["rows"]
    assert (row["value"], row["verdict"]) == (1234.5, "MISSED")


def test_carried_wheels_are_installed_unless_they_are_there(tmp_path):
    import accept

    for name in ("Carried_Thing", "torch"):
        with zipfile.ZipFile(tmp_path / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name.lower()}.py", "FOUND = True\n")
            facts = f"{name}-1.0.dist-info"
            wheel.writestr(f"{facts}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{facts}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{facts}/RECORD", "")
    accept.install_wheels(tmp_path, tmp_path / "target")
    assert (tmp_path / "target" / "carried_thing.py").exists() and not (tmp_path / "target" / "torch.py").exists()
    with pytest.raises(SystemExit, match="no wheels there"):
        accept.install_wheels(tmp_path / "target", tmp_path)


@pytest.mark.slow
def test_products_are_counted_as_torch_counts_them(tmp_path):
    from flops import forward_flops
    from place import Place

    from clipreid_lib.clip import backbone

    for model, size in (("vitb16", None), ("vitb16", "256x128"), ("embedded", None)):
        clip = Place(True, tmp_path).load(model, size)
        clip.clip.visual.requires_grad_(True).train()  # torch's counter does not see the fast path of evaluation
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # nor a CPU's fused attention
            clip.image_features(torch.zeros(1, 3, *clip.image_size))
        assert forward_flops(clip) == pytest.approx(counter.get_total_flops(), rel=0.01), model
    big = backbone.load("vitb16", "random").to("meta")
    assert forward_flops(big) == pytest.approx(35.1e9, rel=0.01)  # 17.6 GMACs, as papers count it
