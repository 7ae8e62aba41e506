"""What a run's report records: data, model card, licences, provenance, params, the command to repeat it, notebooks."""

from datetime import datetime

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import file_sha
from clipreid_lib.data import datasets
from clipreid_lib.pages import model_card, repeat_command, report_notebooks
from clipreid_lib.pages import report_blocks as page
from clipreid_lib.params.run_params import Params
from clipreid_lib.scores.finished_run import FinishedRun


def show_data(run: FinishedRun) -> list:
    """Return what was tested on whom: data set, protocol, draws, and images and people of each part."""
    params, own = run.params, run.own
    counts = [own.get(name, "?") for name in ("queries", "gallery", "distractors")]
    facts = {
        "data set": datasets.summary(params.dataset).title,
        "aspect": params.aspect,
        "protocol": f"{params.protocol}, validation {params.validation}",
        "draws": f"{params.draws}, drawn with seed {params.draw_seed}",
        "draw 0": "{} queries, {} gallery images, {} of them distractors".format(*counts),
        "training seed": str(params.seed),
        "manifest": f"SHA-256 {own.get('manifest_sha', 'unknown')}",
    }
    rows = [[role, f"{images:,}", f"{people:,}"] for role, (images, people) in count_parts(run).items()]
    caption = "Who trains, who is tested and who distracts."
    blocks: list = [page.Facts(facts), page.Table(["part", "images", "people"], rows, caption)]
    if file_sha(run.folder / "manifest.csv") != own.get("manifest_sha"):
        said = "manifest.csv is not the manifest that these scores were made with."
        blocks.append(page.Words(said, missing=True))
    split = run.survey / "figures" / "split.png"
    if split.is_file():
        blocks.append(page.Figures([page.embed(split, "The part each person plays in each aspect (notebook 01).")]))
    return blocks


def count_parts(run: FinishedRun) -> dict[str, tuple[int, int]]:
    """Return (images, people) of each role that the manifest knows, in the order of a study."""
    found = run.manifest.images.groupby("role")["subject"].agg(["size", "nunique"])
    order = ("train", "validation", "test", "distractor", "unpaired", "junk")
    return {role: tuple(found.loc[role].tolist()) for role in order if role in found.index}


def show_card(run: FinishedRun) -> list:
    """Return the model card."""
    return [page.Facts(fill_card(run)), page.Words(f"The headings are those of {model_card.CITED}.")]


def fill_card(run: FinishedRun) -> dict[str, str]:
    """Return the model card's headings with what is to be said of this run under each."""
    rated = run.groups["rank1"].notna()
    groups = int(rated.sum()), int((~rated).sum())
    return model_card.fill_card(run.params, {**run.metrics, **run.own}, count_parts(run), groups)


def show_licences(run: FinishedRun) -> list:
    """Return under which terms data, weights and code may be used, and whom to cite."""
    return [page.Facts(list_licences(run))]


def list_licences(run: FinishedRun) -> dict[str, str]:
    """Return the terms of data, weights and code, and whom to cite."""
    about = datasets.summary(run.params.dataset)
    start, licence = model_card.describe_weights(run.params)
    data = {"data set": about.title, "its licence": about.licence, "to cite": about.citation}
    return {**data, "weights": start, "their licence": licence, "code": "MIT"}


def list_provenance(run: FinishedRun) -> dict[str, str]:
    """Return what made the run: code, libraries, machine in words, times and hashes."""
    began, metrics = run.read_record("provenance.json"), run.metrics
    facts = began | {key: metrics[key] for key in ("git", "python", "system", "versions") if key in metrics}
    seconds = metrics.get("seconds") or {}
    done = {p.stem: run.read_record(f"done/{p.name}").get("finished") for p in (run.folder / "done").glob("*.json")}
    lines = {
        "code": f"git {facts.get('git', 'unknown')}",
        "Python": facts.get("python"),
        "libraries": ", ".join(f"{name} {version}" for name, version in (facts.get("versions") or {}).items()),
        "machine": f"{facts.get('system', 'unknown system')}, {facts.get('cores', '?')} cores, "
        f"threads {facts.get('threads', '?')}, device {metrics.get('device', 'unknown')}",
        "started": _write_moment(began.get("started")),
        "finished": "\n".join(f"{name}: {_write_moment(when)}" for name, when in sorted(done.items())),
        "training": f"{seconds['training']:.0f} s" if "training" in seconds else "",
        "scoring": f"{seconds['scoring']:.1f} s, encoding apart" if "scoring" in seconds else "",
        "manifest": f"SHA-256 {metrics.get('manifest_sha', 'unknown')}",
        "assumed of the weights": metrics.get("assumed"),
        "checkpoint": _write_checkpoint(str(metrics.get("checkpoint_sha", "unknown"))),
    }
    return {name: text or "not recorded" for name, text in lines.items()}


def _write_checkpoint(sha: str) -> str:
    if sha.startswith("file "):
        return f"pretrained weights, a file whose SHA-256 begins with {sha.removeprefix('file ')}"
    return f"SHA-256 {sha}" if len(sha) == 64 else f"pretrained weights, {sha}"


def _write_moment(text: object) -> str:
    try:
        return f"{datetime.fromisoformat(str(text)):%Y-%m-%d %H:%M:%S} UTC"
    except ValueError:  # nothing, or damaged
        return ""


def show_params(run: FinishedRun) -> list:
    """Return every param, those changed from the defaults first."""
    changed, fields = repeat_command.list_changed(run.params), Params.model_fields
    rows = [[key, write_param(key, value), write_param(key, fields[key].default)] for key, value in changed.items()]
    every = {key: write_param(key, value) for key, value in run.params}
    first = page.Table(["key", "this run", "default"], rows, "Changed from the defaults.")
    return [
        first if rows else page.Words("All at their defaults."),
        page.Folded(f"All {len(every)} keys, as they were resolved", [page.Facts(every)]),
    ]


def write_param(key: str, value: object) -> str:
    """Write a param as a params file would, without any place outside the project."""
    value = repeat_command.hide_place(key, value)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def show_command(command: str, names: list[str]) -> list:
    """Return a command and, where it does not make the very runs of these ids, why."""
    blocks: list = [page.Command(command)]
    if command.startswith("clipreid score"):
        return [*blocks, page.Words(page.TEXTS["command of features"])]
    if places := repeat_command.list_places(command):
        blocks.append(page.Words(f"{', '.join(places)}: {page.TEXTS['command with a place']}"))
    elif repeat_command.list_runs(command) != sorted(names):
        blocks.append(page.Words(page.TEXTS["command of another run"], missing=True))
    return blocks


def show_repeat(run: FinishedRun) -> list:
    """Return the command that makes this run."""
    command = repeat_command.repeat_run(run.params)
    return [page.Words("In the project's top folder:"), *show_command(command, [run.name])]


def show_notebooks(run: FinishedRun) -> list:
    """Return links to the executed notebooks and to pages made of them, which are written where they are older."""
    rows: list[list] = []
    lost, folder = [], run.folder
    for path in [path for place in (run.survey, folder) for path in sorted((place / "notebooks").glob("*.ipynb"))]:
        try:
            exported = report_notebooks.export(path, [folder, run.outputs])
        except UserError as error:
            lost.append(page.Words(f"{error}.", missing=True))
            continue
        note = "this run's" if path.is_relative_to(folder) else "shared by all runs on the same data"
        rows.append([page.link_to(exported, folder, path.stem), page.link_to(path, folder, "with its code"), note])
    if not rows and not lost:
        return [page.Words("The executed notebooks are not there.", missing=True)]
    caption = "What the executed notebooks said and showed as pages, and the notebooks themselves."
    return [page.Table(["page", "notebook", "whose"], rows, caption), *lost]
