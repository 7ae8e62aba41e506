"""What a batch would do: the notebooks that are left, and those whose results are copied from another run."""

from clipreid_lib.base.errors import counted
from clipreid_lib.params.schema import SURVEY, Params, project_path
from clipreid_lib.runs import records
from clipreid_lib.runs.notebook_keys import notebook_key

Row = tuple[str, tuple[str, ...], dict[str, str]]  # run, notebooks to execute, notebook to the run it is copied from


def planned(runs: list[Params]) -> list[Row]:
    """Read every run's records; nothing is started and nothing written."""
    makers: dict[tuple[str, str], str] = {}  # outputs folder and key of a shared notebook to the run that executes it
    for outputs in {run.outputs_root for run in runs}:
        for name in records.FIGURES:
            for key, folders in records.finished(project_path(outputs), name).items():
                makers[outputs, key] = folders[0].name
    rows = []
    for run in runs:
        done = [records.is_done(run.resolved(), run.folder, name) for name in run.notebooks]
        left = run.notebooks[done.index(False) :] if False in done else ()
        keys = {name: (run.outputs_root, notebook_key(run, name)) for name in left if name in records.FIGURES}
        shared = {
            name: maker for name, key in keys.items() if (maker := makers.setdefault(key, run.run_id)) != run.run_id
        }
        rows.append((run.run_id, tuple(name for name in left if name not in shared), shared))
    return rows


def print_plan(runs: list[Params]) -> None:
    """Print a line per data set that notebook 01 has not described and per run, and the counts."""
    data = {run.data_id: run for run in runs if not records.is_done(run.data_only(), run.survey_folder, SURVEY)}
    each = planned(runs)
    rows = [*((name, (SURVEY,), {}) for name in data), *each]
    wide = max(len(name) for name, *_ in rows)
    for run_id, todo, shared in rows:
        said = ", ".join(name.split("_")[0] for name in todo) or "done"
        copied = "".join(f"; {name.split('_')[0]} copied from {maker}" for name, maker in shared.items())
        print(f"{run_id:<{wide}}  {said}{copied}")
    for line in edited(runs):
        print(line)
    done = sum(not todo and not shared for _, todo, shared in each)
    left, copies = sum(len(todo) for _, todo, _ in rows), sum(len(shared) for *_, shared in rows)
    print(f"\n{counted(len(runs), 'run')}, {done} done; {counted(left, 'notebook')} to execute, {copies} to copy")


def edited(runs: list[Params]) -> list[str]:
    """Return a sentence for each finished notebook whose code was edited afterwards."""
    return [
        f"{run.run_id}: {name} was edited after it was done; --force {name} does it again"
        for run in runs
        for name in records.edited(run.resolved(), run.folder)
    ]
