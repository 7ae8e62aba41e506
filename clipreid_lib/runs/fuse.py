"""`clipreid fuse`: opens finished runs, scores them together, and writes what came of it as a folder of its own."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import read_json, write_csv, write_json, write_text
from clipreid_lib.pages import fused_page
from clipreid_lib.pages.report_runs import name_runs
from clipreid_lib.params.schema import project_path
from clipreid_lib.runs.embeddings import embed_own
from clipreid_lib.runs.external import NAME
from clipreid_lib.runs.loading import load_trained_encoder
from clipreid_lib.runs.machine import provenance
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import fusion, thresholds
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.finished_run import FinishedRun
from clipreid_lib.scores.fusion import Member, Questions
from clipreid_lib.scores.leaderboard import FUSED, refresh_leaderboard
from clipreid_lib.scores.score_names import DEFINITIONS

ORDER = ("aspect", "variant", "model", "seed", "run")  # in which runs stand, however they were given


@dataclass(frozen=True)
class Opened:
    """A finished run, and what its ``thresholds.json`` holds under ``calibration``."""

    run: Run
    finished: FinishedRun
    learned: dict

    @property
    def record(self) -> dict:
        """What is kept of it."""
        params, learned = self.finished.params, self.learned
        told = {key: getattr(params, key) for key in ("aspect", "variant", "model", "seed")}
        line = {"slope": learned["slope"], "intercept": learned["intercept"], "learned_from": learned["people"]}
        return {"run": self.finished.name, "checkpoint_sha": self.finished.metrics["checkpoint_sha"], **told, **line}


def fuse(folders: Sequence[str], name: str | None = None) -> list[str]:
    """Fuse finished runs and write ``outputs/fused/NAME/``; return lines to print.

    Args:
        folders: of two or more runs, in any order.
        name: of the result; None makes one of aspects, variants and a hash of runs and checkpoints.

    Raises:
        UserError: as :func:`open_runs`, :func:`choose_folder` and :func:`clipreid_lib.scores.fusion.ask_together`; an
            encoder is another than the one that was scored.
    """
    opened = open_runs(folders)
    records = [each.record for each in opened]
    folder = choose_folder([each.finished for each in opened], records, name)
    questions = fusion.ask_together([_describe(each) for each in opened])
    titles = name_runs([each.finished for each in opened])
    lines = [(each.learned["slope"], each.learned["intercept"]) for each in opened]
    sides = [embed(each, questions) for each in opened]
    rows = fusion.fuse(sides, lines, questions)
    for each, side, line in zip(opened, sides, lines, strict=True):
        rows[titles[each.finished.name]] = fusion.measure(side, questions.manifest, line)
    page = fused_page.Page(folder.name, records, questions, rows, opened[0].run.data_root)
    fused_page.draw_pictures(page, folder / "figures")
    asked = [each.own.per_query.assign(row=row) for row, each in rows.items()]
    write_csv(folder / "per_query.csv", pd.concat(asked)[["row", *asked[0].columns[:-1]]])
    write_text(folder / "report.html", fused_page.lay_out(page, folder))
    write_json(folder / "metrics.json", collect(page))  # last: a folder that has it is whole
    refresh_leaderboard(folder.parents[1])
    address = (folder / "report.html").as_uri()
    return [fused_page.tabulate(page).to_string(), "", *fused_page.explain(page), address]


def open_runs(folders: Sequence[str]) -> list[Opened]:
    """Open runs that can be fused, by :data:`ORDER`.

    Raises:
        UserError: fewer than two are given, one twice; a folder is no evaluated run's; their data lie in different
            places; a run has no line to a log-likelihood ratio, one of another checkpoint, or one that does not rise.
    """
    if len(folders) < 2:
        raise UserError(f"fuse: {len(folders)} run given; give two or more")
    found: dict[str, Opened] = {}
    for text in folders:
        finished = FinishedRun.open(Path(text))
        if finished.name in found:
            raise UserError(f"fuse: {finished.name} is given twice; give each run once")
        found[finished.name] = Opened(Run.at(finished.folder), finished, _read_line(finished))
    opened = sorted(found.values(), key=lambda each: [each.record[key] for key in ORDER])
    for each in opened:
        for key, mine, its in (
            ("dataset", opened[0].run.params.dataset, each.run.params.dataset),
            ("data_root", opened[0].run.data_root.resolve(), each.run.data_root.resolve()),
        ):
            if mine != its:
                told = f"{its}, but {mine} in {opened[0].finished.name}"
                raise UserError(f"{each.finished.name}: {key}: {told}; fuse runs on the same data")
    return opened


def _read_line(run: FinishedRun) -> dict:
    path = run.folder / thresholds.FILE
    found = thresholds.read_thresholds(run.folder)
    if found is None:
        raise UserError(f"{path}: is not there or damaged; `clipreid run --force 04` with the run's params writes it")
    if found["checkpoint"] != run.metrics.get("checkpoint_sha"):
        raise UserError(f"{path}: checkpoint: metrics.json is of another; `clipreid run --force 04` writes both")
    learned = found["calibration"]
    if learned["slope"] is None:
        raise UserError(f"{path}: calibration: {learned.get('why', 'has no slope')}; fusion needs the line to an LLR")
    if not learned["slope"] > 0:
        told = f"slope: {learned['slope']:g}; a higher cosine must speak for one person, so it must be above 0"
        raise UserError(f"{path}: calibration: {told}")
    return learned


def choose_folder(runs: Sequence[FinishedRun], records: list[dict], name: str | None) -> Path:
    """Choose the folder of the result: in the outputs that all runs lie in, else in the project's.

    Raises:
        UserError: the name is not allowed, or the folder holds the result of other runs.
    """
    given = [f"{each['run']} {each['checkpoint_sha']}" for each in records]
    if name is None:
        parts = ["+".join(dict.fromkeys(each[key] for each in records)) for key in ("aspect", "variant")]
        digest = hashlib.sha256("\n".join(sorted(given)).encode()).hexdigest()[:8]
        name = re.sub(r"[^\w.+-]", "_", "-".join(parts)).lstrip(".+-")[:71] + f"-{digest}"
    elif not NAME.fullmatch(name):
        raise UserError(f"--as {name}: write at most 80 letters, digits and . _ + -, such as dorsal+palmar")
    around = {run.outputs for run in runs}
    folder = (around.pop() if len(around) == 1 else project_path("outputs")) / FUSED / name
    if (kept := folder / "metrics.json").exists():
        before = (read_json(kept) or {}).get("fused")
        known = [f"{each.get('run')} {each.get('checkpoint_sha')}" for each in before or () if isinstance(each, dict)]
        if sorted(known) != sorted(given):
            raise UserError(f"--as {name}: {folder} holds the result of other runs; give another name, or delete it")
    return folder


def _describe(each: Opened) -> Member:
    run = each.run
    return Member(run.folder.name, run.params.aspect, run.manifest, run.params.draw_seed, run.seen_people)


def embed(each: Opened, questions: Questions) -> Embeddings:
    """Embed the images of one run that the questions show, by the rows of the questions.

    Raises:
        UserError: the encoder cannot be loaded, or is another than the one that was scored.
    """
    run, aspect = each.run, each.run.params.aspect
    encoder = load_trained_encoder(run)
    if encoder.sha != each.finished.metrics["checkpoint_sha"]:
        raise UserError(f"{run.folder}: its encoder is another than metrics.json is of; run notebook 04 again")
    images = run.manifest.images[run.manifest.images["path"].isin(questions.parts[aspect])]
    return questions.take(embed_own(run, encoder, images), aspect)


def collect(page: fused_page.Page) -> dict:
    """Return what ``metrics.json`` holds: as a run's, with every row's scores, and what was fused."""
    records, rows = page.records, page.numbers
    one = {key: "+".join(dict.fromkeys(str(each[key]) for each in records)) for key in ("aspect", "model")}
    seeds = {each["seed"] for each in records}
    own, manifest = next(iter(rows.values())), page.questions.manifest
    checkpoints = hashlib.sha256("\n".join(each["checkpoint_sha"] for each in records).encode()).hexdigest()
    about: dict = {"experiment": page.name, "dataset": manifest.dataset, **one, "variant": FUSED, "stage": FUSED}
    about |= {"seed": seeds.pop() if len(seeds) == 1 else None, "run": page.name, "checkpoint_sha": checkpoints}
    facts = provenance()
    return {
        **about,
        **own,
        "fused": records,
        "rows": rows,
        "protocols": {manifest.protocol: own},
        "left_out": page.questions.left_out,
        "definitions": DEFINITIONS,
        **{key: facts[key] for key in ("git", "python", "system", "versions")},
    }
