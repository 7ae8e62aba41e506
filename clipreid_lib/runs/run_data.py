"""A run's data: the image table, the manifest, and which photographs were replaced since the run began."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.base.files import file_sha, read_json, write_json
from clipreid_lib.data import datasets, protocols
from clipreid_lib.data.content_hashes import hash_images
from clipreid_lib.data.image_store import STORE
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.embedded.synthetic_hands import draw_demo
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import EVALUATION, EXTERNAL, RETRIEVAL, project_path
from clipreid_lib.runs import records


@dataclass(frozen=True)
class RunData:
    """The data that a run with these params, in this folder, stands on."""

    params: Params
    folder: Path
    fixed: bool = True  # whether the data may not change any more, because results stand on it

    @cached_property
    def data_root(self) -> Path:
        """Folder of the data set; the demo hands are drawn into it on first use."""
        demo, outputs = self.params.dataset == "demo", project_path(self.params.outputs_root)
        return draw_demo(self.params, outputs) if demo else self.params.data_folder

    @property
    def photographs(self) -> Photographs:
        """The data set's images as tests see them, through the store where `clipreid data prepare` made one."""
        return Photographs(self.data_root, project_path(self.params.outputs_root) / STORE, self.rule)

    @property
    def rule(self) -> str:
        """How tests resize an image, as for :func:`clipreid_lib.data.photographs.decode`."""
        resize, how = self.params.resize, self.params.test_resize
        return resize if how == "bicubic" else f"{resize}, {how}"

    @cached_property
    def table(self) -> pd.DataFrame:
        """The data set's image table, all aspects. An evaluated run keeps the rows of images that were deleted since.

        Of a run of variant ``external``, ``attrs`` holds ``featureless``: the images that it has no features of.

        Raises:
            UserError: as :func:`clipreid_lib.data.datasets.load_images`; its people are others than those this run was
                tested on.
        """
        tested, allowed = self._tested, self.params.allow_missing
        if tested is None:
            return self._read_images(allowed)
        there = self._read_images(allow_missing=True)
        known = tested.images.drop_duplicates("path")
        same = there.merge(known[["path", "subject"]], on="path")
        gone = known[~known["path"].isin(there["path"])]
        if not allowed and there.attrs["missing"] > len(gone):
            return self._read_images(allow_missing=False)  # refuses: images are gone that have no features
        if (same["identity"] != same["subject"]).any():
            raise UserError(f"{self.data_root}: its people are others than those this run was tested on")
        whole = pd.concat([there, gone.assign(identity=gone["subject"])[list(there)]])
        whole.attrs = there.attrs
        return whole.sort_values("path", ignore_index=True) if len(gone) else there

    def _read_images(self, allow_missing: bool) -> pd.DataFrame:
        params = self.params
        table = datasets.load_images(params.dataset, self.data_root, allow_missing, params.burst_gap)
        if params.variant == EXTERNAL:
            from clipreid_lib.scores import given_features  # here: it loads torch

            known = given_features.list_paths(self.folder, params)
            table.attrs["featureless"] = table["path"][~table["path"].isin(known)].tolist()
        return table

    @cached_property
    def _tested(self) -> Manifest | None:
        """The manifest that the scores were computed with; None while the run is not evaluated."""
        kept = self.folder / "manifest.csv"
        if not self.fixed or not records.is_done(self.params, self.folder, EVALUATION) or not kept.is_file():
            return None
        scored = (read_json(self.folder / "metrics.json") or {}).get("manifest_sha")
        return Manifest.load(kept) if file_sha(kept) == scored else None

    @cached_property
    def manifest(self) -> Manifest:
        """The run's manifest, built from the data on first use and then kept in the run's folder.

        Raises:
            UserError: as :attr:`table` and :func:`clipreid_lib.data.protocols.build`; the data, or a photograph,
                has changed since this run began; the kept file is damaged or of another data set.
        """
        manifest = self._tested or self._keep_manifest()
        self._refuse_changed()
        if self.params.dataset != "demo" and self._tested is None and not self._hashes.exists():
            write_json(self._hashes, hash_images(self.data_root, self.table["path"], self.features))
        return manifest

    def build_manifest(self) -> Manifest:
        """Build the manifest of the data as it is now; nothing is written.

        Raises:
            UserError: as :func:`clipreid_lib.data.datasets.load_images` and :func:`clipreid_lib.data.protocols.build`.
        """
        params = self.params
        build = partial(protocols.build, seed=params.draw_seed, validation=params.validation, draws=params.draws)
        table = self.table if self._tested is None else self._read_images(params.allow_missing)
        return build(table, params.protocol, params.aspect)

    def refuse_other_people(self, now: Manifest) -> None:
        """Refuse results where images have come since, or show another person. Of images that are gone, they stay.

        Raises:
            UserError: the manifest ``now``, of the data as it is, has such images.
        """
        kept = self.folder / "manifest.csv"
        if not kept.is_file() or file_sha(kept) == now.sha:
            return
        before, after = (_name_people(each.images) for each in (Manifest.load(kept), now))
        told, first = "came", after.index.difference(before.index)
        if first.empty:
            both = after.index.intersection(before.index)
            told, first = "show another person", both[(after[both] != before[both]).to_numpy()]
        if len(first):
            hint = "give the run another experiment name, or delete its folder"
            count = counted(len(first), "image")
            raise UserError(f"{self.data_root}: {count} {told} since this run began, the first is {first[0]}; {hint}")

    def _keep_manifest(self) -> Manifest:
        params, manifest = self.params, self.build_manifest()
        kept = self.folder / "manifest.csv"
        if kept.is_file() and file_sha(kept) == manifest.sha:
            return manifest
        done = [record for name in params.notebooks if (record := records.read(self.folder, name))]
        began_with = done[0].get("manifest_sha") if done else manifest.sha
        if kept.exists() and not self.fixed:
            for path in (self.folder / "done").glob("*.json"):
                path.unlink()
        elif kept.exists() and began_with != manifest.sha:
            Manifest.load(kept, self.table)  # may have a more telling answer: damaged, or of another data set
            hint = "give the run another experiment name, or delete its folder"
            raise UserError(f"{kept}: the data at {self.data_root} has changed since this run began; {hint}")
        if not done:
            self._hashes.unlink(missing_ok=True)
        manifest.save(kept)  # anew where it was cut short, and the data is what it was
        return manifest

    def require_data(self, notebook: str) -> None:
        """Refuse to begin a notebook without the data it needs, or on data that has changed since the run began.

        Raises:
            UserError: as :attr:`table` and :attr:`manifest`; an evaluated run needs no images for its pictures alone.
        """
        self._refuse_changed()
        if self._tested is not None and notebook != RETRIEVAL:
            self._read_images(self.params.allow_missing)
        self.manifest  # noqa: B018

    @property
    def features(self) -> Path:
        """Folder of the features, and of the photographs' hashes, that all runs with the same outputs folder share."""
        return project_path(self.params.outputs_root) / "features"

    @property
    def _hashes(self) -> Path:
        """Content hash of every photograph when the run began. The demo has none: its recipe names its folder."""
        return self.folder / "photographs.json"

    @property
    def trained_on(self) -> str:
        """SHA-256 of the content of the photographs that it trains on or chooses by; empty where none was written."""
        began, paths = read_json(self._hashes), self.manifest.learned_from["path"]
        return hashlib.sha256("\n".join(began.get(path, "") for path in paths).encode()).hexdigest() if began else ""

    def list_changed(self) -> list[str]:
        """Return the photographs that were replaced since the run began. None is known of older runs."""
        began = read_json(self._hashes) or {}
        now = hash_images(self.data_root, began, self.features) if began else {}
        return [path for path, content in began.items() if content and now[path] not in (content, "")]

    def list_stale(self, changed: list[str], notebooks: tuple[str, ...]) -> list[str]:
        """Return those of some notebooks that stand on photographs replaced since."""
        trained = set(changed)
        with suppress(UserError):  # a damaged manifest does not say who trains
            trained &= set(Manifest.load(self.folder / "manifest.csv").learned_from["path"])
        return [name for name in notebooks if changed and (trained or name not in records.SHARED)]

    def begin_anew(self, notebooks: tuple[str, ...]) -> list[str]:
        """Forget those of some notebooks that stand on photographs replaced since; return these photographs."""
        if changed := self.list_changed():
            for name in self.list_stale(changed, notebooks):
                records.forget(self.folder, name)
            began = read_json(self._hashes) or {}
            write_json(self._hashes, began | hash_images(self.data_root, changed, self.features))
        return changed

    def _refuse_changed(self) -> None:
        if changed := self.list_changed():
            told = f"{counted(len(changed), 'photograph')} changed since this run, the first is {changed[0]}"
            again = "`clipreid run` with the same params does it again"
            if self.params.variant == EXTERNAL:
                again = "`clipreid score` takes features of the photographs as they are now"
            raise UserError(f"{self.data_root}: {told}; {again}")

    def move_data(self, before: Params) -> None:
        """Take results over from another data root that has, or had, the same photographs.

        Raises:
            UserError: they are others, or nobody wrote down what they were.
        """
        began = read_json(self._hashes) or {}
        if not began and not (self.folder / "manifest.csv").exists():  # nothing was begun there
            return
        if not began or hash_images(self.data_root, began, self.features) != began:
            hint = "give this run another experiment name, or delete that folder"
            raise UserError(
                f"{self.folder}: is of the photographs in {before.data_folder}, not {self.data_root}; {hint}"
            )
        self.refuse_other_people(self.build_manifest())
        records.move(self.params, self.folder, before)

    @property
    def seen_people(self) -> set[int]:
        """The people whose images this run trains on, chooses by or, for tip_adapter, compares with.

        The program that made features of variant ``external`` may have trained on whomever its protocol lets train.
        """
        if self.params.variant == "frozen":
            return set()
        return set(self.manifest.learned_from["subject"])


def _name_people(images: pd.DataFrame) -> pd.Series:
    """Name the person of each path: by the data set's name, where people who come or go move the numbers of others."""
    return images.set_index("path")["name" if "name" in images else "subject"]
