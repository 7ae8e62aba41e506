"""What a batch of runs has come to: the table, published numbers beside it, and the addresses of what to look at."""

import os

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.params.schema import Params, project_path
from clipreid_lib.runs.chain import Failure
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import leaderboard, published
from clipreid_lib.scores.finished_run import find_runs


def tell(params: list[Params], failed: dict[str, Failure], worked: bool, seconds: float) -> None:
    """Print the summary, refresh the leaderboard, and write the reports where anything was done.

    Args:
        params: of all runs that were asked for.
        failed: those that failed, by folder name.
        worked: whether any notebook was executed.
        seconds: it took.
    """
    runs = [Run.open(each) for each in params]
    evaluated = find_runs([run.folder for run in runs])
    table, note = leaderboard.summarise(evaluated)
    print(f"\n{counted(len(runs), 'run')} in {seconds:.0f} s")
    if len(table):
        print(f"\n{table.to_string()}\n\n{note}")
    if (beside := published.set_beside(leaderboard.list_rows(*(run.metrics for run in evaluated)))) is not None:
        print(f"\nBeside published results:\n\n{beside.drop(columns=['source', 'note']).to_string()}")
    for outputs in {project_path(run.params.outputs_root) for run in runs}:
        try:
            leaderboard.refresh_leaderboard(outputs)
        except UserError as error:  # a disk that is full or read-only: what failed is still to be said
            print(f"leaderboard not written: {error}")
    _list("executed notebooks:", [os.path.relpath(path) for run in runs if (path := run.folder / "notebooks").is_dir()])
    pages = [path for run in runs if (path := run.folder / "gallery.html").exists()]
    _list("ranked galleries, to open in a browser:", [page.as_uri() for page in pages])
    if worked and evaluated:
        _report([str(run.folder) for run in evaluated])
    _list("failed:", [f"{name}, {failure.notebook}: {failure.message}" for name, failure in failed.items()])


def _report(folders: list[str]) -> None:
    from clipreid_lib.pages import report  # here: it loads torch, and a batch with nothing to do must end at once

    print("reports:", flush=True)
    try:
        for address in report.write(folders):
            print(f"  {address}", flush=True)
    except UserError as error:  # a full disk: the runs stand, and `clipreid report` makes their pages later
        print(f"  not written: {error}")


def _list(title: str, lines: list[str]) -> None:
    if lines:
        print(title)
        for line in lines:
            print(f"  {line}")
