"""What a batch would do: notebooks left and shared, and the time they took where they have been measured."""

import statistics
from dataclasses import dataclass

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.params.schema import ENCODER, NOTEBOOKS, PROMPTS, SURVEY, Params, project_path
from clipreid_lib.runs import records
from clipreid_lib.runs.notebook_keys import notebook_key

SHARED = tuple(records.FIGURES)  # notebooks whose outcome another run can copy
Past = tuple[dict[tuple, list[float]], dict[str, str]]  # as from looked_back


@dataclass(frozen=True)
class Planned:
    """One run, or one data set's survey, and what is left of it.

    Attributes:
        run_id: the folder's name.
        todo: notebooks to execute.
        shared: notebook to the run it is taken from.
        seconds: what the notebooks to execute took elsewhere; None for one that was never measured.
    """

    run_id: str
    todo: tuple[str, ...]
    shared: dict[str, str]
    seconds: list[float | None]


def planned(runs: list[Params], past: Past | None = None) -> list[Planned]:
    """Look at every run's records; nothing is started and nothing written.

    Args:
        runs: of the batch.
        past: what :func:`looked_back` found in their outputs folders; None looks now.
    """
    times, makers = past or looked_back(runs)
    rows = []
    for run in runs:
        done = [records.is_done(run.resolved(), run.folder, name) for name in run.notebooks]
        left = run.notebooks[done.index(False) :] if False in done else ()
        shared = {}
        for name in left:
            if name in SHARED:
                maker = makers.setdefault(notebook_key(run, name), run.run_id)
                if maker != run.run_id:
                    shared[name] = maker
        todo = tuple(name for name in left if name not in shared)
        rows.append(Planned(run.run_id, todo, shared, [_expected(times, run, name) for name in todo]))
    return rows


def surveys(runs: list[Params], past: Past) -> list[Planned]:
    """Return the data sets that notebook 01 has not described yet."""
    left = {run.data_id: run for run in runs if not records.is_done(run.data_only(), run.survey_folder, SURVEY)}
    return [Planned(name, (SURVEY,), {}, [_expected(past[0], run.data_only(), SURVEY)]) for name, run in left.items()]


def tell(runs: list[Params], jobs: int) -> None:
    """Print the plan.

    Args:
        runs: of the batch.
        jobs: runs at work side by side, for the time that is left.
    """
    past = looked_back(runs)
    each = planned(runs, past)
    rows = [*surveys(runs, past), *each]
    wide = max(len(row.run_id) for row in rows)
    for row in rows:
        said = ", ".join(name.split("_")[0] for name in row.todo) or "done"
        taken = "".join(f"; {name.split('_')[0]} from {maker}" for name, maker in row.shared.items())
        print(f"{row.run_id:<{wide}}  {said}{taken}")
    for line in changed(runs):
        print(line)
    everything = [seconds for row in rows for seconds in row.seconds]
    known = [seconds for seconds in everything if seconds is not None]
    done = sum(not row.todo and not row.shared for row in each)
    left = counted(len(everything), "notebook")
    print(f"\n{counted(len(runs), 'run')}, {done} done; {left} to execute", end="")
    if known:
        # Those never measured are taken for an average one; jobs side by side slow one another down somewhat.
        total = sum(known) / len(known) * len(everything) / jobs
        print(f", about {_in_words(total)} with --jobs {jobs} (from {len(known)} like them done before)", end="")
    elif everything:
        print("; how long is unknown: nothing like them was done here yet", end="")
    print()


def changed(runs: list[Params]) -> list[str]:
    """Say which finished notebooks have had their code edited since."""
    return [
        f"{run.run_id}: {name} was edited since it was done; --force {name} does it again"
        for run in runs
        for name in records.edited(run.resolved(), run.folder)
    ]


def looked_back(runs: list[Params]) -> Past:
    """Look once at everything that lies in the outputs folders of runs.

    Returns:
        The seconds of finished notebooks, by what their length depends on most; and which run has already done one that
        others can copy, by the notebook's key.
    """
    times: dict[tuple, list[float]] = {}
    makers: dict[str, str] = {}
    for outputs in {project_path(run.outputs_root) for run in runs}:
        for folder in [*records.run_folders(outputs), *(path.parent for path in outputs.glob("data/*/params.yaml"))]:
            try:
                params = records.params_of(folder)
            except UserError:  # of another version
                continue
            for name in NOTEBOOKS:
                took = (records.read(folder, name) or {}).get("took")
                if took is not None:
                    times.setdefault(_like(params, name), []).append(took)
                if name in SHARED and records.is_done(params, folder, name):
                    makers.setdefault(notebook_key(params, name), folder.name)
    return times, makers


def _expected(times: dict[tuple, list[float]], run: Params, name: str) -> float | None:
    seconds = times.get(_like(run.resolved(), name))
    return statistics.median(seconds) if seconds else None


def _like(params: Params, name: str) -> tuple:
    epochs = {PROMPTS: params.prompt_epochs, ENCODER: params.encoder_epochs}.get(name)
    return name, params.dataset, params.model, params.image_size, params.demo_people, params.device, epochs


def _in_words(seconds: float) -> str:
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"
