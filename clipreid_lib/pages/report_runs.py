"""The report of several runs: one leaderboard, what they share and differ in, and one against another."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages import repeat_command, report_origin, score_figures
from clipreid_lib.pages import report_blocks as page
from clipreid_lib.pages.report_scores import show_published
from clipreid_lib.params.schema import Params
from clipreid_lib.scores import comparison, leaderboard
from clipreid_lib.scores.finished_run import FinishedRun, read_table
from clipreid_lib.scores.score_names import SHOWN, format_score, name_method

LADDER = ("frozen", "tip_adapter", "classifier", "clipid_no_text", "clipid", "inversion")
PAIRS = 28  # comparisons of one test that are all made; of more runs, each is compared with the lowest rung alone
CURVES = 8  # in one CMC figure, so that colours stay apart
ACROSS: dict[str, type] = dict.fromkeys(
    "dataset aspect model variant stage seed tested_dataset tested_aspect left_out".split(), str
)
ACROSS |= {f"{score}{end}": float for score in ("rank1", "map") for end in ("", "_std", "_low", "_high")}
Runs = list[FinishedRun]


def name_page(runs: Runs) -> str:
    """Return the page's name: the runs' experiment, or a hash of their ids where they are of several."""
    experiments = {run.params.experiment for run in runs}
    if len(experiments) == 1 and (experiment := experiments.pop()):
        return experiment
    digest = hashlib.sha256("\n".join(sorted(run.name for run in runs)).encode()).hexdigest()[:8]
    return f"grid-{len(runs)}-{digest}"


def lay_out(runs: Runs, folder: Path, outputs: Path) -> str:
    """Return the report of several runs as HTML that will lie in ``folder``; ``outputs`` may hold ``across.csv``."""
    runs = sorted(runs, key=lambda run: (LADDER.index(run.params.variant), run.name))
    sections = [
        page.make_section("Leaderboard", _show_leaderboard, runs, folder),
        page.make_section("Averages over seeds", _show_averages, runs),
        page.make_section("Rank-1 and mAP, drawn", _show_figures, runs),
        page.make_section("One against another", _show_pairs, runs),
        page.make_section("What they share and differ in", _show_params, runs),
        page.make_section("Beside published numbers", show_published, *runs),
        page.make_section("Across aspects and data sets", _show_across, outputs),
        page.make_section("Provenance", _show_provenance, runs),
        page.make_section("How to repeat it", _show_repeat, runs),
    ]
    return page.render(name_page(runs), _sum_up(runs), sections, [outputs, *(run.folder for run in runs)])


def _sum_up(runs: Runs) -> list[str]:
    variants = dict.fromkeys(run.params.variant for run in runs)
    tests = dict.fromkeys(f"{run.params.dataset} {run.params.aspect} ({run.params.protocol})" for run in runs)
    first = f"{len(runs)} runs of {', '.join(variants)}, tested on {', '.join(tests)}."
    if len(_group_tests(runs)) > 1:
        return [first, "They were not all asked the same questions, so only rows of one table below may be compared."]
    best = max(runs, key=lambda run: run.own["rank1"])
    return [
        first,
        f"All were asked the same questions. The highest rank-1 is {format_score(best.own, 'rank1')} per cent "
        f"({_name_runs(runs)[best.name]}); whether that is more than chance, the paired comparisons below say better "
        "than the table.",
    ]


def _name_runs(runs: Runs) -> dict[str, str]:
    """Name runs by variant and stage, and by seed, aspect and id where several would share that name; by folder."""
    keys = ("dataset", "aspect", "protocol", "model", "seed")
    varying = [key for key in keys if len({getattr(run.params, key) for run in runs}) > 1]

    def name(params: Params) -> str:
        parts = [params.variant] + ([params.mode] if params.mode != "full" else [])
        return ", ".join([*parts, *(f"{'seed ' * (key == 'seed')}{getattr(params, key)}" for key in varying)])

    names = {run.name: name(run.params) for run in runs}
    shared = [mine for mine, count in Counter(names.values()).items() if count > 1]
    return {run: f"{mine}, {run[-8:]}" if mine in shared else mine for run, mine in names.items()}


def _group_tests(runs: Runs) -> dict[str, Runs]:
    """Group runs by the questions they were asked under their own protocol."""
    found: dict[str, Runs] = {}
    for run in runs:
        found.setdefault(run.own["compared_sha"], []).append(run)
    return found


def _read_queries(group: Runs, names: dict[str, str]) -> tuple[dict[str, FinishedRun], list]:
    """Return those runs whose answers can be read, by name, and a block for each of the others."""
    whole, lost = {}, []
    for run in group:
        try:
            run.queries  # noqa: B018  read, and then kept
            whole[names[run.name]] = run
        except UserError as error:
            lost.append(page.Words(f"{run.name}: {error}.", missing=True))
    return whole, lost


def _show_leaderboard(runs: Runs, folder: Path) -> list:
    names = _name_runs(runs)
    tests: dict[tuple, list] = {}
    for run in runs:
        for protocol, scores in run.protocols.items():
            test = run.params.dataset, run.params.aspect, protocol, scores.get("compared_sha")
            tests.setdefault(test, []).append((run, scores))
    blocks: list = [page.Words(page.TEXTS["leaderboard"])]
    columns = {score: SHOWN.get(score, "EER") for score in ("rank1", "rank5", "map", "map_trapezoid", "minp", "eer")}
    for (dataset, aspect, protocol, _), found in tests.items():
        rows = []
        for run, scores in found:
            values = [format_score(scores, score).replace(" [", "\n[") for score in columns]
            counts = [str(scores.get(name, "–")) for name in ("queries", "gallery")]
            report, gallery = _link(run, "report.html", folder, names[run.name]), _link(run, "gallery.html", folder)
            rows.append([report or names[run.name], *values, *counts, gallery or "–"])
        own = ", their own" if any(run.params.protocol == protocol for run, _ in found) else ""
        head = ["run", *columns.values(), "queries", "gallery", "rankings"]
        blocks.append(page.Table(head, rows, f"{dataset} {aspect}, protocol {protocol}{own}"))
    return blocks


def _link(run: FinishedRun, file: str, folder: Path, text: str = "every query") -> page.Link | None:
    """Link to a file of a run; None where it is not there, or elsewhere: its path would name the machine."""
    target = run.folder / file
    return page.link_to(target, folder, text) if target.is_relative_to(folder.parent) and target.is_file() else None


def _show_averages(runs: Runs) -> list:
    table, note = leaderboard.summarise(runs)
    for key in set(table.index.names) & set(repeat_command.PLACES):
        table = table.rename(index=lambda value, key=key: repeat_command.hide_place(key, value), level=key)
    return [page.Table.of(table.rename_axis(index={None: "variant"})), page.Words(note)]


def _show_figures(runs: Runs) -> list:
    names = _name_runs(runs)
    table = pd.DataFrame([run.own for run in runs], index=list(names.values()))
    figures, blocks = [], []
    for score, label in (("rank1", "Rank-1"), ("map", "mAP")):
        caption = f"{label} of each run under its own protocol, with 95 % intervals over people."
        figures.append(page.draw(score_figures.draw_intervals, caption, table, score, label))
    for group in _group_tests(runs).values():
        whole, lost = _read_queries(group, names)
        blocks += lost
        if len(whole) > CURVES:
            blocks.append(page.Words(f"{len(whole)} runs of one test: the CMC shows the first {CURVES}."))
        if whole:
            first = group[0].params
            caption = f"CMC on {first.dataset} {first.aspect} ({first.protocol}); the band is one deviation over draws."
            curves = {name: run.cmc for name, run in list(whole.items())[:CURVES]}
            figures.append(page.draw(score_figures.draw_cmc, caption, curves))
    return [page.Figures(figures), *blocks]


def _show_pairs(runs: Runs) -> list:
    blocks: list = [page.Words(page.TEXTS["pairs"])]
    for group in _group_tests(runs).values():
        whole, _ = _read_queries(group, _name_runs(runs))
        names = list(whole)
        if len(names) < 2:
            continue
        every = len(names) * (len(names) - 1) // 2 <= PAIRS
        tables = []
        for place, mine in enumerate(names[1:], start=1):
            others = {name: whole[name].queries for name in (names[:place] if every else names[:1])}
            found = comparison.compare(whole[mine].queries, others)
            tables.append(found.rename(index=lambda over, mine=mine: f"{mine} {over}"))
        alone = "" if every else f"; so many runs that each is compared with {names[0]} alone"
        first = group[0].params
        caption = f"{first.dataset} {first.aspect}, protocol {first.protocol}{alone}"
        blocks.append(page.Table.of(pd.concat(tables), caption))
    return blocks if len(blocks) > 1 else [page.Words("No two of them answered the same questions.")]


def _compare(runs: Runs, facts: list[dict], caption: str, write: Callable = lambda _, fact: fact) -> tuple[dict, list]:
    """Return the facts that all runs share, and a table of the others, if there are any, both written."""
    varying = [key for key in facts[0] if len({repr(each[key]) for each in facts}) > 1]
    written = [{key: write(key, fact) for key, fact in each.items()} for each in facts]
    rows = [[run.name, *(each[key] for key in varying)] for run, each in zip(runs, written, strict=True)]
    shared = {key: fact for key, fact in written[0].items() if key not in varying}
    return shared, [page.Table(["run", *varying], rows, caption)] if varying else []


def _show_params(runs: Runs) -> list:
    settings = [dict(run.params) for run in runs]
    same, blocks = _compare(runs, settings, "The keys they differ in.", report_origin.write_param)
    blocks = blocks or [page.Words("Their params are the same.")]
    changed = dict.fromkeys(key for run in runs for key in run.params.changed() if key in same)
    if changed:
        facts = page.Facts({key: same[key] for key in changed})
        blocks += [page.Words("Shared, and changed from the defaults:"), facts]
    return [*blocks, page.Folded(f"All {len(same)} keys that they share", [page.Facts(same)])]


def _show_across(outputs: Path) -> list:
    path = outputs / "across.csv"
    if not path.is_file():
        return [page.Words("Not measured; clipreid across does it for runs of protocol common.")]
    table = read_table(path, ACROSS).replace({np.nan: None})
    rows = []
    for row in table.to_dict("records"):
        how = name_method(row["variant"], row["stage"])
        trained = f"{row['dataset']} {row['aspect']}, {row['model']} {how}, seed {row['seed']}"
        why = row["left_out"] or ""
        values = ["" if why else format_score(row, score).replace(" [", "\n[") for score in ("rank1", "map")]
        rows.append([trained, f"{row['tested_dataset']} {row['tested_aspect']}", *values, why])
    blocks: list = [page.Table(["trained on", "tested on", "rank-1", "mAP", "left out"], rows, page.TEXTS["across"])]
    figures = [
        page.embed(outputs / f"across_{score}.png", f"{SHOWN[score]}, per cent: rows trained on, columns tested on.")
        for score in ("rank1", "map")
        if (outputs / f"across_{score}.png").is_file()
    ]
    return blocks + ([page.Figures(figures)] if figures else [])


def _show_provenance(runs: Runs) -> list:
    keys = ("code", "Python", "machine", "training", "started", "manifest", "checkpoint", "libraries")
    every = [report_origin.list_provenance(run) for run in runs]
    same, differing = _compare(runs, [{key: each[key] for key in keys} for each in every], "Where they differ.")
    versions = len({each["code"] for each in every})
    said = "All were made by one version of the code." if versions == 1 else f"Made by {versions} versions of the code."
    return [page.Words(said), page.Facts(same), *differing]


def _show_repeat(runs: Runs) -> list:
    command = repeat_command.repeat_grid([run.params for run in runs])
    if command:
        names = [run.name for run in runs]
        return [page.Words("In the project's top folder:"), *report_origin.show_command(command, names)]
    blocks: list = [page.Words("They are no full grid of any keys, so one command each, in the project's top folder:")]
    for run in runs:
        blocks += report_origin.show_command(repeat_command.repeat_run(run.params), [run.name])
    return blocks
