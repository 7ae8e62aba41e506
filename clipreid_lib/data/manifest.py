"""Manifests: the table that says, image by image, who trains, who is tested, and what each draw compares."""

import hashlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_text
from clipreid_lib.data.contract import check_paths, read_kept
from clipreid_lib.params.schema import allowed_words

PROTOCOLS = allowed_words("protocol")
ROLES = ("train", "validation", "test", "distractor", "unpaired", "junk")
COLUMNS = ("dataset", "protocol", "role", "subject", "path", "identity", "aspect")
NEEDS = {"cross_session": "session", "given": "camera"}  # protocol -> a column it cannot do without
DRAW = r"^draw_\d+$"


@dataclass(frozen=True)
class Manifest:
    """One protocol's table: the data set's columns and these.

    =============  ========================================================================================
    ``dataset``    the data set's name, the same in every row
    ``protocol``   the protocol's name, the same in every row
    ``role``       ``train``, ``validation``, ``test``; ``distractor`` (in galleries, matches nobody);
                   ``unpaired`` (of a test person who cannot be query and gallery both) and ``junk`` take no part
    ``identity``   the label compared: the person's number, or for the distractors of protocol ``mba`` a number of
                   their own per person and aspect or folder, so that they match nobody
    ``subject``    the person, whatever the label: the image table's ``identity``
    ``draw_<i>``   ``gallery``, ``query`` or empty, for each draw
    ``side``       where some images only ask and others only answer: ``query`` or ``gallery`` of each test image
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
        return self._select("train")

    @property
    def validation(self) -> pd.DataFrame:
        """Images held out of training: of other people (identity_disjoint), or one per person (published)."""
        return self._select("validation")

    @property
    def learned_from(self) -> pd.DataFrame:
        """Images that a training sees: to learn from, and to choose by."""
        return self._select("train", "validation")

    @property
    def test(self) -> pd.DataFrame:
        """Test images of the aspect itself, distractors not included."""
        return self._select("test")

    @property
    def in_tests(self) -> pd.DataFrame:
        """Images that tests may compare: the test images and the distractors."""
        return self._select("test", "distractor")

    @property
    def validates_people(self) -> bool:
        """Whether validation is a retrieval of its own, with people nobody trains on."""
        return bool((self.validation.filter(regex=DRAW) != "").any(axis=None))

    @property
    def draws(self) -> int:
        """Number of gallery/query draws."""
        return self.images.filter(regex=DRAW).shape[1]

    @property
    def same_camera_rule(self) -> bool:
        """Whether matches from the query's own camera are to be ignored: a data set's own split, several cameras."""
        return self.protocol == "given" and self.test["camera"].nunique() > 1

    def draw(self, index: int, part: str = "test") -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the (query, gallery) tables of one draw; the gallery's own images come before distractors.

        Args:
            index: of the draw, from 0.
            part: ``test``, with distractors in the gallery, or ``validation``, without.
        """
        images = self.in_tests if part == "test" else self._select(part)
        column = images[f"draw_{index}"]
        gallery = images[column == "gallery"]
        gallery = gallery.sort_values("role", key=lambda role: role == "distractor", kind="stable")
        return images[column == "query"], gallery

    def pool(self, part: str = "test") -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return the images that draws choose from: of people who are asked for, and of distractors.

        Every one of them counts, also one that no draw happens to show: across sessions, another image of its session
        may be in the gallery each time.

        Args:
            part: ``test``, or ``validation``, which has no distractors.
        """
        return self._select(part), self._select(*(["distractor"] if part == "test" else []))

    @cached_property
    def sha(self) -> str:
        """SHA-256 of the manifest's CSV: equal exactly if every image has the same columns, role and part in draws."""
        return hashlib.sha256(self._csv().encode()).hexdigest()

    @cached_property
    def compared_sha(self) -> str:
        """SHA-256 of what tests compare: equal for runs that answer the same questions, however they trained.

        An image that no draw shows counts as well, for scores over all galleries hold it.
        """
        images = self.in_tests.sort_values("path")
        asked = images[["path", "identity", *images.filter(regex=DRAW)]]
        return hashlib.sha256(asked.to_csv(index=False, lineterminator="\n").encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the manifest as CSV, atomically."""
        write_text(path, self._csv())

    @classmethod
    def load(cls, path: str | Path, table: pd.DataFrame | None = None) -> "Manifest":
        """Read a saved manifest and check it.

        Args:
            path: CSV written by :meth:`save`.
            table: the image table, all aspects, that it is to be used with, if it shall be held against one.

        Raises:
            UserError: the file is missing, breaks a rule of the protocol, is of another data set, or names an image
                that is absent from the table or another person's there.
        """
        try:
            images = read_kept(path)
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: cannot be read as a manifest ({' '.join(str(error).split())})") from None
        manifest = cls(images).check(str(path))
        if table is not None:
            there = table.attrs.get("dataset", manifest.dataset)
            if there != manifest.dataset:
                raise UserError(f"{path}: is a manifest of {manifest.dataset}, not of {there}")
            people = images["path"].map(table.set_index("path")["identity"])
            _refuse(str(path), images, people.isna(), "is not in the data set")
            _refuse(str(path), images, people != images["subject"], "is another person's in the data set")
        return manifest

    def check(self, name: str = "manifest") -> "Manifest":
        """Return self after checking its rules.

        Raises:
            UserError: a rule is broken, as each message says; it names the first image that breaks it.
        """
        images, drawn = self.images, self.images.filter(regex=DRAW)
        for column in (*COLUMNS, *(f"draw_{index}" for index in range(max(1, self.draws)))):
            if column not in images:
                raise UserError(f"{name}: is no manifest; it lacks the column {column!r}")
        if images.empty:
            raise UserError(f"{name}: holds no image")
        for column, allowed in (("dataset", None), ("protocol", PROTOCOLS)):
            values = sorted(images[column].unique())
            if len(values) != 1 or (allowed and values[0] not in allowed):
                raise UserError(f"{name}: column {column!r} must hold one name in all rows, not {', '.join(values)}")
        if NEEDS.get(self.protocol, "path") not in images:
            raise UserError(f"{name}: lacks the column {NEEDS[self.protocol]!r}, which {self.protocol} needs")
        check_paths(images["path"], name)
        distractor, refuse = images["role"] == "distractor", partial(_refuse, name, images)
        refuse(images["path"].duplicated(), "stands twice")
        refuse(~images["role"].isin(ROLES), f"has an unknown role; allowed: {', '.join(ROLES)}")
        refuse(~drawn.isin(["", "query", "gallery"]).all(axis=1), "is neither query nor gallery nor unused in a draw")
        idle = images["role"].isin(["train", "unpaired", "junk"]) & (drawn != "").any(axis=1)
        refuse(idle, "takes no part in tests but is drawn")
        refuse(distractor & (drawn == "query").any(axis=1), "is a distractor and a query")
        crossing = self._find_shared(("train", "validation"), ("test", "unpaired"))
        refuse(crossing, "shows a person both trained on and tested")
        refuse(~distractor & (images["identity"] != images["subject"]), "has another person's number")
        named_alike = distractor & images["identity"].isin(self.test["identity"])
        refuse(named_alike, "is a distractor with a test person's number")
        if self.test.empty:
            raise UserError(f"{name}: holds no test image")
        self._check_draws("test", name)
        if self.validates_people:
            refuse(self._find_shared(("train",), ("validation",)), "shows a person both trained on and validated")
            self._check_draws("validation", name)
        return self

    def _check_draws(self, part: str, name: str) -> None:
        people = self._select(part)
        for index in range(self.draws):
            query, gallery = self.draw(index, part)
            own, there = gallery[gallery["role"] == part], f"in draw {index}"
            _refuse(name, people, ~people["identity"].isin(query["identity"]), f"shows a person without query {there}")
            _refuse(name, people, ~people["identity"].isin(own["identity"]), f"shows a person without gallery {there}")
            if self.protocol != "given" or part == "validation":
                _refuse(name, own, own["identity"].duplicated(), f"is its person's second gallery image {there}")
            if self.protocol == "cross_session":
                burst = query["identity"].map(own.drop_duplicates("identity").set_index("identity")["session"])
                shared = (query["session"] == burst) | query["session"].isna() | burst.isna()
                _refuse(name, query, shared.astype(bool), f"may share its gallery image's burst {there}")
            if part == "test" and self.same_camera_rule:
                pairs = query[["path", "identity", "camera"]].merge(own[["identity", "camera"]], on="identity")
                seen = pairs.loc[pairs["camera_x"] != pairs["camera_y"], "path"]
                _refuse(name, query, ~query["path"].isin(seen), f"has no gallery image by another camera {there}")

    def _select(self, *roles: str) -> pd.DataFrame:
        return self.images[self.images["role"].isin(roles)]

    def _find_shared(self, one: tuple[str, ...], other: tuple[str, ...]) -> pd.Series:
        """Find the rows of the roles ``other`` that show a person of the roles ``one``."""
        return self.images["role"].isin(other) & self.images["subject"].isin(self._select(*one)["subject"])

    def _csv(self) -> str:
        return self.images.to_csv(index=False, lineterminator="\n")


def _refuse(name: str, table: pd.DataFrame, wrong: pd.Series, what: str) -> None:
    if wrong.any():
        raise UserError(f"{name}: image {table.loc[wrong, 'path'].iloc[0]} {what}")
