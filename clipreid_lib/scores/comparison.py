"""Comparison: two methods on the same queries, as two checkpoints, or over all seeds that both were trained with."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.params.schema import EXTERNAL
from clipreid_lib.scores import uncertainty
from clipreid_lib.scores.finished_run import find_runs, share_photographs
from clipreid_lib.scores.score_names import SHOWN, format_share, name_method

if TYPE_CHECKING:  # slow to import, and reports compare what was evaluated before
    from clipreid_lib.scores.evaluation import Evaluation

COMPARED = {score: SHOWN[score] for score in ("rank1", "map")}


@dataclass(frozen=True)
class Method:
    """What was trained one way: ``per_query`` tables by seed; of a method that trains nothing, any one stands for all.

    Attributes:
        name: of it, ready to print.
        tables: by seed.
        trains: whether a seed makes a difference.
    """

    name: str
    tables: dict[int, pd.DataFrame]
    trains: bool = True


def compare(mine: pd.DataFrame, others: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Compare one checkpoint with others, query by query, by their ``per_query`` tables; ``others`` are by name.

    Returns:
        One row per other: ours minus theirs in points, with 95 % interval over people and p-value (sign flip), for
        rank-1 and mAP.

    Raises:
        UserError: another was asked other queries.
    """
    rows = {}
    for name, theirs in others.items():
        row: dict[str, str] = {}
        for score, (found, p) in estimate(mine, theirs, name).items():
            row |= {COMPARED[score]: _write(found), f"p ({COMPARED[score]})": write_p(p)}
        rows[f"over {name}"] = row
    return pd.DataFrame.from_dict(rows, orient="index")


def estimate(mine: pd.DataFrame, theirs: pd.DataFrame, name: str) -> dict[str, tuple[uncertainty.Difference, float]]:
    """Estimate by how much one ``per_query`` table exceeds another, and the p-value, for rank-1 and mAP.

    Raises:
        UserError: they answer other queries; ``name`` is what the other is called.
    """
    both = _pair(mine, theirs, name)
    return {score: _estimate([both], score) for score in COMPARED}


def compare_rows(scores: "dict[str, Evaluation]", runs: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Compare the first of some evaluations with the others, and with other runs' ``per_query`` tables.

    What is a mean over draws is compared with the first one's mean over the same draws.
    """
    own, *others = scores.items()
    same = {name: each.per_query for name, each in others if each.over == own[1].over}
    drawn = {f"{name} ({each.over})": each.drawn for name, each in others if each.over != own[1].over}
    return pd.concat([compare(own[1].per_query, same | runs), compare(own[1].drawn, drawn)])


def compare_methods(pairs: list[tuple[Method, Method]]) -> pd.DataFrame:
    """Compare methods over people and seeds, the first of each pair minus the second.

    Returns:
        One row per pair: ``people``; ``seeds`` that both have; for rank-1 and mAP the difference in points with its
        95 % interval, ``p``, ``Holm`` (p adjusted for the number of rows), and ``shows`` (the smallest difference that
        a test of so many people and seeds finds with 80 % power). With one seed the interval is about these two
        checkpoints, and p that of the sign-flip test.

    Raises:
        UserError: two methods have no seed in common, or were asked other queries.
    """
    if not pairs:
        return pd.DataFrame()
    joined = []
    for one, other in pairs:
        seeds = [_pair(mine, theirs, other.name) for mine, theirs in share_seeds(one, other)]
        if not seeds:
            raise UserError(f"{one.name} and {other.name}: have no seed in common; train both with the same")
        joined.append(seeds)
    table = pd.DataFrame(index=[f"{one.name} over {other.name}" for one, other in pairs])
    table["people"] = [str(seeds[0].dropna(subset=list(COMPARED))["identity"].nunique()) for seeds in joined]
    table["seeds"] = [str(len(seeds)) for seeds in joined]
    for score, shown in COMPARED.items():
        found = [_estimate(seeds, score) for seeds in joined]
        table[shown] = [_write(difference) for difference, _ in found]
        table[f"p ({shown})"] = [write_p(p) for _, p in found]
        table[f"Holm ({shown})"] = [write_p(p) for p in uncertainty.adjust([p for _, p in found])]
        table[f"shows ({shown})"] = [format_share(difference.shown) for difference, _ in found]
    return table


def _estimate(seeds: list[pd.DataFrame], score: str) -> tuple[uncertainty.Difference, float]:
    """Return the difference of two methods, from their joined tables of each seed, and its p-value."""
    if len(seeds) == 1:
        (both,) = seeds
        return uncertainty.compare(both[f"{score}_theirs"], both[score], both["identity"], both["weight"])
    differences = []
    for both in seeds:
        values = both[score] - both[f"{score}_theirs"]
        sums, counts = uncertainty.sum_by_person(values, both["identity"], both["weight"])
        differences.append(sums / counts)
    found = uncertainty.estimate_difference(np.column_stack(differences), counts)
    return found, found.p


def share_seeds(one: Method, other: Method) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Return both methods' tables for every seed that both were trained with."""
    trained = [set(each.tables) for each in (one, other) if each.trains]
    seeds = sorted(set.intersection(*trained)) if trained else [min(one.tables)]

    def take(method: Method, seed: int) -> pd.DataFrame:
        return method.tables[seed] if method.trains else next(iter(method.tables.values()))

    return [(take(one, seed), take(other, seed)) for seed in seeds]


def find_comparable(folder: Path, compared_sha: str) -> dict[str, pd.DataFrame]:
    """Find evaluated runs beside one that answer the very same questions, however they were trained.

    Args:
        folder: of the run, which is left out.
        compared_sha: of its manifest: what its own protocol compares.

    Returns:
        ``per_query`` tables by a name that says variant, stage and seed, or what features are called; runs with damaged
        files are left out.
    """
    found: dict[str, pd.DataFrame] = {}
    for run in find_runs(sorted(path for path in folder.parent.glob("*") if path != folder)):
        if run.own["compared_sha"] != compared_sha or not share_photographs(run.folder, folder):
            continue
        name = f"{name_method(run.params.variant, run.params.stage)}, seed {run.params.seed}"
        if run.params.variant == EXTERNAL:
            name = f"{EXTERNAL} {run.params.model}"
        with contextlib.suppress(UserError):  # cut short, or not there yet
            queries = run.queries
            found[f"{name}, {run.name[-8:]}" if name in found else name] = queries
    return found


def _pair(mine: pd.DataFrame, theirs: pd.DataFrame, name: str) -> pd.DataFrame:
    both = mine.merge(theirs, on="path", suffixes=("", "_theirs"), how="inner")
    if not len(both) == len(mine) == len(theirs):
        raise UserError(f"{name}: was tested on other queries; compare runs of one manifest")
    return both


def _write(found: uncertainty.Difference) -> str:
    return format_share(found.mean, ends=(found.low, found.high), sign="+")


def write_p(p: float) -> str:
    """Write a p-value as every table does."""
    return f"{p:.4f}" if p >= 0.0001 else "< 0.0001"
