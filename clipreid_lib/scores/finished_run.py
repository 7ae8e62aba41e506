"""A finished run as its folder tells it: params, scores and tables, without its data, its weights or an image.

Every reader of results comes here. What is missing or damaged raises a UserError where its file is read, so that a page
can say which file it is, and so that any other error is a fault of ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import read_json
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.params.run_folder import place_inside, read_params
from clipreid_lib.params.run_params import Params
from clipreid_lib.scores.score_names import ENDS, FLOOR, GROUP_SCORES, SCORES, SHOWN, format_share

CHOICE = "choice.csv"  # in the folder of a run that was chosen from a grid: how its combinations ranked
PHOTOGRAPHS = "photographs.json"  # content hash of every photograph when the run began
HAND_TEST = "is_it_the_hand"  # in metrics.json, as all of these
ACROSS_ASPECTS = "across_aspects"  # in metrics.json: a run of several aspects, each asking each
MAPPINGS = ("protocols", "left_out", "closed_set", "definitions", "seconds", "versions", "pixels", HAND_TEST)
QUERY = {"path": str, "identity": None, "weight": float} | dict.fromkeys(SCORES, float)
GROUP = {"attribute": str, "group": str, "identities": int, "queries": int}
GROUP |= {f"{score}{end}": float for score in GROUP_SCORES for end in ENDS}
OLD = "its scores are means of draws, of an older version; `clipreid run` with its params does notebook 04 again"


@dataclass(frozen=True)
class FinishedRun:
    """A run's folder, its params, and what its ``metrics.json`` holds. Open it with :meth:`open`."""

    folder: Path
    params: Params
    metrics: dict

    @classmethod
    def open(cls, folder: Path) -> "FinishedRun":
        """Open an evaluated run.

        Raises:
            UserError: the folder is no run's, or holds no metrics that can be read.
        """
        params, metrics = read_params(folder), read_metrics(folder) or {}
        protocols = metrics.get("protocols") or {}
        if any("over" not in scores for scores in protocols.values()):
            raise UserError(f"{folder}: {OLD}")
        if not {"rank1", "map", "compared_sha"} <= set(protocols.get(params.protocol, ())):
            how = "is damaged or of an older version" if (folder / "metrics.json").exists() else "is not there"
            raise UserError(f"{folder}: has no scores to report (metrics.json {how}); run notebook 04 with its params")
        return cls(folder.resolve(), params, metrics)

    @property
    def name(self) -> str:
        """The run's folder, which is its id."""
        return self.folder.name

    @property
    def outputs(self) -> Path:
        """The outputs folder that the run lies in."""
        return self.folder.parent.parent

    @property
    def survey(self) -> Path:
        """Folder of notebook 01, shared by all runs on the same data and protocol in one outputs folder."""
        return self.outputs / "data" / self.params.data_id

    @property
    def protocols(self) -> dict[str, dict]:
        """Scores by protocol, the run's own first."""
        mine, found = self.params.protocol, self.metrics["protocols"]
        return {name: found[name] for name in sorted(found, key=lambda name: name != mine)}

    @property
    def own(self) -> dict:
        """Scores under the run's own protocol."""
        return self.metrics["protocols"][self.params.protocol]

    @property
    def logs(self) -> list[Path]:
        """The training logs, in the order of the stages."""
        found = place_inside(self.params, self.folder, self.params.output_dir).glob("*.csv")
        return sorted(found, key=lambda path: (path.stem != "prompts", path.stem))

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest as it was kept, held against nothing."""
        return Manifest.load(self.folder / "manifest.csv")

    @cached_property
    def queries(self) -> pd.DataFrame:
        """What every query scored under the run's own protocol, as ``Evaluation.per_query`` has it.

        Raises:
            UserError: ``per_query.csv`` is not there, cut short, or of other scores than ``metrics.json``.
        """
        table = read_table(self.folder / "per_query.csv", {"protocol": str, **QUERY})
        mine = table.loc[table["protocol"] == self.params.protocol, list(QUERY)].reset_index(drop=True)
        asked = mine.dropna(subset="rank1")
        if not asked["weight"].sum():
            raise UserError("per_query.csv holds no answer under the run's own protocol; it may be cut short")
        means = [np.average(asked[score], weights=asked["weight"]) for score in ("rank1", "map")]
        if not np.allclose(means, [self.own["rank1"], self.own["map"]], atol=1e-6):
            raise UserError("per_query.csv has other answers than metrics.json has scores; it may be cut short")
        return mine

    @property
    def cmc(self) -> np.ndarray:
        """CMC curve under the run's own protocol, (ranks,), at most 20."""
        return np.array(self.own.get("cmc") or [])

    @property
    def hand_test(self) -> dict:
        """What :mod:`clipreid_lib.scores.hand_test` found; empty where scores are older."""
        return self.metrics.get(HAND_TEST) or {}

    @property
    def groups(self) -> pd.DataFrame:
        """Scores of subgroups, as :func:`clipreid_lib.scores.subgroups.score_groups` made them."""
        return read_table(self.folder / "subgroups.csv", GROUP).set_index(["attribute", "group"])

    def read_record(self, name: str) -> dict:
        """Read a small JSON file of the run's folder; empty where it is missing or damaged."""
        return read_json(self.folder / name) or {}

    def describe(self) -> dict[str, str]:
        """Return what a reader of the run's pictures needs to know about it, ready to print."""
        params, own = self.params, self.own
        scores = {name: format_share(own[score]) for score, name in SHOWN.items()}
        floor = (self.metrics.get("pixels") or {}).get("rank1")
        return {
            "data": f"{params.dataset}, {params.aspect}, protocol {params.protocol}",
            "model": f"{params.model}, variant {params.variant}, stage {params.stage}",
            "shown": f"draw 0: {own['queries']} queries, {own['gallery']} gallery images",
            **{f"{name}, {own['over']}": f"{share} %" for name, share in scores.items()},
            f"floor ({FLOOR})": f"rank-1 {format_share(floor)} %",
            "manifest": own["manifest_sha"][:12],
        }


def share_photographs(one: Path, other: Path) -> bool:
    """Whether two run folders were tested on the same pictures, as far as both say what those of one name held."""
    ours, theirs = (read_json(folder / PHOTOGRAPHS) or {} for folder in (one, other))
    return _agree(ours, theirs, one)


def number_photographs(runs: Sequence[FinishedRun]) -> dict[str, int]:
    """Number the sets of photographs that runs were tested on, by folder's name: equal where they are the same."""
    sets: list[list[tuple[dict, Path]]] = []  # in each, what differs and yet agrees
    found = {}
    for run in runs:
        mine = run.read_record(PHOTOGRAPHS)
        fits = (place for place, known in enumerate(sets) if all(_agree(each, mine, folder) for each, folder in known))
        if (number := next(fits, len(sets))) == len(sets):
            sets.append([])
        if mine not in [each for each, _ in sets[number]]:
            sets[number].append((mine, run.folder))
        found[run.name] = number
    return found


def _agree(ours: dict, theirs: dict, folder: Path) -> bool:
    """Whether the photographs that the run ``folder`` was tested on, ``ours``, are ``theirs`` where both are known."""
    differ = {path for path, content in ours.items() if content and theirs.get(path, content) not in (content, "")}
    try:
        return not differ or differ.isdisjoint(Manifest.load(folder / "manifest.csv").in_tests["path"])
    except UserError:  # a damaged manifest does not say what was tested
        return False


def read_metrics(folder: Path) -> dict | None:
    """Read one run's metrics; None where there are none yet, or the file is damaged or older."""
    metrics = read_json(folder / "metrics.json") or {}
    parts = [metrics.get(key) or {} for key in MAPPINGS]
    whole = all(isinstance(part, dict) for part in parts) and all(isinstance(each, dict) for each in parts[0].values())
    return metrics if whole and {"protocols", "compared_sha"} <= set(metrics) else None


def read_table(path: Path, columns: dict) -> pd.DataFrame:
    """Read a CSV file of results; empty cells are NaN, and nothing else is.

    Args:
        path: of the file.
        columns: that it must have, with their types; None takes a column as it comes.

    Raises:
        UserError: it is not there, cut short, or of another version.
    """
    try:
        kinds = {name: kind for name, kind in columns.items() if kind}
        table = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype=kinds)
    except FileNotFoundError:
        raise UserError(f"{path.name} is not there") from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise UserError(f"{path.name} cannot be read ({' '.join(str(error).split())})") from None
    lacking = [name for name in columns if name not in table]
    if lacking:
        raise UserError(f"{path.name} cannot be read (it has no column {', '.join(lacking)})")
    return table


def find_runs(folders: Sequence[Path]) -> list[FinishedRun]:
    """Open those of some folders that hold an evaluated run whose params and metrics can be read."""
    return open_runs(folders)[0]


def open_runs(folders: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """Open those of some folders that hold an evaluated run, and say of every other why it is left out.

    One line is for all that have no scores yet: a grid that is half done has many.
    """
    runs: list[FinishedRun] = []
    left_out: list[str] = []
    waiting: list[str] = []
    for folder in folders:
        try:
            runs.append(FinishedRun.open(folder))
        except UserError as error:
            (left_out if (folder / "metrics.json").exists() else waiting).append(f"left out: {error}")
    if len(waiting) > 1:
        waiting = [f"left out: {len(waiting)} runs that have no scores yet; `clipreid status` says what they lack"]
    return runs, left_out + waiting


def read_answers(runs: Sequence[FinishedRun]) -> tuple[list[FinishedRun], list[str]]:
    """Return the runs whose :attr:`FinishedRun.queries` can be read, and say of every other what is wrong."""
    whole, damaged = [], []
    for run in runs:
        try:
            run.queries  # noqa: B018  read, and then kept
            whole.append(run)
        except UserError as error:
            damaged.append(f"{run.name}: {error}")
    return whole, damaged
