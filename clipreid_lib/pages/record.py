"""What a run's report records: data, model card, licences, provenance, params, the command to repeat it, notebooks."""

import os
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import file_sha
from clipreid_lib.data import datasets
from clipreid_lib.pages import model_card, notebook_pages, repeat_command, report_pictures
from clipreid_lib.pages.evaluated import Evaluated, reason
from clipreid_lib.pages.findings import groups
from clipreid_lib.pages.layout import Command, Facts, Figures, Folded, Link, Table, Words, missing
from clipreid_lib.params.schema import Params


def data(one: Evaluated) -> list:
    """Return what was tested on whom: data set, protocol, draws, and images and people of each part."""
    params, own = one.run.params, one.own
    facts = {
        "data set": datasets.summary(params.dataset).title,
        "aspect": params.aspect,
        "protocol": f"{params.protocol}, validation {params.validation}",
        "draws": f"{params.draws}, drawn with seed {params.draw_seed}",
        "draw 0": f"{own.get('queries', '?')} queries, {own.get('gallery', '?')} gallery images, "
        f"{own.get('distractors', '?')} of them distractors",
        "training seed": str(params.seed),
        "manifest": f"SHA-256 {own.get('manifest_sha', 'unknown')}",
    }
    blocks: list = [Facts(facts)]
    try:
        rows = [[role, f"{images:,}", f"{people:,}"] for role, (images, people) in parts(one).items()]
        blocks.append(Table(["part", "images", "people"], rows, "Who trains, who is tested and who distracts."))
        if file_sha(one.run.folder / "manifest.csv") != own.get("manifest_sha"):
            blocks.append(missing("manifest.csv is not the manifest that these scores were made with."))
    except UserError as error:
        blocks.append(missing(f"Images and people of each part: {reason(error)}."))
    split = _shared(one) / "figures" / "split.png"
    if split.is_file():
        blocks.append(
            Figures([report_pictures.embed(split, "The part each person plays in each aspect (notebook 01).")])
        )
    return blocks


def parts(one: Evaluated) -> dict[str, tuple[int, int]]:
    """Return (images, people) of each role that the manifest knows, in the order of a study.

    Raises:
        UserError: the manifest is lost or damaged.
    """
    found = one.manifest.images.groupby("role")["subject"].agg(["size", "nunique"])
    order = [role for role in ("train", "validation", "test", "distractor", "unpaired", "junk") if role in found.index]
    return {role: (int(found.loc[role, "size"]), int(found.loc[role, "nunique"])) for role in order}


def _shared(one: Evaluated) -> Path:
    """Return the folder of notebook 01, shared by all runs on the same data and protocol in one outputs folder."""
    return one.run.folder.parent.parent / "data" / one.run.params.data_id


def card(one: Evaluated) -> list:
    """Return the model card; what is lost with a file of the run is left out of it."""
    counts, split = {}, None
    try:
        counts = parts(one)
    except UserError:
        pass  # the card then says that the counts are lost
    try:
        rated = groups(one)["rank1"].notna()
        split = int(rated.sum()), int((~rated).sum())
    except (UserError, KeyError):
        pass  # the section on subgroups has said so
    said = model_card.facts(one.run.params, {**one.metrics, **one.own}, counts, split)
    return [Facts(said), Words(f"The headings are those of {model_card.CITED}.")]


def licences(one: Evaluated) -> list:
    """Return under which terms data, weights and code may be used, and whom to cite."""
    about = datasets.summary(one.run.params.dataset)
    start, licence = model_card.weights(one.run.params)
    return [
        Facts(
            {
                "data set": about.title,
                "its licence": about.licence,
                "to cite": about.citation,
                "weights": start,
                "their licence": licence,
                "code": "MIT",
            }
        )
    ]


def provenance(one: Evaluated) -> dict[str, str]:
    """Return what made the run: code, libraries, machine in words, times and hashes."""
    began, metrics = one.record("provenance.json"), one.metrics
    facts = began | {key: metrics[key] for key in ("git", "python", "system", "versions") if key in metrics}
    seconds = metrics.get("seconds") or {}
    done = {p.stem: one.record(f"done/{p.name}").get("finished") for p in (one.run.folder / "done").glob("*.json")}
    finished = "\n".join(f"{name}: {_moment(when)}" for name, when in sorted(done.items()))
    versions = ", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items())
    lines = {
        "code": f"git {facts.get('git', 'unknown')}",
        "Python": facts.get("python"),
        "libraries": versions,
        "machine": f"{facts.get('system', 'unknown system')}, {facts.get('cores', '?')} cores, "
        f"threads {facts.get('threads', '?')}, device {metrics.get('device', 'unknown')}",
        "started": _moment(began.get("started")),
        "finished": finished,
        "training": f"{seconds['training']:.0f} s" if "training" in seconds else "",
        "scoring": f"{seconds['scoring']:.1f} s, encoding apart" if "scoring" in seconds else "",
        "manifest": f"SHA-256 {metrics.get('manifest_sha', 'unknown')}",
        "checkpoint": _checkpoint(str(metrics.get("checkpoint_sha", "unknown"))),
    }
    return {name: text or "not recorded" for name, text in lines.items()}


def _checkpoint(sha: str) -> str:
    if sha.startswith("file "):
        return f"pretrained weights, a file whose SHA-256 begins with {sha.removeprefix('file ')}"
    return f"SHA-256 {sha}" if len(sha) == 64 else f"pretrained weights, {sha}"


def _moment(text: str | None) -> str:
    try:
        return f"{datetime.fromisoformat(text or ''):%Y-%m-%d %H:%M:%S} UTC"
    except (TypeError, ValueError):
        return ""


def params(one: Evaluated) -> list:
    """Return every param, those changed from the defaults first."""
    changed = repeat_command.told(one.run.params)
    defaults = {key: Params.model_fields[key].default for key in changed}
    rows = [[key, written(value), written(defaults[key])] for key, value in changed.items()]
    every = {key: written(repeat_command.shown(key, value)) for key, value in one.run.params}
    first = Table(["key", "this run", "default"], rows, "Changed from the defaults.")
    return [
        first if rows else Words("All at their defaults."),
        Folded(f"All {len(every)} keys, as they were resolved", [Facts(every)]),
    ]


def written(value: object) -> str:
    """Write a param as a params file would."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def repeat(one: Evaluated) -> list:
    """Return the command that makes this run, and what has changed if it does so no more."""
    command = repeat_command.of_run(one.run.params)
    blocks = [Words("In the project's top folder:"), Command(command)]
    return blocks + repeated(command, [one.name])


def repeated(command: str, names: list[str]) -> list:
    """Say whether a command makes the very runs it is said to repeat.

    Args:
        command: as ``clipreid_lib.pages.repeat_command`` writes it.
        names: ids of the runs it is to make.

    Returns:
        Blocks of the page; none where it makes them.
    """
    if repeat_command.ELSEWHERE in command:
        return [
            Words(f"{repeat_command.ELSEWHERE} stands for a place outside the project, on the machine that ran this.")
        ]
    if repeat_command.composed(command) != sorted(names):
        return [
            missing(
                "With the code and files that are here now this command makes a run of another id: a default or a "
                "weights file has changed since. The git version under Provenance is the one to repeat it with."
            )
        ]
    return []


def notebooks(one: Evaluated) -> list:
    """Return links to the executed notebooks and to pages made of them, which are written where they are older."""
    rows: list[list[str | Link]] = []
    blocks, folder = [], one.run.folder
    for path in [path for place in (_shared(one), folder) for path in sorted((place / "notebooks").glob("*.ipynb"))]:
        try:
            page = notebook_pages.export(path, [folder, folder.parent.parent])
        except UserError as error:
            blocks.append(missing(f"{reason(error)}."))
            continue
        note = "this run's" if path.is_relative_to(folder) else "shared by all runs on the same data"
        rows.append([Link(path.stem, address(page, folder)), Link("with its code", address(path, folder)), note])
    if not rows and not blocks:
        return [missing("The executed notebooks are not there.")]
    caption = "What the executed notebooks said and showed as pages, and the notebooks themselves."
    return [Table(["page", "notebook", "whose"], rows, caption), *blocks]


def address(path: Path, folder: Path) -> str:
    """Return a link from a page in ``folder`` that works wherever both are copied."""
    return quote(Path(os.path.relpath(path, folder)).as_posix())
