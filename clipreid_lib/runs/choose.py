"""`clipreid run --choose`: train a grid, rank its combinations by people nobody trains on, and test the first alone.

Scores of the test people are not there yet when the choice is made, so that nobody can choose by them.
"""

from dataclasses import replace

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_csv
from clipreid_lib.params.run_ids import ONE_VALUE
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import ENCODER, PROMPTS
from clipreid_lib.runs.local import Local
from clipreid_lib.runs.run import Run
from clipreid_lib.scores.finished_run import CHOICE
from clipreid_lib.scores.score_names import SHOWN

SCORES = ("map", "rank1")  # of the validation people, in a training log


def check(runs: list[Params], score: str) -> None:
    """Refuse a grid that cannot be ranked by validation people.

    Raises:
        UserError: another score, a run without such people or without training, combinations with unequal seeds.
    """
    if score not in SCORES:
        known = " or ".join(SCORES)
        raise UserError(
            f"--choose: {score!r} is no score of validation people; use {known} (test scores choose nothing)"
        )
    for run in runs:
        if run.validation != "identity_disjoint":
            raise UserError(
                f"validation: --choose ranks by people nobody trains on; set identity_disjoint, not {run.validation}"
            )
        if not run.trains_encoder:
            raise UserError(f"variant: {run.variant}, mode {run.mode}, trains no image encoder to choose; exclude it")
    seeds = {tuple(sorted(run.seed for run in mine)) for mine in group(runs).values()}
    if len(seeds) > 1:
        raise UserError("seed: --choose compares means over seeds; give every combination the same seeds")
    data = {run.data_id for run in runs}
    if len(data) > 1:
        raise UserError(f"--choose: the grid spans {len(data)} data sets, aspects or protocols; choose for each alone")


def train_and_choose(batch: Local, score: str) -> tuple[Local, dict[str, str]]:
    """Train a grid, print how its combinations rank, and keep that in the folders of the first one's runs.

    Returns:
        The first combination's runs, still to be tested; and the failures, after which nothing is chosen.

    Raises:
        UserError: as :func:`check` and :func:`rank`.
    """
    check(batch.runs, score)
    training = replace(batch, last=ENCODER)
    if failed := training.do():
        return training, failed
    table, chosen = rank(batch.runs, score)
    for run in batch.runs:
        (run.folder / CHOICE).unlink(missing_ok=True)  # of another choice
    for run in chosen:
        write_csv(run.folder / CHOICE, table)
    print(f"\n{table.to_string(index=False, float_format='{:.4f}'.format)}\n\nThe first is tested now.\n", flush=True)
    return replace(batch, runs=chosen, force=batch.force - {PROMPTS, ENCODER}), {}


def group(runs: list[Params]) -> dict[str, list[Params]]:
    """Group runs that differ in their seed alone, in the order in which the grid names them."""
    found: dict[str, list[Params]] = {}
    for run in runs:
        found.setdefault(run.model_copy(update={"seed": 0}).run_id, []).append(run)
    return found


def rank(runs: list[Params], score: str) -> tuple[pd.DataFrame, list[Params]]:
    """Rank the combinations of a grid whose training is finished.

    Args:
        runs: all of them.
        score: one of ``SCORES``.

    Returns:
        One row per combination, best first: the keys in which they differ, ``validation mAP`` or ``validation
        rank-1`` of the last epoch as mean over seeds, its ``deviation`` over them, and ``seeds``; and the first
        combination's runs. Of equal ones the grid's first comes first.

    Raises:
        UserError: a training log has no such score.
    """
    name = f"validation {SHOWN[score]}"
    settings = pd.DataFrame([run.resolved().model_dump() for run in runs], dtype=object)
    differ = [key for key in settings if settings[key].nunique(False) > 1 and key not in {"seed", *ONE_VALUE}]
    rows, groups = [], list(group(runs).values())
    for mine in groups:
        found = pd.Series([_read_score(run, f"validation_{score}") for run in mine])
        facts = {key: getattr(mine[0].resolved(), key) for key in differ}
        rows.append(facts | {name: found.mean(), "deviation": found.std(ddof=1), "seeds": len(found)})
    table = pd.DataFrame(rows).sort_values(name, ascending=False, kind="stable")
    return table.reset_index(drop=True), groups[table.index[0]]


def _read_score(params: Params, column: str) -> float:
    path = Run.open(params).logs / "encoder.csv"
    log = pd.read_csv(path) if path.is_file() else pd.DataFrame()
    if column not in log or pd.isna(log[column].iloc[-1]):
        raise UserError(f"{path}: has no {column}; was {ENCODER} finished?")
    return float(log[column].iloc[-1])
