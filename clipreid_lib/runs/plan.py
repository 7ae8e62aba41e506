"""`clipreid plan`: the notebooks that are left, and those whose results will be copied from another run."""

from contextlib import suppress
from typing import TYPE_CHECKING

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.params.run_folder import list_run_folders, read_params
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import SURVEY, project_path
from clipreid_lib.runs import records

if TYPE_CHECKING:
    from clipreid_lib.data.manifest import Manifest

Row = tuple[str, tuple[str, ...], dict[str, str]]  # run, notebooks to execute, notebook to the run it is copied from


def plan_runs(runs: list[Params], stale: dict[str, list[str]] | None = None) -> list[Row]:
    """Read every run's records; nothing is started and nothing written.

    Args:
        runs: to plan.
        stale: by run id, notebooks that stand on photographs that were replaced since.
    """
    makers: dict[str, str] = {}  # the key of a notebook to the run that has executed it, or will
    for outputs in {project_path(run.outputs_root) for run in runs}:
        for folder in list_run_folders(outputs):
            for name in records.SHARED:
                if (record := records.read(folder, name)) and records.is_current(record, name):
                    makers.setdefault(record.get("key", ""), folder.name)
    rows = []
    for run in runs:
        old = (stale or {}).get(run.run_id, ())
        done = [name not in old and records.is_done(run, run.folder, name) for name in run.notebooks]
        left = run.notebooks[done.index(False) :] if False in done else ()
        shared = [name for name in left if name in records.SHARED]
        sources = {name: makers.setdefault(records.notebook_key(run, name), run.run_id) for name in shared}
        copied = {name: source for name, source in sources.items() if source != run.run_id}
        rows.append((run.run_id, tuple(name for name in left if name not in copied), copied))
    return rows


def print_plan(runs: list[Params]) -> None:
    """Print a line per data set that notebook 01 has not described and per run, and the counts."""
    stale: dict[str, list[str]] = {}
    told = [*records.list_outdated(runs), *list_edited(runs), *_list_changed(runs, stale)]
    told += [f"{name}: {why}" for name, why in list_other_people(runs).items()]
    surveys = {run.data_id: run for run in runs}
    data = [
        name
        for name, run in surveys.items()
        if not records.is_done(run.data_only(), run.survey_folder, SURVEY) or name in stale
    ]
    each = plan_runs(runs, stale)
    rows: list[Row] = [*((name, (SURVEY,), {}) for name in data), *each]
    wide = max(len(name) for name, *_ in rows)
    for run_id, todo, copied in rows:
        said = [", ".join(name[:2] for name in todo) or "done"]
        said += [f"{name[:2]} copied from {source}" for name, source in copied.items()]
        print(f"{run_id:<{wide}}  {'; '.join(said)}")
    print(*told, sep="\n")
    done = sum(not todo and not copied for _, todo, copied in each)
    left, to_copy = sum(len(todo) for _, todo, _ in rows), sum(len(copied) for *_, copied in rows)
    print(f"{counted(len(runs), 'run')}, {done} done; {counted(left, 'notebook')} to execute, {to_copy} to copy")


def _list_changed(runs: list[Params], stale: dict[str, list[str]]) -> list[str]:
    """Return a sentence for each run whose photographs were replaced since it began, or are of another data root.

    ``stale`` gains the notebooks that will be done again, by run id and data id.
    """
    if not (begun := [run for run in runs if (run.folder / "photographs.json").exists()]):
        return []
    from clipreid_lib.runs.run import Run  # here: it loads pandas

    told = []
    for params in begun:
        run = Run(params, params.folder)
        if not (changed := run.list_changed()):
            continue
        theirs = params.model_copy(update={"data_root": read_params(params.folder).data_root}).data_folder
        if theirs != params.data_folder:
            hint = "`run` refuses; give it another experiment name"
            told.append(f"{params.run_id}: is of the photographs in {theirs}, not {params.data_folder}; {hint}")
            continue
        stale |= {params.run_id: run.list_stale(changed, params.notebooks), params.data_id: [SURVEY]}
        again = "changed since; what stands on them will be done again"
        told.append(f"{params.run_id}: {counted(len(changed), 'photograph')} {again}")
    return told


def list_other_people(runs: list[Params]) -> dict[str, str]:
    """Say of each finished run, by run id, whose data has images that came since, or that show another person now."""
    finished = [run for run in runs if all(records.is_done(run, run.folder, name) for name in run.notebooks)]
    finished = [run for run in finished if run.dataset != "demo"]  # whose recipe names its folder
    if not finished:
        return {}
    from clipreid_lib.runs.run import Run  # here: it loads pandas

    told: dict[str, str] = {}
    now: dict[str, Manifest | None] = {}
    for params in finished:
        if (name := params.data_id) not in now:
            survey = Run(params.data_only().resolved(), params.survey_folder, fixed=False)
            now[name] = None
            with suppress(UserError):  # the data is not here, and a finished run needs none
                now[name] = survey.build_manifest()
        try:
            if manifest := now[name]:
                Run(params, params.folder).refuse_other_people(manifest)
        except UserError as error:
            told[params.run_id] = str(error)
    return told


def list_edited(runs: list[Params]) -> list[str]:
    """Return a sentence for each notebook whose code was edited after it was done, with the runs that it concerns."""
    found: dict[str, list[str]] = {}
    for run in runs:
        for name in run.notebooks:
            record = records.read(run.folder, name, run)
            if record and not records.is_current(record, name):
                found.setdefault(name, []).append(run.run_id)
    return [
        f"{name} was edited after it was done in {', '.join(ids)}; --force {name} does it again"
        for name, ids in sorted(found.items())
    ]
