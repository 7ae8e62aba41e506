"""`clipreid status`: how far the runs of an outputs folder are, from their records; from any machine that sees them."""

from collections import Counter
from pathlib import Path

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.params.run_folder import list_run_folders, read_params
from clipreid_lib.params.schema import project_path
from clipreid_lib.runs import records, slurm

ORDER = ("failed", "killed", "running", "started", "waiting", "done", "unreadable")  # what needs a person comes first


def states(outputs: Path) -> list[tuple[str, str, str, str]]:
    """Return (run, state, notebook, message) of every run, those that need a person first.

    Raises:
        UserError: the folder holds no run.
    """
    folders = list_run_folders(outputs)
    if not folders:
        raise UserError(f"{outputs / 'runs'}: holds no run; `clipreid run params/demo.yaml` makes some")
    queued, rows = slurm.queue_states(folders), []
    for folder in folders:
        try:
            params = read_params(folder)
            state, notebook, more = records.state(params, folder)
            if state == "done" and (changed := _count_changed(folder)):
                more = f"{counted(changed, 'photograph')} changed since; `clipreid run` does what stands on them again"
            if state != "done" and (gone := params.resume_prompt) and not project_path(gone).is_file():
                more = "; ".join(filter(None, (more, f"resume_prompt is gone, so no result is found: {gone}")))
            if state == "waiting" and (shared := records.at_work(outputs / "data" / params.data_id)):
                state, notebook, more = shared  # of notebook 01
        except UserError as error:
            state, notebook, more = "unreadable", "", str(error)
        if queued.get(folder.name):
            more = "; ".join(filter(None, (f"SLURM: {queued[folder.name]}", more)))
        rows.append((folder.name, state, notebook, more))
    return sorted(rows, key=lambda row: (ORDER.index(row[1]), row[0]))


def _count_changed(folder: Path) -> int:
    """Count the photographs that were replaced since a run began; 0 where the data set is not on this machine."""
    if not (folder / "photographs.json").exists():
        return 0
    from clipreid_lib.runs.run import Run  # here: it loads pandas

    return len(Run.at(folder).list_changed())


def print_status(outputs: Path) -> None:
    """Print one line per run, and how many there are of each state."""
    rows = states(outputs)
    wide = max(len(row[0]) for row in rows)
    for name, state, notebook, more in rows:
        print(f"{state:<8}  {name:<{wide}}  {notebook}{f': {more}' if more else ''}".rstrip())
    counts = Counter(row[1] for row in rows)
    each = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    print(f"\n{counted(len(rows), 'run')}: {each}")
