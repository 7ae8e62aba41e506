"""Across: what is trained on one aspect or data set, or on several aspects, tested on every other one.

Always under protocol ``common``, whose split of people is one for all aspects, so that nobody tested in one aspect was
trained on in another. A run trained under another protocol is refused wherever that would happen. A run of several
aspects is tested on each, and across each two of them, and compared with the runs of one.
"""

import json
from collections import Counter
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pandas as pd

from clipreid_lib.base.errors import TooFewPeople, UserError
from clipreid_lib.base.files import write_csv
from clipreid_lib.data import datasets, protocols
from clipreid_lib.data.image_store import STORE
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.pages import score_figures, style
from clipreid_lib.params.run_ids import NOT_IN_ID
from clipreid_lib.params.schema import ASPECTS, EXTERNAL, TRAIN_NOTHING, project_path
from clipreid_lib.runs.loading import load_trained_encoder
from clipreid_lib.runs.run import Run
from clipreid_lib.runs.sources import split_source
from clipreid_lib.scores import comparison
from clipreid_lib.scores.assessment import count_test
from clipreid_lib.scores.comparison import Method
from clipreid_lib.scores.evaluation import evaluate
from clipreid_lib.scores.given_features import ONLY
from clipreid_lib.scores.ladder import LEGEND
from clipreid_lib.scores.score_names import EACH_PERSON, IN_DRAWS

# How a run was trained.
TRAINED = ("experiment", "dataset", "aspect", "model", "variant", "prompt_form", "train", "stage", "seed")
SCORES = ("rank1", "map", "map_trapezoid")
ASKS = " asks "  # in the name of a test across two aspects


@dataclass(frozen=True)
class Target:
    """One aspect of one data set to test on, or two, ``palmar_r asks dorsal_r``."""

    dataset: str
    root: Path  # folder of its images
    table: pd.DataFrame  # its image table, all aspects
    manifest: Manifest  # protocol ``common`` of the aspect
    aspect: str


def open_runs(folders: list[str], outputs: Path) -> list[Run]:
    """Open trained runs by their folders; without any, every evaluated run of protocol ``common`` among the outputs.

    Raises:
        UserError: a folder is no run's, or holds features alone; or none is found.
    """
    if folders:
        chosen = [Run.at(Path(folder)) for folder in folders]
        for run in chosen:
            if run.params.variant == EXTERNAL:
                raise UserError(f"{run.folder.name}: {ONLY}")
        return chosen
    runs = [Run.at(path.parent) for path in sorted((outputs / "runs").glob("*/metrics.json"))]
    runs = [run for run in runs if run.params.protocol == "common" and run.params.variant != EXTERNAL]
    if not runs:
        hint = "make some with --set protocol=common"
        raise UserError(f"{outputs / 'runs'}: no evaluated run of protocol common; {hint}")
    return runs


def list_targets(runs: list[Run], on: list[str]) -> tuple[list[Target], list[str]]:
    """Return every aspect of every data set to test on, each once, and a sentence for each that cannot be one.

    Args:
        runs: whose own aspects are tested.
        on: more data sets, ``NAME=FOLDER`` or ``NAME:ASPECT=FOLDER``.

    Raises:
        UserError: a data set is misspelt, cannot be read, or has too few people.
    """
    tables: dict[tuple[str, Path], pd.DataFrame] = {(run.params.dataset, run.data_root): run.table for run in runs}
    wanted: list[tuple[str, Path, str]] = []
    for run in runs:
        mine = run.params.dataset, run.data_root
        aspects = protocols.split_aspects(run.params.aspect, set(run.table["aspect"]))
        wanted += [(*mine, aspect) for aspect in aspects]
        wanted += [(*mine, f"{asks}{ASKS}{shown}") for asks, shown in permutations(aspects, 2)]
    wanted.sort(key=lambda each: ASKS in each[2])
    for text in on:
        name, aspect, place = split_source(text)
        if not name:
            raise UserError(f"--on {text}: write NAME=FOLDER or NAME:ASPECT=FOLDER; names: {', '.join(ASPECTS)}")
        key = name, project_path(place)
        tables[key] = tables[key] if key in tables else datasets.load_images(*key)
        wanted += [(*key, each) for each in ([aspect] if aspect else sorted(tables[key]["aspect"].unique()))]
    drawn: dict[str, Any] = {"seed": runs[0].params.draw_seed, "draws": runs[0].params.draws}
    found: list[Target] = []
    told: list[str] = []
    for dataset, root, aspect in dict.fromkeys(wanted):
        table, (first, *shown) = tables[dataset, root], aspect.split(ASKS)
        try:
            if shown:
                manifest = protocols.build_crossing(table, first, shown[0], **drawn)
            else:
                manifest = protocols.build(table, "common", aspect, **drawn)
        except TooFewPeople as error:
            told.append(f"not tested: {error}")
            continue
        found.append(Target(dataset, root, table, manifest, aspect))
    if not found:
        raise UserError(f"across: {told[0]}")
    return found, told


def measure(runs: list[Run], aims: list[Target], outputs: Path) -> tuple[pd.DataFrame, list[pd.DataFrame | None]]:
    """Test every run on every target, by the image embedding.

    Args:
        runs: trained runs.
        aims: from :func:`list_targets`.
        outputs: folder of the feature store and the image store.

    Returns:
        One row per pair: how the run was trained, what it was tested on, counts, scores in [0, 1] with 95 % interval
        over people, with one vote per person, and in draws; empty scores and the reason in ``left_out`` where people
        would leak. And for each row what every query scored.

    Raises:
        UserError: a run's encoder is not trained yet, or an image cannot be read.
    """
    rows: list[dict] = []
    answers: list[pd.DataFrame | None] = []
    for run in runs:
        encoder, mine = load_trained_encoder(run), {key: getattr(run.params, key) for key in TRAINED}
        for aim in aims:
            row = {**mine, "tested_dataset": aim.dataset, "tested_aspect": aim.aspect}
            if leak := _find_leaked(run, aim):
                rows.append(row | {"left_out": f"{len(leak)} people tested were trained on; train under common"})
                answers.append(None)
                continue
            photographs = replace(run.photographs, root=aim.root, store=outputs / STORE)
            there = replace(encoder, folder=outputs / "features", table=aim.table, photographs=photographs)
            scores = evaluate(there.embed(aim.manifest.in_tests), aim.manifest)
            summary, ends, counts = scores.summary(), scores.intervals(), count_test(aim.manifest)
            row |= {name: counts[name] for name in ("queries", "gallery", "identities")} | {"over": scores.over}
            for score in SCORES:
                row |= {score: summary[score], f"{score}_low": ends[score][0], f"{score}_high": ends[score][1]}
                row |= {f"{score}{end}": summary[f"{score}{end}"] for end in (EACH_PERSON, IN_DRAWS, f"{IN_DRAWS}_std")}
            rows.append(row | {"left_out": "", "checkpoint_sha": encoder.sha, "manifest_sha": aim.manifest.sha})
            answers.append(scores.per_query)
    return pd.DataFrame(rows), answers


def compare_joined(
    runs: list[Run], table: pd.DataFrame, answers: list[pd.DataFrame | None]
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """Set runs of several aspects against those of one that answered the same questions, and text against no text.

    Args:
        runs: that were tested, in the order of the rows.
        table: what :func:`measure` found.
        answers: the same.

    Returns:
        By what was tested, the rows of :func:`~clipreid_lib.scores.comparison.compare_methods`: several aspects minus
        one, of runs that differ in nothing else but the seed; and of several, ``clipid`` minus ``clipid_no_text``. And
        a sentence for every two runs that differ in nothing: none of them is compared.
    """
    aside = NOT_IN_ID - {"pretrained", "resume_prompt"} | {"seed", "aspect", "variant"}
    settings = [json.dumps(run.params.model_dump(exclude=aside), sort_keys=True, default=str) for run in runs]
    ways = [(run.params.variant, run.params.aspect, mine) for run, mine in zip(runs, settings, strict=True)]
    several = [len(protocols.split_aspects(run.params.aspect, set(run.table["aspect"]))) > 1 for run in runs]
    joined = {way for way, more in zip(ways, several, strict=True) if more}
    seeds = Counter((way, run.params.seed) for way, run in zip(ways, runs, strict=True))
    twice = dict.fromkeys(way for (way, _), number in seeds.items() if number > 1)
    told = [
        f"not compared: several runs of {way[0]} on {way[1]}, one seed and the same params"
        for way in twice
        if any(way[2] == mine for _, _, mine in joined)
    ]
    found: dict[str, pd.DataFrame] = {}
    number = len(table) // len(runs)  # targets, which are a run's rows
    for target in range(number):
        methods: dict[tuple, dict[int, pd.DataFrame]] = {}
        for place, (way, run) in enumerate(zip(ways, runs, strict=True)):
            answer = answers[place * number + target]
            if answer is not None and way not in twice:
                methods.setdefault(way, {})[run.params.seed] = answer
        made = {
            way: Method(f"{way[0]} of {way[1]}", each, way[0] not in TRAIN_NOTHING) for way, each in methods.items()
        }
        row, pairs = table.iloc[target], []
        for one, other in permutations(made, 2):
            if one not in joined or one[2] != other[2]:
                continue
            fewer = one[0] == other[0] and other[1] in row["tested_aspect"].split(ASKS) and made[one].trains
            if fewer or (one[0], *other[:2]) == ("clipid", "clipid_no_text", one[1]):
                pairs.append((made[one], made[other]))
        if pairs := [pair for pair in pairs if comparison.share_seeds(*pair)]:
            name = f"{row['tested_dataset']} {row['tested_aspect']}"
            found[name if name not in found else f"{name}, another folder"] = comparison.compare_methods(pairs)
    return found, told


def arrange(table: pd.DataFrame, score: str = "rank1") -> pd.DataFrame:
    """Arrange one score of :func:`measure` as a matrix in per cent, averaged over seeds.

    Returns:
        One row per way of training, one column per target; NaN where nothing was tested.
    """
    # Whatever the runs differ in names a row; only seeds are averaged.
    kinds = table.groupby("variant")[["experiment", "model", "prompt_form", "train", "stage"]].nunique().max()
    varying = kinds[kinds > 1].index.tolist()
    trained = (table["dataset"] + " " + table["aspect"]).str.cat(table[["variant", *varying]], sep=", ")
    tested = table["tested_dataset"] + " " + table["tested_aspect"]
    means = 100 * table[score].groupby([trained.rename("trained"), tested.rename("tested")], sort=False).mean()
    return means.unstack().reindex(index=trained.unique(), columns=tested.unique())


def report(folders: list[str], on: list[str], outputs: Path) -> str:
    """Write ``across.csv``, ``across_rank1.png`` and ``across_map.png`` into ``outputs``; return what to print.

    Arguments and errors are those of :func:`open_runs`, :func:`list_targets` and :func:`measure`.
    """
    runs = open_runs(folders, outputs)
    aims, untested = list_targets(runs, on)
    table, answers = measure(runs, aims, outputs)
    write_csv(outputs / "across.csv", table)
    if table["left_out"].ne("").all():
        return f"{outputs / 'across.csv'}: nothing could be tested; {table['left_out'].iloc[0]}"
    style.use()
    lines = []
    for score, label in (("rank1", "rank-1"), ("map", "mAP")):
        matrix = arrange(table, score)
        style.save_figure(score_figures.draw_matrix(matrix, f"{label}, per cent"), outputs / f"across_{score}.png")
        over = ", ".join(sorted(set(table["over"].dropna())))
        said = f"{label}, per cent, mean over {over}; rows trained on, columns tested on"
        lines.append(f"{said}\n\n{matrix.round(1).to_string()}")
    compared, told = compare_joined(runs, table, answers)
    lines += [
        f"several aspects minus one, and text minus no text, tested on {name}\n\n{each.to_string()}"
        for name, each in compared.items()
    ]
    lines += [LEGEND] if compared else []
    lines += [*told, *untested]
    for _, row in table[table["left_out"] != ""].iterrows():
        pair = f"{row['dataset']} {row['aspect']} on {row['tested_dataset']} {row['tested_aspect']}"
        lines.append(f"left out: {pair}: {row['left_out']}")
    return "\n\n".join([*lines, f"every number: {outputs / 'across.csv'}; heat maps beside it"])


def _find_leaked(run: Run, aim: Target) -> set:
    """Return the people tested whom the run has seen: by number, or by name where a folder of one's own has names."""
    if run.params.dataset != aim.dataset:
        return set()
    tested, seen = set(aim.manifest.test["subject"]), run.seen_people
    if run.data_root != aim.root and "name" in run.table and "name" in aim.table:  # numbers count a folder's names
        tested = set(aim.table.loc[aim.table["identity"].isin(tested), "name"])
        seen = set(run.table.loc[run.table["identity"].isin(seen), "name"])
    return tested & seen
