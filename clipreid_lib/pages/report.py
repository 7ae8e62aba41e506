"""Reports: one page per run and one for several, for readers who have neither the code nor the images."""

from collections.abc import Iterator
from pathlib import Path

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_text
from clipreid_lib.pages import report_run, report_runs
from clipreid_lib.params.run_folder import list_run_folders
from clipreid_lib.params.schema import project_path
from clipreid_lib.scores.finished_run import FinishedRun


def write(folders: list[str], outputs: str | None = None) -> Iterator[str]:
    """Write every page that is asked for, and say of each where it lies.

    Args:
        folders: of runs; every evaluated run of the outputs folder where empty.
        outputs: the runs' outputs folder, which the grid's page goes to; where None the one that all runs given lie
            in, else the project's.

    Yields:
        Lines to print: the address of each page written, and a sentence for each run left out.

    Raises:
        UserError: a folder given is no run's or has no scores; no run is given and none is there.
    """
    place = project_path(outputs or "outputs")
    if folders:
        runs = [FinishedRun.open(folder) for folder in dict.fromkeys(Path(folder).resolve() for folder in folders)]
        around = {run.outputs for run in runs}
        place = around.pop() if outputs is None and len(around) == 1 else place
    else:
        runs = []
        for folder in list_run_folders(place):
            try:
                runs.append(FinishedRun.open(folder))
            except UserError as error:
                yield f"left out: {error}"
        if not runs:
            raise UserError(f"{place / 'runs'}: no evaluated run to report; `clipreid run params/demo.yaml` makes some")
    for run in runs:
        yield _write_page(run.folder / "report.html", report_run.lay_out(run))
    if len(runs) > 1:
        path = place / "reports" / f"{report_runs.name_page(runs)}.html"
        yield _write_page(path, report_runs.lay_out(runs, path.parent, place))


def _write_page(path: Path, page: str) -> str:
    write_text(path, page)
    return path.as_uri()
