"""A run: its params, its folder, and which notebooks have finished. ``outputs/README.md`` lists the folder's files."""

import os
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_json, write_yaml
from clipreid_lib.params.contradictions import SCORE
from clipreid_lib.params.read import read_yaml
from clipreid_lib.params.run_folder import place_inside, read_params
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import EXTERNAL, GIVEN, ROOT, project_path
from clipreid_lib.runs import records
from clipreid_lib.runs.machine import choose_device, list_versions, provenance
from clipreid_lib.runs.run_data import RunData

SHOWN = sorted(set().union(*records.SHOWN_BY.values()))  # keys that a finished run may be looked at again with


@dataclass(frozen=True)
class Run(RunData):
    """One run's params, folder and data. Open it with :meth:`open`."""

    @classmethod
    def open(cls, params: Params) -> "Run":
        """Create the run's folder, or find the one an earlier notebook of the same run created.

        Raises:
            UserError: the outputs folder cannot be written; the folder's results are of other photographs, whose names
                are the same; it is for features of another program and has none.
        """
        if params.variant == EXTERNAL and not (params.folder / GIVEN).is_file():
            raise UserError(f"variant: {SCORE}")
        return cls._open(params.resolved(), params.folder)

    @classmethod
    def open_data(cls, params: Params) -> "Run":
        """Open the folder that notebook 01 shares between all runs on the same data and protocol.

        Raises:
            UserError: the outputs folder cannot be written.
        """
        return cls._open(params.data_only().resolved(), params.survey_folder, fixed=False)

    @classmethod
    def _open(cls, params: Params, folder: Path, fixed: bool = True) -> "Run":
        kept = folder / "params.yaml"
        if not os.path.exists(kept):
            write_json(folder / "provenance.json", provenance())
            write_yaml(kept, params.model_dump())
            return cls(params, folder, fixed)
        run, began = cls(params, folder, fixed), read_yaml(kept)
        before = params.model_copy(update={"data_root": began.get("data_root")})
        moved = params.dataset != "demo" and before.data_folder != params.data_folder
        if moved:
            run.move_data(before)
        if moved or any(began.get(key) != getattr(params, key) for key in SHOWN):  # what the id does not hold
            write_yaml(kept, params.model_dump())
        return run

    @classmethod
    def at(cls, folder: Path) -> "Run":
        """Open the run that lives in a folder.

        Raises:
            UserError: the folder is no run's.
        """
        return cls(read_params(folder), folder.resolve())

    @property
    def logs(self) -> Path:
        """Folder of training logs, ``output_dir``."""
        return place_inside(self.params, self.folder, self.params.output_dir)

    @property
    def models(self) -> Path:
        """Folder of checkpoints, ``save_dir``."""
        return place_inside(self.params, self.folder, self.params.save_dir)

    @property
    def prompts(self) -> Path:
        """Checkpoint that stage 2b starts from: ``resume_prompt``, or this run's own."""
        given = self.params.resume_prompt
        return project_path(given) if given else self.models / "prompts.safetensors"

    def facts(self) -> dict:
        """What a checkpoint of this run says about its origin: seed, manifest, every param, library versions."""
        return {
            "seed": self.params.seed,
            "manifest_sha": self.manifest.sha,
            "resize": self.params.resize,
            "params": self.params.model_dump(),
            "versions": list_versions(),
        }

    def figure(self, name: str) -> Path:
        """Path for a figure of this run."""
        return self.folder / "figures" / name

    def is_done(self, notebook: str) -> bool:
        """Whether that notebook finished its work for this run."""
        return records.is_done(self.params, self.folder, notebook)

    def after(self, notebook: str) -> str:
        """Name the notebook that this run needs after another."""
        return next(name for name in self.params.notebooks if name > notebook)

    @property
    def done(self) -> bool:
        """Whether every notebook finished its work for this run."""
        return all(map(self.is_done, self.params.notebooks))

    def finish(self, notebook: str, **facts: object) -> None:
        """Record that a notebook has finished, with more facts; the last thing it does. Resume states go."""
        origin = {"manifest_sha": self.manifest.sha, "photographs": self.trained_on}
        records.write_record(self.params, self.folder, notebook, {**origin, **facts})
        for state in self.models.glob("*.resume.pt"):
            state.unlink()


def banner(run: Run) -> pd.DataFrame:
    """Say what is about to run and on what: the first thing every notebook shows."""
    facts, params = provenance(), run.params
    pd.options.display.max_colwidth = 120  # folder names are longer than pandas shows by default
    lines = {
        "folder": os.path.relpath(run.folder, ROOT),
        "data": f"{params.dataset} {params.aspect}, protocol {params.protocol}",
        "model": f"{params.model}, variant {params.variant}, mode {params.mode}",
        "code": f"git {facts['git']}, Python {facts['python']}, torch {facts['versions']['torch']}",
        "device": f"{choose_device(params.device)}, threads {facts['threads']}",
    }
    return pd.DataFrame({"": lines})
