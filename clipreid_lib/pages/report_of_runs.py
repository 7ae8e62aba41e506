"""The report of several runs: one leaderboard, what they share and differ in, and one against another."""

import hashlib
from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.pages import (
    findings,
    record,
    repeat_command,
    report_of_run,
    report_pictures,
    score_figures,
    tables,
)
from clipreid_lib.pages.evaluated import Evaluated
from clipreid_lib.pages.layout import Command, Facts, Figures, Folded, Link, Section, Table, Words, missing, render
from clipreid_lib.params.schema import Params
from clipreid_lib.scores import comparison, leaderboard
from clipreid_lib.scores.score_names import method

LADDER = ("frozen", "tip_adapter", "classifier", "clipid_no_text", "clipid", "inversion")
PAIRS = 28  # comparisons of one test that are all made; of more runs, each is compared with the lowest rung alone
CURVES = 8  # in one CMC figure, so that colours stay apart


def name_of(runs: list[Evaluated]) -> str:
    """Return the page's name: the runs' experiment, or a hash of their ids where they are of several."""
    experiments = {one.run.params.experiment for one in runs}
    if len(experiments) == 1 and (experiment := experiments.pop()):
        return experiment
    digest = hashlib.sha256("\n".join(sorted(one.name for one in runs)).encode()).hexdigest()[:8]
    return f"grid-{len(runs)}-{digest}"


def page(runs: list[Evaluated], folder: Path, outputs: Path) -> str:
    """Return the report of several runs as HTML.

    Args:
        runs: evaluated runs.
        folder: where the page will lie, for its links.
        outputs: the outputs folder, where ``across.csv`` may lie.
    """
    runs = sorted(runs, key=lambda one: (LADDER.index(one.run.params.variant), one.name))
    made = {
        "Leaderboard": lambda _: _leaderboard(runs, folder),
        "Averages over seeds": lambda _: _averages(runs),
        "Rank-1 and mAP, drawn": lambda _: _drawn(runs),
        "One against another": lambda _: _pairs(runs),
        "What they share and differ in": lambda _: _params(runs),
        "Beside published numbers": lambda _: findings.beside(*(one.metrics for one in runs)),
        "Across aspects and data sets": lambda _: _across(outputs),
        "Pages of the runs": lambda _: _links(runs, folder),
        "Provenance": lambda _: _provenance(runs),
        "How to repeat it": lambda _: _repeat(runs),
    }
    sections = [Section(title, report_of_run.told(runs[0], make)) for title, make in made.items()]
    return render(name_of(runs), _summary(runs), sections, [outputs, *(one.run.folder for one in runs)])


def _summary(runs: list[Evaluated]) -> list[str]:
    variants = list(dict.fromkeys(one.run.params.variant for one in runs))
    tests = list(
        dict.fromkeys(f"{one.run.params.dataset} {one.run.params.aspect} ({one.run.params.protocol})" for one in runs)
    )
    best = max(runs, key=lambda one: one.own["rank1"])
    said = f"{len(runs)} runs of {', '.join(variants)}, tested on {', '.join(tests)}."
    if len({one.own["compared_sha"] for one in runs}) > 1:
        return [said, "They were not all asked the same questions, so only rows of one table below may be compared."]
    return [
        said,
        f"All were asked the same questions. The highest rank-1 is {tables.value(best.own, 'rank1', ' ')} per cent "
        f"({label(best, runs)}); whether that is more than chance, the paired comparisons below say better than the "
        "table.",
    ]


def label(one: Evaluated, runs: list[Evaluated]) -> str:
    """Name a run by its variant and stage, and by seed, aspect and id where others would share that name."""

    def name(params: Params) -> str:
        shown = params.variant if params.mode == "full" else f"{params.variant}, {params.mode}"
        for key in ("dataset", "aspect", "protocol", "model", "seed"):
            if len({getattr(other.run.params, key) for other in runs}) > 1:
                shown += f", seed {params.seed}" if key == "seed" else f", {getattr(params, key)}"
        return shown

    mine = name(one.run.params)
    return mine if [name(other.run.params) for other in runs].count(mine) == 1 else f"{mine}, {one.name[-8:]}"


def _leaderboard(runs: list[Evaluated], folder: Path) -> list:
    tests: dict[tuple, list] = {}
    for one in runs:
        for protocol, scores in one.protocols.items():
            params = one.run.params
            tests.setdefault((params.dataset, params.aspect, protocol, scores.get("compared_sha")), []).append(
                (one, scores)
            )
    blocks: list = [
        Words(
            "One table per test; rows of one table answered the same questions. Per cent, mean ± deviation over draws "
            "[95 % interval over people]. None is set in bold: which is best by more than chance is for the paired "
            "comparisons to say. The order is the ladder's."
        )
    ]
    head = ["run", "rank-1", "rank-5", "mAP", "mAP (trapezoid)", "mINP", "EER", "queries", "gallery"]
    for (dataset, aspect, protocol, _), found in tests.items():
        rows = []
        for one, scores in found:
            counts = [str(scores.get(name, tables.NOTHING)) for name in ("queries", "gallery")]
            values = [
                tables.value(scores, score) for score in ("rank1", "rank5", "map", "map_trapezoid", "minp", "eer")
            ]
            rows.append([_link(one, "report.html", label(one, runs), folder), *values, *counts])
        caption = f"{dataset} {aspect}, protocol {protocol}"
        if any(one.run.params.protocol == protocol for one, _ in found):
            caption += ", their own"
        blocks.append(Table(head, rows, caption))
    return blocks


def _link(one: Evaluated, file: str, text: str, folder: Path) -> str | Link:
    """Link to a file of a run; only its name where the run lies elsewhere, for a path would name the machine."""
    target = one.run.folder / file
    beside = target.is_relative_to(folder.parent)
    return Link(text, record.address(target, folder)) if beside and target.is_file() else text


def _averages(runs: list[Evaluated]) -> list:
    older = [one.name for one in runs if not one.metrics.get("pixels")]
    if older:
        return [missing(f"Not to be averaged: the scores of {', '.join(older)} lack the pixel floor.")]
    table, note = leaderboard.table([one.run.folder for one in runs])
    for key in set(table.index.names) & set(repeat_command.PLACES):
        table = table.rename(index=lambda value, key=key: repeat_command.shown(key, value), level=key)
    return [tables.plain(table.rename_axis(index={None: "variant"})), Words(note)]


def _drawn(runs: list[Evaluated]) -> list:
    table = pd.DataFrame([one.own for one in runs], index=[label(one, runs) for one in runs])
    figures = []
    for score, shown in (("rank1", "Rank-1"), ("map", "mAP")):
        caption = f"{shown} of each run under its own protocol, with 95 % intervals over people."
        figures.append(report_pictures.drawn(report_pictures.dots, caption, table, score, shown))
    blocks = []
    for group in _same_questions(runs).values():
        answers, lost = _answers(group, runs)
        blocks += lost
        if len(answers) > CURVES:
            blocks.append(Words(f"{len(answers)} runs of one test: the CMC shows the first {CURVES}."))
        if answers:
            first = group[0].run.params
            caption = f"CMC on {first.dataset} {first.aspect} ({first.protocol}); the band is one deviation over draws."
            few = dict(list(answers.items())[:CURVES])
            figures.append(report_pictures.drawn(score_figures.cmc, caption, few))
    return [Figures(figures), *blocks]


def _same_questions(runs: list[Evaluated]) -> dict[str, list[Evaluated]]:
    found: dict[str, list[Evaluated]] = {}
    for one in runs:
        found.setdefault(one.own["compared_sha"], []).append(one)
    return found


def _answers(group: list[Evaluated], runs: list[Evaluated]) -> tuple[dict, list]:
    answers, lost = {}, []
    for one in group:
        try:
            answers[label(one, runs)] = one.answers
        except UserError as error:
            lost.append(missing(f"{one.name}: {error}."))
    return answers, lost


def _pairs(runs: list[Evaluated]) -> list:
    blocks: list = [
        Words(
            "Differences in points on the same queries, with 95 % intervals and p-values (sign-flip test) that "
            "resample people. The p-values are not corrected for how many comparisons stand here."
        )
    ]
    for group in _same_questions(runs).values():
        answers, _ = _answers(group, runs)
        names = list(answers)
        if len(names) < 2:
            continue
        every = len(names) * (len(names) - 1) // 2 <= PAIRS
        rows = []
        for place, mine in enumerate(names[1:], start=1):
            others = names[:place] if every else names[:1]
            found = comparison.against(answers[mine], {name: answers[name].per_query for name in others})
            rows += [
                [f"{mine} {which}", *map(str, row)] for which, row in zip(found.index, found.to_numpy(), strict=True)
            ]
        first = group[0].run.params
        caption = f"{first.dataset} {first.aspect}, protocol {first.protocol}"
        caption += "" if every else f"; so many runs that each is compared with {names[0]} alone"
        blocks.append(Table(["", *found.columns], rows, caption))
    return blocks if len(blocks) > 1 else [Words("No two of them answered the same questions.")]


def _params(runs: list[Evaluated]) -> list:
    settings = [dict(one.run.params) for one in runs]
    varying = [key for key in settings[0] if len({repr(each[key]) for each in settings}) > 1]
    written = lambda key, value: record.written(repeat_command.shown(key, value))  # noqa: E731
    blocks: list = []
    if varying:
        rows = [
            [one.name, *(written(key, each[key]) for key in varying)] for one, each in zip(runs, settings, strict=True)
        ]
        blocks.append(Table(["run", *varying], rows, "The keys they differ in."))
    else:
        blocks.append(Words("Their params are the same."))
    told = dict.fromkeys(key for one in runs for key in one.run.params.changed() if key not in varying)
    changed = {key: written(key, settings[0][key]) for key in told}
    if changed:
        blocks += [Words("Shared, and changed from the defaults:"), Facts(changed)]
    same = {key: written(key, value) for key, value in settings[0].items() if key not in varying}
    return [*blocks, Folded(f"All {len(same)} keys that they share", [Facts(same)])]


def _across(outputs: Path) -> list:
    path = outputs / "across.csv"
    if not path.is_file():
        return [Words("Not measured; clipreid across does it for runs of protocol common.")]
    table = pd.read_csv(path, keep_default_na=False, na_values=[""])
    rows = []
    for _, row in table.iterrows():
        scores = {key: None if pd.isna(value) else value for key, value in row.items()}
        how = method(row["variant"], row["stage"])
        trained = f"{row['dataset']} {row['aspect']}, {row['model']} {how}, seed {row['seed']}"
        why = scores["left_out"] or ""
        values = [tables.value(scores, score) if not why else "" for score in ("rank1", "map")]
        rows.append([trained, f"{row['tested_dataset']} {row['tested_aspect']}", *values, why])
    caption = "By the image embedding under protocol common; every run that was measured, also those not on this page."
    blocks: list = [Table(["trained on", "tested on", "rank-1", "mAP", "left out"], rows, caption)]
    figures = []
    for score, shown in (("rank1", "rank-1"), ("map", "mAP")):
        picture = outputs / f"across_{score}.png"
        if picture.is_file():
            figures.append(report_pictures.embed(picture, f"{shown}, per cent: rows trained on, columns tested on."))
    return blocks + ([Figures(figures)] if figures else [])


def _links(runs: list[Evaluated], folder: Path) -> list:
    rows = []
    for one in runs:
        links = [_link(one, file, file, folder) for file in ("report.html", "gallery.html")]
        rows.append([one.name, *(link if isinstance(link, Link) else "not here" for link in links)])
    return [Table(["run", "report", "every query's gallery"], rows)]


def _provenance(runs: list[Evaluated]) -> list:
    keys = ("code", "Python", "machine", "training", "started", "manifest", "checkpoint", "libraries")
    facts = [record.provenance(one) for one in runs]
    same = {key: facts[0][key] for key in keys if len({each[key] for each in facts}) == 1}
    varying = [key for key in keys if key not in same]
    rows = [[one.name, *(each[key] for key in varying)] for one, each in zip(runs, facts, strict=True)]
    versions = {each["code"] for each in facts}
    said = (
        "All were made by one version of the code."
        if len(versions) == 1
        else f"Made by {len(versions)} versions of the code."
    )
    return (
        [Words(said), Facts(same), Table(["run", *varying], rows, "Where they differ.")]
        if varying
        else [Words(said), Facts(same)]
    )


def _repeat(runs: list[Evaluated]) -> list:
    command = repeat_command.of_grid([one.run.params for one in runs])
    names = [one.name for one in runs]
    if command:
        return [Words("In the project's top folder:"), Command(command), *record.repeated(command, names)]
    blocks: list = [Words("They are no full grid of any keys, so one command each, in the project's top folder:")]
    for one in runs:
        command = repeat_command.of_run(one.run.params)
        blocks += [Command(command), *record.repeated(command, [one.name])]
    return blocks
