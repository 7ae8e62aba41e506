"""Reports: every number as it was measured, every name as text, nothing that leads to a person or a machine."""

import getpass
import html
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from clipreid_lib import __main__ as command_line
from clipreid_lib.base.errors import UserError
from clipreid_lib.pages import model_card, repeat_command, report, report_notebooks, report_origin
from clipreid_lib.pages.report_blocks import Facts, Section, Table, Words, render
from clipreid_lib.params import check, read, schema
from clipreid_lib.scores.finished_run import FinishedRun

EVIL = '<script>alert("1")</script>'
SECTIONS = (
    "Scores;Other ways to compare;Several photographs of a person;Is it the hand?;Thresholds;Data and protocol;"
    "Training;Pictures;Failures;Who it fails;"
    "Beside published numbers;Model card;Licences and citations;Provenance;Params;How to repeat it;Notebooks"
).split(";")


@pytest.fixture(scope="module")
def first(ladder, tmp_path_factory) -> Path:
    """The tiny ladder as it was made, and a report of everything."""
    place, done = ladder
    assert done.returncode == 0, done.stdout + done.stderr
    outputs = shutil.copytree(place / "as made", tmp_path_factory.mktemp("ladder") / "out")
    list(report.write([], str(outputs)))
    return outputs


@pytest.fixture
def outputs(first, tmp_path) -> Path:
    """A copy of the ladder's outputs, to damage; without images, weights and features, as it may be passed on."""
    ignored = shutil.ignore_patterns("demo_hands", "features", "saved_models")
    return shutil.copytree(first, tmp_path / "copied", ignore=ignored)


def run_of(outputs: Path, variant: str) -> Path:
    (folder,) = (outputs / "runs").glob(f"tiny-dorsal_r-{variant}-*")
    return folder


def page_of(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


def section(page: BeautifulSoup, title: str):
    return next(part for part in page.find_all("section") if part.h2.get_text() == title)


def rows(part, number: int = 0) -> list[list[str]]:
    table = part.find_all("table")[number]
    return [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in table.find_all("tr")]


def reported(*arguments: str) -> list[str]:
    return list(report.write(list(arguments)))


def pct(share: float) -> str:
    return f"{100 * share:.1f}"


def test_every_section_is_there_and_none_is_missing_anything(first):
    for variant in ("frozen", "clipid"):
        page = page_of(run_of(first, variant) / "report.html")
        assert [part.h2.get_text() for part in page.find_all("section")] == SECTIONS
        assert page.select(".missing") == []
    assert page_of(first / "reports" / "tiny.html").select(".missing") == []


def test_no_table_is_cut_off_at_the_edge_of_a_screen(first, look):
    for path in (run_of(first, "clipid") / "report.html", first / "reports" / "tiny.html"):
        tables = look(path).locator(".scroll").filter(visible=True)
        cut = "parts => parts.filter(part => part.scrollWidth > part.clientWidth).map(part => part.ariaLabel)"
        assert tables.count() > 3 and tables.evaluate_all(cut) == []


@pytest.mark.parametrize("variant", ["frozen", "clipid"])
def test_every_score_is_the_one_measured(first, variant):
    folder = run_of(first, variant)
    metrics = json.loads((folder / "metrics.json").read_text())
    page = page_of(folder / "report.html")
    head, *body = rows(section(page, "Scores"))
    shown = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in body}
    labels = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "map": "mAP", "minp": "mINP"}
    labels["map_trapezoid"] = "mAP (trapezoid)"
    assert head[1] == "own (the run's own)" and len(head) == 1 + len(metrics["protocols"])

    def with_ends(scores, key):
        found = scores[key]
        return (
            found
            if isinstance(found, str)
            else f"{pct(found)}\n[{pct(scores[f'{key}_low'])}, {pct(scores[f'{key}_high'])}]"
        )

    for name, scores in metrics["protocols"].items():
        column = head[1] if name == "own" else name
        for score, label in labels.items():
            assert shown[label][column] == with_ends(scores, score)
            assert shown[f"{label} per person"][column] == with_ends(scores, f"{score}_per_person")
            drawn = f"{pct(scores[f'{score}_draws'])} ± {pct(scores[f'{score}_draws_std'])}"
            assert shown[f"{label}, draws"][column] == drawn
        assert shown["EER"][column] == with_ends(scores, "eer")
        assert shown["mean over"][column] == "all galleries"
        assert shown["queries (draw 0)"][column] == str(scores["queries"])
        others = shown["of these, tested people's other aspects"][column]
        assert others == str(scores["own_other_aspects"]) and (others != "0") == (name == "mba")
        for level in ("0.01", "0.001", "0.0001"):
            assert shown[f"TPR at FPR {level}"][column] == with_ends(scores, f"tpr_at_fpr_{level}")
    for name, why in metrics["left_out"].items():
        assert f"{name}: left out" in page.get_text() and why in page.get_text()
    learned = json.loads((folder / "thresholds.json").read_text())
    part = section(page, "Thresholds")
    assert learned["people"] == "test" and "No threshold: too few searches" in part.get_text()
    for row, rate in zip(rows(part)[1:], learned["rates"], strict=True):  # four people support none
        assert row == [f"{100 * rate['fpir']:g}", rate["why"], "", str(rate["searches"])]
    assert learned["calibration"]["why"] in part.get_text()
    for number, scores in enumerate(metrics["protocols"].values()):
        for name, over, *values in rows(section(page, "Other ways to compare"), number)[1:]:
            row, keys = scores["rows"][name], ("rank1", "rank5", "rank10", "map", "map_trapezoid", "minp")
            assert values == [pct(row[key]) for key in (*keys, "rank1_per_person", "map_per_person")]
            assert over == row["over"] == ("2 draws" if name.endswith(("ranked", "expanded")) else "all galleries")
    lead = page.select(".lead")[1].get_text()
    assert f"Rank-1 is {pct(metrics['rank1'])} [{pct(metrics['rank1_low'])}, {pct(metrics['rank1_high'])}]" in lead
    assert f"has rank-1 {pct(metrics['pixels']['rank1'])} and" in lead
    drawn = (
        f"Over 2 draws, as papers print, rank-1 is {pct(metrics['rank1_draws'])} ± {pct(metrics['rank1_draws_std'])}"
    )
    assert drawn in lead


@pytest.mark.heavy
def test_error_rates_that_are_measurable_stand_with_their_intervals(outputs):
    folder = run_of(outputs, "frozen")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["protocols"]["own"] |= {"eer": 0.125, "eer_low": 0.0625, "eer_high": 0.25}
    metrics["protocols"]["mba"] |= {
        f"tpr_at_fpr_0.01{end}": rate for end, rate in (("", 0.5), ("_low", 0.4), ("_high", 0.6))
    }
    (folder / "metrics.json").write_text(json.dumps(metrics))
    list(report.write([], str(outputs)))
    shown = {row[0]: row[1:] for row in rows(section(page_of(folder / "report.html"), "Scores"))}
    assert shown["EER"][0] == "12.5\n[6.2, 25.0]" and shown["TPR at FPR 0.01"][1] == "50.0\n[40.0, 60.0]"
    head, frozen, *_ = rows(section(page_of(outputs / "reports" / "tiny.html"), "Leaderboard"))
    assert dict(zip(head, frozen, strict=True))["EER"] == "12.5\n[6.2, 25.0]"


def test_counts_and_failures_are_those_of_the_files(first):
    folder = run_of(first, "clipid")
    page = page_of(folder / "report.html")
    manifest = pd.read_csv(folder / "manifest.csv")
    for role, images, people in rows(section(page, "Data and protocol"))[1:]:
        mine = manifest[manifest["role"] == role]
        assert (int(images), int(people)) == (len(mine), mine["subject"].nunique())
    queries = pd.read_csv(folder / "per_query.csv").query("protocol == 'own'")
    missed, asked = ((1 - queries["rank1"]) * queries["weight"]).sum(), queries["weight"].sum()
    assert asked == pytest.approx(json.loads((folder / "metrics.json").read_text())["queries"])
    said = section(page, "Failures").get_text()
    assert f"In the mean over all galleries, {missed:,.1f} of {asked:,.0f} answers ({pct(missed / asked)} %)" in said
    people = queries.groupby("identity").apply(lambda mine: ((1 - mine["rank1"]) * mine["weight"]).sum())
    half = next(count for count in range(1, 9) if people.nlargest(count).sum() >= people.sum() / 2)
    assert f"half of what is wrong falls on {half}." in said
    assert f"{(people < 1e-9).sum()} of {len(people)} people are never missed" in said
    body = rows(section(page, "Failures"))[1:]
    for identity, images, wrong, rank1, ap in body:
        mine = queries[queries["identity"] == int(identity)]
        assert images == str(len(mine)) and wrong == f"{people[int(identity)]:.1f} of {mine['weight'].sum():.0f}"
        means = [np.average(mine[score], weights=mine["weight"]) for score in ("rank1", "map")]
        assert (rank1, ap) == tuple(map(pct, means))
    assert [float(row[4]) for row in body] == sorted(float(row[4]) for row in body)


def test_the_grid_compares_as_notebook_04_does(first):
    page = page_of(first / "reports" / "tiny.html")
    folders = {name: run_of(first, name) for name in ("frozen", "clipid")}
    metrics = {name: json.loads((folder / "metrics.json").read_text()) for name, folder in folders.items()}
    body = rows(section(page, "Leaderboard"))[1:]
    assert [row[0] for row in body] == ["frozen", "clipid"]
    for name, rank1, *_ in body:
        assert rank1.startswith(f"{pct(metrics[name]['rank1'])}\n[")
    head, told = rows(section(page, "The ladder's questions"))
    told = dict(zip(head, told, strict=True))
    assert told[""] == "clipid over frozen" and (told["people"], told["seeds"]) == ("4", "1")
    for score, label in (("rank1", "rank-1"), ("map", "mAP")):
        difference = 100 * (metrics["clipid"][score] - metrics["frozen"][score])
        assert float(told[label].split()[0]) == pytest.approx(difference, abs=0.051)
        _, luck, _ = told[label].split("\n")
        p, holm = luck.split(", ")
        assert p.removeprefix("p ") == holm.removeprefix("Holm ")  # of one row alone
    notebook = nbformat.read(folders["clipid"] / "notebooks" / "04_evaluation.ipynb", as_version=4)
    said = html.unescape(
        "".join(o.data.get("text/html", "") for c in notebook.cells for o in c.get("outputs", []) if "data" in o)
    )
    if "over frozen, seed 0" in said:  # the two ran at once; whichever came last saw the other
        lines = [told[label].split("\n") for label in ("rank-1", "mAP")]
        same = [cell for told_of, luck, _ in lines for cell in (told_of, luck.split(", ")[0].removeprefix("p "))]
        assert all(f"<td>{cell}</td>" in said for cell in same)


@pytest.mark.parametrize("variant", ["frozen", "clipid"])
def test_the_command_makes_the_very_run(first, variant):
    folder = run_of(first, variant)
    command = section(page_of(folder / "report.html"), "How to repeat it").find("pre").get_text()
    assert given(command) == [folder.name]
    assert repeat_command.list_runs(command) == [folder.name]


def given(command: str) -> list[str]:
    """The ids of the runs a command makes, read as the shell and the command line read it."""
    words = shlex.split(command.replace("\\\n", " "))
    assert words[:2] == ["clipreid", "run"]
    told = command_line.parser().parse_args(words[1:])
    files = [schema.ROOT / file for file in told.files]
    return sorted(each.run_id for each in read.expand(*read.compose(files, told.set)))


@pytest.mark.parametrize(
    "values",
    [
        {"experiment": "1e5", "encoder_lr": 1e-05, "image_size": "224"},
        {"experiment": "no", "dataset": "folder", "aspect": "a 007", "data_root": "hands; rm -rf 'x' \"$HOME\" [a, b]"},
        {"variant": "clipid", "mode": "prompt_learn", "epochs": 3, "lr": 0.001, "checkpointing": True},
        {"model": "vitb16", "pretrained": "laion2b: s34b", "triplet_margin": 0.0, "validation": "none"},
    ],
)
def test_the_command_survives_shell_and_yaml(values):
    mine = check.validate_params(values)
    assert given(repeat_command.repeat_run(mine)) == [mine.run_id]
    assert given(repeat_command.repeat_run(check.validate_params(mine.resolved().model_dump()))) == [mine.run_id]


def test_a_grid_is_one_command_if_it_is_one():
    pairs = [(seed, variant) for seed in (0, 1) for variant in ("classifier", "clipid")]
    runs = [check.validate_params({"seed": seed, "variant": variant, "experiment": "g"}) for seed, variant in pairs]
    assert given(repeat_command.repeat_grid(runs)) == sorted(run.run_id for run in runs)
    assert repeat_command.repeat_grid(runs[:3]) is None
    rungs = [(seed, variant) for seed in (0, 1) for variant in ("frozen", "clipid")]
    ladder = [check.validate_params({"seed": seed, "variant": variant}) for seed, variant in rungs]
    command = repeat_command.repeat_grid([ladder[0], ladder[1], ladder[3]])  # frozen runs once, whatever the seeds
    assert repeat_command.list_runs(command) == sorted(ladder[row].run_id for row in (0, 1, 3))
    assert repeat_command.repeat_grid(ladder) is None
    odd = [check.validate_params({"experiment": "g", "image_size": size}) for size in ("96", "96x48")]
    assert given(repeat_command.repeat_grid(odd)) == sorted(run.run_id for run in odd)


def test_places_outside_the_project_have_no_name():
    mine = check.validate_params(
        {"dataset": "folder", "aspect": "hand", "data_root": "/home/jane/hands", "experiment": "x"}
    )
    assert repeat_command.PLACES.keys() == schema.PATHS
    told = repeat_command.repeat_run(mine)
    assert "jane" not in told and "data_root=DATA" in told
    both = repeat_command.repeat_run(mine.model_copy(update={"outputs_root": "/home/jane/results"}))
    assert "data_root=DATA" in both and "outputs_root=OUTPUTS" in both  # two places have two names
    (_, said) = report_origin.show_command(both, [mine.run_id])
    assert said.text.startswith("DATA, OUTPUTS: a place outside the project")
    asked = mine.model_copy(update={"photograph": "/home/jane/hand.jpg", "gallery_root": "/home/jane/gallery"})
    told = repeat_command.repeat_run(asked)
    assert "jane" not in told and "photograph=PHOTOGRAPH" in told and "gallery_root=GALLERY" in told
    inside = check.validate_params({"data_root": str(schema.ROOT / "data" / "mine")})
    assert "data_root=data/mine" in repeat_command.repeat_run(inside)


def test_nothing_leads_to_a_person_or_a_machine(first):
    pages = [*first.glob("runs/*/report.html"), *first.glob("reports/*.html"), *first.glob("*/*/notebooks/*.html")]
    assert len(pages) == 10
    for path in pages:
        text = re.sub(r'src="data:[^"]*"', "", path.read_text(encoding="utf-8"))
        secrets = {str(first), str(first.parent), str(Path.home()), str(schema.ROOT), platform.node()}
        for secret in secrets | {first.parent.name, os.path.relpath(first, schema.ROOT)}:
            assert secret not in text, secret
        visible = page_of(path).get_text(" ")
        user = re.escape(getpass.getuser())  # "root" is also a word for a folder
        assert not re.search(rf"/{user}\b" if user == "root" else rf"\b{user}\b", visible)
        assert not re.search(r"(?<![\w.])/(home|tmp|root|work|Users)/", visible)
        for link in re.findall(r'href="([^"]*)"', text):
            assert link.startswith("#") or (path.parent / link.replace("%20", " ")).exists(), link


def test_hostile_names_stay_text(outputs, look):
    folder = run_of(outputs, "clipid")
    groups = pd.read_csv(folder / "subgroups.csv")
    groups.loc[0, "group"] = EVIL
    groups.loc[1, "attribute"] = "naïve & <b>bold</b> 手"
    groups.to_csv(folder / "subgroups.csv", index=False)
    queries = pd.read_csv(folder / "per_query.csv")
    hard = queries[queries["protocol"] == "own"].groupby("path")["map"].mean().idxmin()
    wicked = 'Hands/"><img src=x onerror="alert(1)">\'.jpg'
    queries.replace({"path": {hard: wicked}}).to_csv(folder / "per_query.csv", index=False)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["left_out"][EVIL] = f"{EVIL} {folder}/x"
    metrics["git"] = EVIL
    (folder / "metrics.json").write_text(json.dumps(metrics))
    reported(str(folder))
    page = page_of(folder / "report.html")
    assert page.find_all("script") == [] and page.find_all(onerror=True) == [] and page.find_all("b") == []
    assert EVIL in section(page, "Who it fails").get_text() and "naïve & <b>bold</b> 手" in page.get_text()
    assert wicked in section(page, "Failures").get_text()
    assert str(outputs) not in page.get_text()
    shown = look(folder / "report.html")
    assert shown.evaluate("document.scripts.length") == 0


@pytest.mark.heavy
def test_pages_open_without_a_network_and_fit_a_phone(first, look):
    pages = [run_of(first, "clipid") / "report.html", first / "reports" / "tiny.html"]
    pages += sorted(run_of(first, "clipid").glob("notebooks/*.html"))
    assert len(pages) == 6
    for path in pages:
        text = path.read_text(encoding="utf-8")
        assert "Content-Security-Policy" in text and not re.search(r"<script|<link|<iframe", text, re.I)
        assert not re.search(r"""\bsrc\s*=\s*["']?(?!data:)["'\w]*(https?:)?//""", text)
        for width in (1200, 360):
            page = look(path, width=width)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path.name, width)
            assert page.evaluate("[...document.images].every(i => i.complete && i.naturalWidth > 0)")
        assert path.stat().st_size < 3_000_000


def test_dark_is_dark_and_the_gallery_is_one_click_away(first, look):
    page = look(run_of(first, "clipid") / "report.html", color_scheme="dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    page.click("text=Every query's ranked gallery")
    page.wait_for_url("**/gallery.html")


@pytest.mark.heavy
def test_twice_gives_the_same_bytes_from_a_copy_without_data(first, outputs):
    before = {path: path.read_bytes() for path in outputs.rglob("*.html")}
    told = list(report.write([], str(outputs)))
    assert len(told) == 3 and all(line.startswith("file://") for line in told)
    assert {path: path.read_bytes() for path in outputs.rglob("*.html")} == before
    assert not list(outputs.rglob(".*.html"))


@pytest.mark.heavy
def test_damage_is_told_in_a_sentence(outputs):
    folder = run_of(outputs, "clipid")
    text = (folder / "per_query.csv").read_text()
    (folder / "per_query.csv").write_text(text[: len(text) // 9])
    (folder / "figures" / "cmc.png").unlink()
    (folder / "figures" / "hardest.png").write_bytes((folder / "figures" / "hardest.png").read_bytes()[:3000])
    (folder / "train_logs" / "encoder.csv").write_text("")
    (folder / "train_logs" / "prompts.csv").write_text("epoch;nothing\n1;2\n")
    (folder / "manifest.csv").write_text("role\n")
    (folder / "notebooks" / "04_evaluation.ipynb").write_text("{")
    (folder / "notebooks" / "04_evaluation.html").unlink()
    for name in ("subgroups.csv", "provenance.json", "gallery.html", "thresholds.json"):
        (folder / name).unlink()
    list(report.write([], str(outputs)))
    page = page_of(folder / "report.html")
    assert [part.h2.get_text() for part in page.find_all("section")] == SECTIONS
    said = {title: " ".join(p.get_text() for p in section(page, title).select(".missing")) for title in SECTIONS}
    assert "per_query.csv" in said["Failures"] and "subgroups.csv is not there" in said["Model card"]
    assert "cmc.png" in said["Pictures"] and "hardest.png is no picture" in said["Pictures"]
    assert "prompts.csv" in said["Training"] and "thresholds.json is not there" in said["Thresholds"]
    assert "manifest" in said["Data and protocol"] and "subgroups.csv is not there" in said["Who it fails"]
    assert "04_evaluation.ipynb cannot be read" in said["Notebooks"]
    assert "Traceback" not in page.get_text() and str(outputs) not in page.get_text()
    (told,) = section(page_of(outputs / "reports" / "tiny.html"), "The ladder's questions").select(".missing")
    assert folder.name in told.get_text() and "per_query.csv" in told.get_text()


def test_a_fault_of_ours_is_no_damaged_file(outputs, monkeypatch):
    def broken(run):
        return {}["of the library, and of no file"]

    monkeypatch.setitem(report.SECTIONS, "Scores", broken)
    with pytest.raises(KeyError, match="of the library, and of no file"):
        reported(str(run_of(outputs, "frozen")))


def test_answers_of_other_scores_are_not_shown(outputs):
    folder = run_of(outputs, "clipid")
    shutil.copy(run_of(outputs, "frozen") / "per_query.csv", folder / "per_query.csv")
    reported(str(folder))
    assert "other answers than metrics.json" in section(page_of(folder / "report.html"), "Failures").get_text()


def test_older_means_of_draws_are_refused_in_one_line(outputs, capsys):
    folder = run_of(outputs, "frozen")
    metrics = json.loads((folder / "metrics.json").read_text())
    for scores in metrics["protocols"].values():
        del scores["over"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    told = "its scores are means of draws, of an older version; `clipreid run` with its params does notebook 04 again"
    assert command_line.main(["report", str(folder)]) == 2
    assert capsys.readouterr().err == f"clipreid: {folder}: {told}\n"
    lines = list(report.write([], str(outputs)))
    assert len(lines) == 2 and lines[0] == f"left out: {folder}: {told}"


@pytest.mark.heavy
def test_metrics_of_an_older_version_lose_what_they_lack(outputs):
    folder = run_of(outputs, "frozen")
    metrics = json.loads((folder / "metrics.json").read_text())
    kept = ("rank1", "map", "rank5", "queries", "gallery", "compared_sha", "protocol", "over")
    older = {"protocols": {"own": {key: metrics[key] for key in kept}}, **{key: metrics[key] for key in kept}}
    (folder / "metrics.json").write_text(json.dumps(older))
    list(report.write([], str(outputs)))
    page = page_of(folder / "report.html")
    head, *body = rows(section(page, "Scores"))
    assert (
        head[1:] == ["own (the run's own)"]
        and ["rank-1", pct(metrics["rank1"])] in body
        and not [row for row in body if row[0] == "EER"]
    )
    assert "not recorded" in section(page, "Provenance").get_text()
    averages = dict(
        zip(*rows(section(page_of(outputs / "reports" / "tiny.html"), "Averages over seeds"))[:2], strict=True)
    )
    assert averages["rank-1"] == pct(metrics["rank1"])


def test_runs_without_scores(outputs, capsys):
    folder = run_of(outputs, "frozen")
    (folder / "metrics.json").write_text("{")
    with pytest.raises(UserError, match=rf"{folder.name}: has no scores.*damaged"):
        reported(str(folder))
    (folder / "metrics.json").unlink()
    assert command_line.main(["report", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and folder.name in said and "run notebook 04" in said
    told = list(report.write([], str(outputs)))
    assert len(told) == 2 and told[0].startswith("left out: ") and folder.name in told[0]
    assert told[1].endswith(f"{run_of(outputs, 'clipid').name}/report.html")


def test_nothing_there_and_no_run(tmp_path):
    with pytest.raises(UserError, match=r"runs: no evaluated run to report"):
        list(report.write([], str(tmp_path)))
    with pytest.raises(UserError, match="is no run's folder"):
        reported(str(tmp_path))


@pytest.mark.heavy
def test_named_runs_report_once_and_several_experiments_share_a_page_that_is_found_again(outputs):
    folder = run_of(outputs, "frozen")
    text = (folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace("experiment: tiny", "experiment: other"))
    named = [str(folder), str(run_of(outputs, "clipid"))]
    told = reported(*named, named[0] + "/")
    assert len(told) == 3 and told[-1].startswith((outputs / "reports").as_uri())
    assert re.search(r"/reports/grid-2-[0-9a-f]{8}\.html$", told[-1])
    assert list(report.write([], str(outputs)))[-1] == told[-1]


@pytest.mark.heavy
def test_a_page_of_named_runs_leaves_the_experiments_page_of_all_as_it_is(outputs):
    whole = outputs / "reports" / "tiny.html"
    before = whole.read_text(encoding="utf-8")
    again = [reported(*(str(run_of(outputs, each)) for each in pair)) for pair in (("frozen", "clipid"),) * 2]
    assert again[0] == again[1] and re.search(r"/reports/tiny-2-[0-9a-f]{8}\.html$", again[0][-1])
    (chosen,) = (outputs / "reports").glob("tiny-2-*.html")
    assert page_of(chosen).h1.get_text() == chosen.stem and whole.read_text(encoding="utf-8") == before


@pytest.mark.heavy
def test_across_stands_on_the_grid_where_it_was_measured(outputs):
    row = {"dataset": "demo", "aspect": "dorsal_r", "model": "embedded", "variant": "clipid", "stage": "x", "seed": 0}
    row |= {"tested_dataset": "demo", "tested_aspect": "palmar_r", "rank1": 0.125, "left_out": ""}
    row |= {"rank1_low": 0.1, "rank1_high": 0.2, "map": 0.25, "map_low": 0.2, "map_high": 0.3}
    row |= {"rank1_per_person": 0.15, "map_per_person": 0.3, "rank1_draws": 0.13, "rank1_draws_std": 0.02}
    row |= {"over": "all galleries"}
    leak = {key: row[key] for key in list(row)[:8]} | {"left_out": f"3 people {EVIL}"}
    pd.DataFrame([row, leak]).to_csv(outputs / "across.csv", index=False)
    list(report.write([], str(outputs)))
    body = rows(section(page_of(outputs / "reports" / "tiny.html"), "Across aspects and data sets"))[1:]
    found = ["12.5\n[10.0, 20.0]", "15.0", "25.0\n[20.0, 30.0]", "30.0", "13.0 ± 2.0", "all galleries", ""]
    assert body[0][1:] == ["demo palmar_r", *found]
    assert body[1][2:] == [*[""] * 6, f"3 people {EVIL}"]
    # what an older version measured are means of draws: not shown as anything else
    pd.DataFrame([row, leak]).drop(columns="over").to_csv(outputs / "across.csv", index=False)
    list(report.write([], str(outputs)))
    told = section(page_of(outputs / "reports" / "tiny.html"), "Across aspects and data sets").get_text()
    assert "across.csv cannot be read (it has no column over)" in told


def test_a_run_of_several_aspects_says_in_its_first_sentences_why_its_rank_1_is_low(outputs):
    run = FinishedRun.open(run_of(outputs, "frozen"))
    why = "A query may show one aspect and the right image of the gallery another"
    joined = replace(run, metrics=run.metrics | {"across_aspects": [{"asks": "dorsal_r", "shown": "palmar_r"}]})
    assert why in report._sum_up(joined)[0] and why not in " ".join(report._sum_up(run))


def test_published_numbers_stand_beside_ours(outputs):
    folder = run_of(outputs, "frozen")
    metrics = json.loads((folder / "metrics.json").read_text())
    same = {"dataset": "11k", "queries": 971, "gallery": 290, "protocol": "mba"}
    metrics["dataset"] = "11k"
    metrics["protocols"]["mba"] |= same
    (folder / "metrics.json").write_text(json.dumps(metrics))
    reported(str(folder))
    part = section(page_of(folder / "report.html"), "Beside published numbers")
    assert "11k dorsal_r under mba" in part.get_text()
    methods = [row[0] for row in rows(part)[1:]]
    assert "ours: embedded frozen" in methods and any("MBA" in name for name in methods)


@pytest.mark.parametrize(
    ("values", "says", "says_not"),
    [
        ({"variant": "frozen"}, "Nothing was trained in this run", "triplet"),
        ({"variant": "clipid"}, "4 learned tokens (40 epochs) of each person's own", "control"),
        ({"variant": "clipid_no_text"}, "without any text (the control)", "anchors"),
        ({"variant": "clipid", "mode": "prompt_learn"}, "is as it was pretrained", "triplet loss"),
        (
            {"variant": "classifier", "model": "vitb16", "dataset": "11k"},
            "OpenAI's CLIP weights",
            "drawings",
        ),
        ({"variant": "clipid", "prompt_form": "fixed"}, "attributes alone, nothing learned", "learned tokens"),
        ({"variant": "tip_adapter"}, "votes of the training images", "peak rate"),
        ({"variant": "classifier", "train": "lora-4"}, "only a part learned (train: lora-4)", "triplet"),
        ({"variant": "inversion", "pretrained": "random"}, "random numbers", "embedded CLIP of this"),
        ({"variant": "promptsg"}, "a word of each image", "the control"),
        ({"variant": "promptsg", "prompt_form": "fixed"}, "same for all images (the control)", "a word of each"),
        ({"dataset": "folder", "aspect": "hand"}, "theirs to make sure", "drawings of nobody"),
        ({"dataset": "market1501", "aspect": "body"}, "whole bodies", "forensic work"),
        ({"dataset": "11k", "protocol": "mba"}, "recognition within a session", "drawings of nobody"),
    ],
)
def test_model_cards_differ_by_what_is_true(values, says, says_not):
    mine = check.validate_params(values).resolved()
    metrics = {"identities": 20, "queries": 9, "gallery": 20, "draws": 10, "protocols": {mine.protocol: {}}}
    card = model_card.fill_card(mine, metrics, {"train": (444, 50), "test": (9, 20)}, (3, 2))
    text = " ".join(card.values())
    assert len(card) == 8 and says in text and says_not not in text
    assert "20 test people are few" in text and "3 groups have a rate, 2 are too small" in text


def test_licences_of_weights():
    def licence(**values):
        return model_card.describe_weights(check.validate_params(values))[1]

    assert licence().startswith("MIT, like this project's code")
    assert "surveillance and facial recognition out of scope" in licence(model="vitb16")
    assert "hub page" in licence(model="ViT-B-16", pretrained="laion2b_s34b_b88k")
    assert "its owner has to state" in licence(model="vitb16", pretrained="mine/weights.pt")


def test_an_exported_notebook_runs_nothing_and_is_not_made_again(tmp_path, look):
    cells = [
        nbformat.v4.new_markdown_cell(
            '# Title\n<script src="https://cdn.example/x.js"></script>\n![x](https://x.example/y.png)'
        ),
        nbformat.v4.new_code_cell("secret = 1"),
    ]
    bundle = {"text/html": f'<iframe src="https://x.example"></iframe>{EVIL}<table><tr><td>kept</td></tr></table>'}
    cells[1].outputs = [
        nbformat.v4.new_output("display_data", data=bundle),
        nbformat.v4.new_output("display_data", data={"application/javascript": "alert(2)", "text/plain": "<js>"}),
    ]
    path = tmp_path / "evil.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    page = report_notebooks.export(path)
    text = page.read_text()
    assert "kept" in text and "Title" in text and "secret" not in text and "alert" not in text
    assert "https://" not in text and "<script" not in text
    look(page)
    written = page.stat().st_mtime_ns
    assert report_notebooks.export(path) == page and page.stat().st_mtime_ns == written
    os.utime(path, ns=(written + 10**9, written + 10**9))
    report_notebooks.export(path)
    assert page.stat().st_mtime_ns != written


def test_every_kind_of_text_is_escaped():
    table = Table([EVIL], [[EVIL, EVIL]], EVIL)
    text = render(EVIL, [EVIL], [Section(EVIL, [Words(EVIL), table, Facts({EVIL: EVIL})])])
    assert "<script" not in text and text.count("&lt;script&gt;") >= 8


def test_places_are_cut_out_however_they_are_spelt(tmp_path):
    folder = tmp_path / "a & b ü"
    away = os.path.relpath(folder, schema.ROOT)
    picture = f'<img src="data:image/png;base64,AA{schema.ROOT}/AA">'
    body = f"<p>{schema.ROOT}/outputs, {html.escape(str(folder))}/x {(folder / 'y').as_uri()} {away}</p>{picture}"
    text = render("x", [f"in {folder}/z; {Path.home()}"], [], [folder], body)
    assert text.count(str(schema.ROOT)) == 1 and picture in text  # in a picture they are chance
    assert "<p>outputs, x y </p>" in text
    assert render("x", [f"in {folder}/z; {Path.home()}"], [], [folder]).count('<p class="lead">in z; </p>') == 1


def test_neither_help_nor_a_page_loads_torch():
    code = "import sys, clipreid_lib.__main__ as m\ntry: m.main(['report', '--help'])\nexcept SystemExit: pass\n"
    code += "heavy = 'jinja2' in sys.modules\nimport clipreid_lib.pages.report\n"
    code += "sys.exit(heavy or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0
