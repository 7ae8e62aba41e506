"""The report of several runs: one leaderboard, what they share and differ in, and one against another."""

import hashlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from clipreid_lib.pages import repeat_command, report_origin, score_figures
from clipreid_lib.pages import report_blocks as page
from clipreid_lib.pages.report_scores import show_published
from clipreid_lib.params.run_params import Params
from clipreid_lib.scores import leaderboard
from clipreid_lib.scores.comparison import COMPARED
from clipreid_lib.scores.finished_run import FinishedRun, number_photographs, read_answers, read_table
from clipreid_lib.scores.ladder import LADDER, Runs, ask, group_tests
from clipreid_lib.scores.score_names import ENDS, IN_DRAWS, SHOWN, VOTES, format_score, name_method, name_score

CURVES = 8  # in one CMC figure, so that colours stay apart
ACROSS: dict[str, type] = dict.fromkeys(
    "dataset aspect model variant stage seed tested_dataset tested_aspect over left_out".split(), str
)
ACROSS |= {f"{score}{end}": float for score in ("rank1", "map") for end in ENDS}
DRAWN = f"rank1{IN_DRAWS}"
ACROSS |= dict.fromkeys([*VOTES, DRAWN, f"{DRAWN}_std"], float)


def name_page(runs: Runs, chosen: bool = False) -> str:
    """Return the page's name: the runs' experiment, with a hash of their ids where they are ``chosen`` ones of it.

    Without the hash, their page would take the place of the page of all. Runs of several experiments always have it.
    """
    experiments = {run.params.experiment for run in runs}
    experiment = experiments.pop() if len(experiments) == 1 else None
    if experiment and not chosen:
        return experiment
    digest = hashlib.sha256("\n".join(sorted(run.name for run in runs)).encode()).hexdigest()[:8]
    return f"{experiment or 'grid'}-{len(runs)}-{digest}"


def lay_out(runs: Runs, folder: Path, outputs: Path, chosen: bool = False) -> str:
    """Return the report of several runs as HTML that will lie in ``folder``; ``outputs`` may hold ``across.csv``.

    ``chosen`` is as for :func:`name_page`.
    """
    runs = sorted(runs, key=lambda run: (LADDER.index(run.params.variant), run.name))
    sections = [
        page.make_section("The ladder's questions", _show_pairs, runs),
        page.make_section("Averages over seeds", _show_averages, runs),
        page.make_section("Leaderboard", _show_leaderboard, runs, folder),
        page.make_section("Rank-1 and mAP in pictures", _show_figures, runs),
        page.make_section("What they share and differ in", _show_params, runs),
        page.make_section("Beside published numbers", show_published, *runs),
        page.make_section("Across aspects and data sets", _show_across, outputs),
        page.make_section("Provenance", _show_provenance, runs),
        page.make_section("How to repeat it", _show_repeat, runs),
    ]
    return page.render(name_page(runs, chosen), _sum_up(runs), sections, [outputs, *(run.folder for run in runs)])


def _sum_up(runs: Runs) -> list[str]:
    variants = dict.fromkeys(run.params.variant for run in runs)
    tests = dict.fromkeys(f"{run.params.dataset} {run.params.aspect} ({run.params.protocol})" for run in runs)
    first = f"{len(runs)} runs of {', '.join(variants)}, tested on {', '.join(tests)}."
    if len(group_tests(runs)) > 1:
        return [first, "They were not all asked the same questions, so only rows of one table below may be compared."]
    best = max(runs, key=lambda run: run.own["rank1"])
    return [
        first,
        f"All were asked the same questions. The highest rank-1 is {format_score(best.own, 'rank1')} per cent "
        f"({name_runs(runs)[best.name]}); whether that is more than chance, the ladder's questions say better than "
        "the leaderboard.",
    ]


def name_runs(runs: Runs) -> dict[str, str]:
    """Name runs by variant and stage, and by seed, aspect and id where several would share that name; by folder."""
    keys = ("dataset", "aspect", "protocol", "model", "seed")
    varying = [key for key in keys if len({getattr(run.params, key) for run in runs}) > 1]

    def name(params: Params) -> str:
        parts = [params.variant] + ([params.mode] if params.mode != "full" else [])
        return ", ".join([*parts, *(f"{'seed ' * (key == 'seed')}{getattr(params, key)}" for key in varying)])

    names = {run.name: name(run.params) for run in runs}
    shared = [mine for mine, count in Counter(names.values()).items() if count > 1]
    return {run: f"{mine}, {run[-8:]}" if mine in shared else mine for run, mine in names.items()}


def _show_leaderboard(runs: Runs, folder: Path) -> list:
    names, photographs = name_runs(runs), number_photographs(runs)
    tests: dict[tuple, list] = {}
    for run in runs:
        for protocol, scores in run.protocols.items():
            asked = scores.get("compared_sha"), photographs[run.name]
            test = run.params.dataset, run.params.aspect, protocol, asked
            tests.setdefault(test, []).append((run, scores))
    blocks: list = [page.Words(page.TEXTS["leaderboard"])]
    shown = ("rank1", VOTES[0], "rank5", "map", VOTES[1], "map_trapezoid", DRAWN, "eer")
    columns = {score: name_score(score) for score in shown}
    for (dataset, aspect, protocol, _), found in tests.items():
        rows = []
        for run, scores in found:
            values = [page.stack(format_score(scores, score)) for score in columns]
            values.append(scores.get("over", ""))
            report, gallery = _link(run, "report.html", folder, names[run.name]), _link(run, "gallery.html", folder)
            rows.append([report or names[run.name], *values, gallery or "–"])
        own = ", their own" if any(run.params.protocol == protocol for run, _ in found) else ""
        head = ["run", *columns.values(), "mean over", "rankings"]
        counts = [found[0][1].get(name, "?") for name in ("queries", "gallery")]
        sizes = "{} queries and {} gallery images a draw".format(*counts)
        blocks.append(page.Table(head, rows, f"{dataset} {aspect}, protocol {protocol}{own}: {sizes}"))
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
    names = name_runs(runs)
    table = pd.DataFrame([run.own for run in runs], index=list(names.values()))
    figures, blocks = [], []
    for score, label in (("rank1", "Rank-1"), ("map", "mAP")):
        caption = f"{label} of each run under its own protocol, with 95 % intervals over people."
        figures.append(page.draw(score_figures.draw_intervals, caption, table, score, label))
    for group in group_tests(runs):
        first, curves = group[0], {names[run.name]: run.cmc for run in group if len(run.cmc)}
        if len(curves) > CURVES:
            blocks.append(page.Words(f"{len(curves)} runs of one test: the CMC shows the first {CURVES}."))
        if curves:
            where = f"{first.params.dataset} {first.params.aspect} ({first.params.protocol})"
            caption = f"CMC on {where}, mean over {first.own['over']}."
            figures.append(page.draw(score_figures.draw_cmc, caption, dict(list(curves.items())[:CURVES])))
    return [page.Figures(figures), *blocks]


def _show_pairs(runs: Runs) -> list:
    blocks: list = [page.Words(page.TEXTS["pairs"])]
    for group in group_tests(runs):
        first = group[0]
        whole, damaged = read_answers(group)
        blocks += [page.Words(f"{what}.", missing=True) for what in damaged]
        if not whole:
            continue
        asked, rest, apart = ask(whole)
        where = f"{first.params.dataset} {first.params.aspect}, protocol {first.params.protocol}"
        if len(asked):
            blocks.append(
                page.Table.of(_stack(asked), f"{where}: each rung against the one below it, and clipid's control")
            )
        if len(rest):
            table = page.Table.of(_stack(rest), f"{where}: every other pair")
            blocks.append(page.Folded(f"{where}: every other pair ({len(rest)})", [table]) if len(asked) else table)
        blocks += [page.Words(said, missing=True) for said in apart]
    return blocks if len(blocks) > 1 else [page.Words("No two methods were asked the same questions.")]


def _stack(found: pd.DataFrame) -> pd.DataFrame:
    """Write what belongs to one score of a comparison into one cell, a line each."""
    table = found[["people", "seeds"]].copy()
    for score in COMPARED.values():
        parts = [found[f"{name} ({score})"] for name in ("p", "Holm", "shows")]
        table[score] = [
            f"{difference}\np {p}, Holm {holm}\nshows {shows}"
            for difference, p, holm, shows in zip(found[score], *parts, strict=True)
        ]
    return table


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
    rows, scores = [], ("rank1", VOTES[0], "map", VOTES[1], DRAWN)
    for row in table.to_dict("records"):
        how = name_method(row["variant"], row["stage"])
        trained = f"{row['dataset']} {row['aspect']}, {row['model']} {how}, seed {row['seed']}"
        why = row["left_out"] or ""
        values = ["" if why else page.stack(format_score(row, score)) for score in scores]
        rows.append([trained, f"{row['tested_dataset']} {row['tested_aspect']}", *values, row["over"] or "", why])
    head = ["trained on", "tested on", *map(name_score, scores), "mean over", "left out"]
    blocks: list = [page.Table(head, rows, page.TEXTS["across"])]
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
