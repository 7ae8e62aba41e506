"""`clipreid plan`: the notebooks that are left, and those whose results will be copied from another run."""

from clipreid_lib.base.errors import counted
from clipreid_lib.params.run_folder import list_run_folders
from clipreid_lib.params.schema import SURVEY, Params, project_path
from clipreid_lib.runs import records

Row = tuple[str, tuple[str, ...], dict[str, str]]  # run, notebooks to execute, notebook to the run it is copied from


def plan_runs(runs: list[Params]) -> list[Row]:
    """Read every run's records; nothing is started and nothing written."""
    makers: dict[str, str] = {}  # the key of a notebook to the run that has executed it, or will
    for outputs in {project_path(run.outputs_root) for run in runs}:
        for folder in list_run_folders(outputs):
            for name in records.SHARED:
                if (record := records.read(folder, name)) and records.is_current(record, name):
                    makers.setdefault(record.get("key", ""), folder.name)
    rows = []
    for run in runs:
        done = [records.is_done(run, run.folder, name) for name in run.notebooks]
        left = run.notebooks[done.index(False) :] if False in done else ()
        shared = [name for name in left if name in records.SHARED]
        sources = {name: makers.setdefault(records.notebook_key(run, name), run.run_id) for name in shared}
        copied = {name: source for name, source in sources.items() if source != run.run_id}
        rows.append((run.run_id, tuple(name for name in left if name not in copied), copied))
    return rows


def print_plan(runs: list[Params]) -> None:
    """Print a line per data set that notebook 01 has not described and per run, and the counts."""
    data = {run.data_id: run for run in runs if not records.is_done(run.data_only(), run.survey_folder, SURVEY)}
    each = plan_runs(runs)
    rows: list[Row] = [*((name, (SURVEY,), {}) for name in data), *each]
    wide = max(len(name) for name, *_ in rows)
    for run_id, todo, copied in rows:
        said = [", ".join(name[:2] for name in todo) or "done"]
        said += [f"{name[:2]} copied from {source}" for name, source in copied.items()]
        print(f"{run_id:<{wide}}  {'; '.join(said)}")
    print(*list_edited(runs), *_list_changed(runs), sep="\n")
    done = sum(not todo and not copied for _, todo, copied in each)
    left, to_copy = sum(len(todo) for _, todo, _ in rows), sum(len(copied) for *_, copied in rows)
    print(f"{counted(len(runs), 'run')}, {done} done; {counted(left, 'notebook')} to execute, {to_copy} to copy")


def _list_changed(runs: list[Params]) -> list[str]:
    """Return a sentence for each run whose photographs were replaced since it began."""
    if not (begun := [run for run in runs if (run.folder / "photographs.json").exists()]):
        return []
    from clipreid_lib.runs.run import Run  # here: it loads pandas

    counts = {run.run_id: len(Run(run, run.folder).list_changed()) for run in begun}
    again = "changed since; what stands on them will be done again"
    return [f"{name}: {counted(count, 'photograph')} {again}" for name, count in counts.items() if count]


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
