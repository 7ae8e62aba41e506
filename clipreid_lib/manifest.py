"""Manifests: the table that says, image by image, who trains, who is tested, and what each draw compares."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from clipreid_lib.datasets.contract import leaves_root
from clipreid_lib.errors import UserError
from clipreid_lib.files import write_text

ROLES = ("train", "validation", "test", "distractor", "unpaired", "junk")
COLUMNS = ("dataset", "protocol", "role", "subject", "path", "identity", "aspect")


@dataclass(frozen=True)
class Manifest:
    """One protocol's table: the data set's columns and these.

    =============  ========================================================================================
    ``dataset``    the data set's name, the same in every row
    ``protocol``   the protocol's name, the same in every row
    ``role``       ``train``, ``validation``, ``test``; ``distractor`` (in galleries, matches nobody);
                   ``unpaired`` (of a test person who cannot be query and gallery both) and ``junk`` take no part
    ``identity``   the number to compare; distractors of other aspects and folders carry numbers of their own
    ``subject``    the person, whatever the number to compare
    ``draw_<i>``   ``gallery``, ``query`` or empty, for each draw
    =============  ========================================================================================
    """

    images: pd.DataFrame

    @property
    def dataset(self) -> str:
        """Name of the data set."""
        return self.images["dataset"].iloc[0]

    @property
    def protocol(self) -> str:
        """Name of the protocol."""
        return self.images["protocol"].iloc[0]

    @property
    def train(self) -> pd.DataFrame:
        """Images to learn from."""
        return self._with_role("train")

    @property
    def validation(self) -> pd.DataFrame:
        """Images held out of training: of other people (identity_disjoint), or one per person (published)."""
        return self._with_role("validation")

    @property
    def test(self) -> pd.DataFrame:
        """Test images of the aspect itself, distractors not included."""
        return self._with_role("test")

    @property
    def validates_people(self) -> bool:
        """Whether validation is a retrieval of its own, with people nobody trains on."""
        drawn = self.validation.filter(like="draw_")
        return bool((drawn != "").any(axis=None))

    @property
    def draws(self) -> int:
        """Number of gallery/query draws."""
        return sum(name.startswith("draw_") for name in self.images.columns)

    @property
    def same_camera_rule(self) -> bool:
        """Whether matches from the query's own camera are to be ignored: a data set's own split, several cameras."""
        return self.protocol == "given" and self.test["camera"].nunique() > 1

    def draw(self, index: int, part: str = "test") -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the (query, gallery) tables of one draw; the gallery's own images come before distractors."""
        column = self.images[f"draw_{index}"]
        mine = self.images["role"].isin([part, "distractor"] if part == "test" else [part])
        gallery = self.images[mine & (column == "gallery")]
        gallery = gallery.sort_values("role", key=lambda role: role == "distractor", kind="stable")
        return self.images[mine & (column == "query")], gallery

    @cached_property
    def sha(self) -> str:
        """SHA-256 of the manifest's CSV: equal exactly if every image has the same part in every draw."""
        return hashlib.sha256(self._csv().encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the manifest as CSV, atomically."""
        write_text(path, self._csv())

    @classmethod
    def load(cls, path: str | Path, table: pd.DataFrame | None = None) -> "Manifest":
        """Read a saved manifest and check it.

        Args:
            path: CSV written by :meth:`save`.
            table: the image table it is to be used with, if it shall be held against one.

        Raises:
            UserError: the file is missing, breaks a rule of the protocol, or belongs to another data set.
        """
        try:
            images = pd.read_csv(path, keep_default_na=False, dtype={"dataset": str, "session": str, "name": str})
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as a manifest ({error})") from None
        if "session" in images:
            images["session"] = pd.to_numeric(images["session"], errors="coerce").astype("Int64")
        manifest = cls(images).checked(str(path))
        return manifest if table is None else manifest.fits(table, str(path))

    def fits(self, table: pd.DataFrame, name: str = "manifest") -> "Manifest":
        """Return self after checking that it was made from this data set.

        Raises:
            UserError: it was made from another data set, or names an image that is absent or another person's.
        """
        if table.attrs.get("dataset", self.dataset) != self.dataset:
            raise UserError(f"{name}: is a manifest of {self.dataset}, not of {table.attrs['dataset']}")
        people = self.images["path"].map(table.set_index("path")["identity"])
        for wrong, what in (
            (people.isna(), "is not in the data set"),
            (people != self.images["subject"], "is another person's in the data set"),
        ):
            if wrong.any():
                raise UserError(f"{name}: image {_first(self.images, wrong)} {what}")
        return self

    def checked(self, name: str = "manifest") -> "Manifest":
        """Return self after checking its rules.

        Raises:
            UserError: a column is missing, a path leaves the data root, an image stands twice, an image is used
                against its role, people cross between train and test, a test person lacks query or gallery in a
                draw, or (``cross_session``) query and gallery share a burst. The message names the first image.
        """
        images = self.images
        for column in (*COLUMNS, "draw_0"):
            if column not in images:
                raise UserError(f"{name}: is no manifest; it lacks the column {column!r}")
        for path in images["path"]:
            leaves = leaves_root(str(path))
            if leaves:
                raise UserError(f"{name}: path {path!r} {leaves}")
        drawn = images.filter(like="draw_")
        idle = images["role"].isin(["train", "unpaired", "junk"]) & (drawn != "").any(axis=1)
        for wrong, what in (
            (images["path"].duplicated(), "stands twice"),
            (~images["role"].isin(ROLES), f"has an unknown role; allowed: {', '.join(ROLES)}"),
            (~drawn.isin(["", "query", "gallery"]).all(axis=1), "is neither query nor gallery nor unused in a draw"),
            (idle, "takes no part in tests but is drawn"),
            ((images["role"] == "distractor") & (drawn == "query").any(axis=1), "is a distractor and a query"),
            (self._trained_and_tested(), "shows a person who is both trained on and tested"),
            (self._distractors_that_match(), "is a distractor with a test person's number"),
        ):
            if wrong.any():
                raise UserError(f"{name}: image {_first(images, wrong)} {what}")
        for index in range(self.draws):
            query, gallery = self.draw(index)
            for lack, there in (("query", query), ("gallery", gallery)):
                lacking = ~self.test["identity"].isin(there["identity"])
                if lacking.any():
                    raise UserError(
                        f"{name}: image {_first(self.test, lacking)} shows a person without {lack} in draw {index}"
                    )
            if self.protocol == "cross_session":
                burst = gallery.drop_duplicates("identity").set_index("identity")["session"]
                shared = query["session"] == query["identity"].map(burst)
                if shared.any():
                    raise UserError(f"{name}: image {_first(query, shared)} shares its gallery image's burst")
        return self

    def counts(self) -> pd.DataFrame:
        """Return images and identities per role, and of draw 0's query and gallery: what a paper's table has."""
        query, gallery = self.draw(0)
        parts = {role: self._with_role(role) for role in ("train", "validation", "test", "unpaired")}
        own = gallery["role"] == "test"
        parts |= {"query (draw 0)": query, "gallery (draw 0)": gallery[own]}
        parts["distractor (draw 0)"] = gallery[~own]
        return pd.DataFrame(
            {name: {"images": len(t), "identities": t["identity"].nunique()} for name, t in parts.items()}
        ).T

    def _with_role(self, role: str) -> pd.DataFrame:
        return self.images[self.images["role"] == role]

    def _trained_and_tested(self) -> pd.Series:
        learned = self.images["role"].isin(["train", "validation"])
        tested = self.images["role"].isin(["test", "unpaired"])
        return tested & self.images["subject"].isin(self.images.loc[learned, "subject"])

    def _distractors_that_match(self) -> pd.Series:
        return (self.images["role"] == "distractor") & self.images["identity"].isin(self.test["identity"])

    def _csv(self) -> str:
        return self.images.to_csv(index=False, lineterminator="\n")


def _first(table: pd.DataFrame, wrong: pd.Series) -> str:
    return str(table.loc[wrong, "path"].iloc[0])
