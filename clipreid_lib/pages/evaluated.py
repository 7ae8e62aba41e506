"""A run as its folder tells it: params, scores and answers, without its data, its weights or an image being there."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import read_json
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.runs.run import Run
from clipreid_lib.scores.evaluation import Evaluation
from clipreid_lib.scores.leaderboard import read_metrics

TOP = 20  # ranks of a CMC curve that are kept
DAMAGED = (
    UserError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
)  # of a missing or damaged file
NEEDED = ["draw", "path", "identity", "first_hit", "average_precision"]


@dataclass(frozen=True)
class Evaluated:
    """A run and what its ``metrics.json`` holds. Open it with :meth:`open`."""

    run: Run
    metrics: dict

    @classmethod
    def open(cls, folder: Path) -> "Evaluated":
        """Open an evaluated run.

        Raises:
            UserError: the folder is no run's, or holds no metrics that can be read.
        """
        run, metrics = Run.at(folder), read_metrics(folder) or {}
        own = metrics.get("protocols")
        own = own.get(run.params.protocol) if isinstance(own, dict) else None
        if not isinstance(own, dict) or not {"rank1", "map", "compared_sha"} <= set(own):
            how = "is damaged or of an older version" if (folder / "metrics.json").exists() else "is not there"
            raise UserError(f"{folder}: has no scores to report (metrics.json {how}); run notebook 04 with its params")
        return cls(run, metrics)

    @property
    def name(self) -> str:
        """The run's folder, which is its id."""
        return self.run.folder.name

    @property
    def protocols(self) -> dict[str, dict]:
        """Scores by protocol, the run's own first."""
        mine, found = self.run.params.protocol, self.metrics["protocols"]
        return {name: found[name] for name in sorted(found, key=lambda name: name != mine)}

    @property
    def own(self) -> dict:
        """Scores under the run's own protocol."""
        return next(iter(self.protocols.values()))

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest as it was kept, held against nothing.

        Raises:
            UserError: it is not there or damaged.
        """
        return Manifest.load(self.run.folder / "manifest.csv")

    @cached_property
    def answers(self) -> Evaluation:
        """What every query found under the run's own protocol; ``per_draw`` has rank1 and map alone.

        Raises:
            UserError: ``per_query.csv`` is not there, cut short, or of other scores than ``metrics.json``.
        """
        name = "per_query.csv"
        try:
            table = pd.read_csv(self.run.folder / name, keep_default_na=False, na_values=[""])
            queries = table.loc[table["protocol"] == self.run.params.protocol, NEEDED].reset_index(drop=True)
            queries = queries.astype({"draw": int, "first_hit": int, "average_precision": float})
        except FileNotFoundError:
            raise UserError(f"{name} is not there") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{name} cannot be read ({' '.join(str(error).split())})") from None
        hits = queries["first_hit"].where(queries["first_hit"] > 0)
        by_draw = queries.assign(rank1=(hits == 1).astype(float).where(hits.notna())).groupby("draw")
        per_draw = by_draw.agg(rank1=("rank1", "mean"), map=("average_precision", "mean"))
        if not all(np.isclose(per_draw[score].mean(), self.own[score], atol=1e-6) for score in ("rank1", "map")):
            raise UserError(f"{name} has other answers than metrics.json has scores; it may be cut short")
        ranks = np.arange(1, min(TOP, self.own["gallery"]) + 1)
        found = hits.groupby(queries["draw"])
        cmc = np.stack([(draw.dropna().to_numpy()[:, None] <= ranks).mean(axis=0) for _, draw in found])
        return Evaluation(per_draw, queries, cmc)

    def record(self, name: str) -> dict:
        """Read a small JSON file of the run's folder; empty where it is missing or damaged."""
        return read_json(self.run.folder / name) or {}


def reason(error: Exception) -> str:
    """Say in a sentence without its full stop what is wrong with a run's files, given one of ``DAMAGED``."""
    said = " ".join(str(error).split()).rstrip(".")
    if isinstance(error, UserError):
        return said
    if isinstance(error, KeyError):
        return f"the run's files lack {said}; they may be of another version"
    return f"a file of the run is missing or damaged ({getattr(error, 'strerror', None) or said})"
