"""Protocols: who trains, who is tested, and which test image is gallery or query in each draw.

A protocol turns the image table into a :class:`Manifest`. Every choice hangs on a SHA-256 of (seed, what is
chosen, image path), so it is the same on every platform, in every file order and with every numpy version.

``own``  one random gallery image per test identity, all its others are queries (one-shot gallery).
``mba``  the same, plus distractors: the gallery images that the other three aspects have in that draw, under
         shifted identities so that they never count as a match (MBA-Net's ``gallery_all``).

Both leave out images with accessories, as MBA-Net does.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from clipreid_lib.errors import UserError
from clipreid_lib.files import write_text

# MBA-Net's identity thresholds: ids up to and including this one train, the rest are tested.
THRESHOLDS = {"11k": {"dorsal_r": 1050, "dorsal_l": 1037, "palmar_r": 1051, "palmar_l": 1042}}
# The order in which MBA-Net appends the other aspects, each 10,000,000 further up (the first at 11,000,000).
OTHERS = {
    "dorsal_r": ("dorsal_l", "palmar_r", "palmar_l"),
    "dorsal_l": ("dorsal_r", "palmar_r", "palmar_l"),
    "palmar_r": ("dorsal_l", "dorsal_r", "palmar_l"),
    "palmar_l": ("palmar_r", "dorsal_r", "dorsal_l"),
}
PROTOCOLS = ("own", "mba")
VALIDATIONS = ("none", "identity_disjoint")
HELD_APART = 0.2  # share of the training identities that identity_disjoint validation takes


@dataclass(frozen=True)
class Manifest:
    """One protocol's table: the image columns plus ``subject``, ``role`` and ``draw_0`` ... ``draw_9``.

    ``role`` is ``train``, ``validation``, ``test``, ``distractor`` or ``unpaired`` (a test identity with one
    image can be gallery or query but not both, so it takes no part). ``draw_<i>`` is ``gallery``, ``query``
    or empty. ``identity`` is the number to compare, shifted for distractors; ``subject`` is the person.
    """

    images: pd.DataFrame

    @property
    def train(self) -> pd.DataFrame:
        """Images to learn from."""
        return self._with_role("train")

    @property
    def validation(self) -> pd.DataFrame:
        """Images of people held apart from training, for choosing; empty unless asked for."""
        return self._with_role("validation")

    @property
    def test(self) -> pd.DataFrame:
        """Test images of the aspect itself, distractors not included."""
        return self._with_role("test")

    @property
    def draws(self) -> int:
        """Number of gallery/query draws."""
        return sum(name.startswith("draw_") for name in self.images.columns)

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
    def load(cls, path: str | Path) -> "Manifest":
        """Read a saved manifest and check it.

        Raises:
            UserError: the file is missing or its table breaks a rule of the protocol.
        """
        try:
            images = pd.read_csv(path, keep_default_na=False)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: cannot be read as a manifest ({error})") from None
        return cls(images).checked(str(path))

    def checked(self, name: str = "manifest") -> "Manifest":
        """Return self after checking its rules.

        Raises:
            UserError: an image stands twice, identities cross between train and test, or a test identity
                lacks query or gallery in a draw. The message names the first offender.
        """
        seen = self.images["path"].duplicated()
        if seen.any():
            raise UserError(f"{name}: image {self.images.loc[seen, 'path'].iloc[0]} stands twice")
        tested = set(self.test["identity"])
        for table in (self.train, self.validation):
            both = tested & set(table["identity"])
            if both:
                raise UserError(f"{name}: identity {min(both)} is both trained on and tested")
        for index in range(self.draws):
            query, gallery = self.draw(index)
            lacking = tested ^ (set(query["identity"]) & set(gallery["identity"]))
            if lacking:
                raise UserError(f"{name}: identity {min(lacking)} lacks query or gallery in draw {index}")
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

    def _csv(self) -> str:
        return self.images.to_csv(index=False, lineterminator="\n")


def build(
    table: pd.DataFrame,
    protocol: str,
    aspect: str,
    seed: int = 0,
    validation: str = "identity_disjoint",
    draws: int = 10,
) -> Manifest:
    """Build one protocol's manifest from an image table that holds all aspects.

    Args:
        table: as :func:`clipreid_lib.datasets.load_images` returns it.
        protocol: ``own`` or ``mba``.
        aspect: the aspect that trains and is tested.
        seed: which draws and which validation people.
        validation: ``identity_disjoint`` holds a fifth of the training identities apart, ``none`` no one.
        draws: how many gallery/query draws (the papers take 10).

    Raises:
        UserError: a misspelt argument, an aspect the table lacks, or too few people.
    """
    for given, allowed, key in (
        (protocol, PROTOCOLS, "protocol"),
        (aspect, OTHERS, "aspect"),
        (validation, VALIDATIONS, "validation"),
    ):
        if given not in allowed:
            raise UserError(f"{key}: {given!r} is unknown; allowed: {', '.join(allowed)}")
    dataset = table.attrs.get("dataset", "the table")
    bare = table[~table["accessories"]]
    mine = bare[bare["aspect"] == aspect]
    if mine.empty:
        lacks = ", ".join(sorted(bare["aspect"].unique())) or "nothing"
        raise UserError(f"aspect: {dataset} holds no usable image of {aspect!r}; it has {lacks}")
    threshold = _threshold(dataset, mine, aspect)
    mine = mine.assign(subject=mine["identity"], role=np.where(mine["identity"] <= threshold, "train", "test"))
    single = mine["identity"].map(mine["identity"].value_counts()) == 1
    mine.loc[single & (mine["role"] == "test"), "role"] = "unpaired"
    if validation == "identity_disjoint":
        people = _shuffled(mine.loc[mine["role"] == "train", "identity"].unique(), f"{seed}|validation")
        held = people[: max(1, round(len(people) * HELD_APART))]
        mine.loc[(mine["role"] == "train") & mine["identity"].isin(held), "role"] = "validation"
        mine.loc[single & (mine["role"] == "validation"), "role"] = "train"
    if not (mine["role"] == "test").any() or not (mine["role"] == "train").any():
        raise UserError(f"aspect: {dataset} has too few people of {aspect!r} to train on some and test others")

    parts = [mine]
    if protocol == "mba":
        for place, other in enumerate(OTHERS[aspect]):
            theirs = bare[bare["aspect"] == other]
            if len(theirs):
                tested = theirs[theirs["identity"] > _threshold(dataset, theirs, other)]
                shift = 11_000_000 + 10_000_000 * place
                parts.append(
                    tested.assign(subject=tested["identity"], identity=tested["identity"] + shift, role="distractor")
                )
    images = pd.concat(parts).reset_index(drop=True)
    for index in range(draws):
        images[f"draw_{index}"] = _one_draw(images, f"{seed}|draw {index}")
    images.attrs.clear()  # attrs would not survive the CSV, so nothing may come to rely on them
    return Manifest(images).checked()


def _threshold(dataset: str, images: pd.DataFrame, aspect: str) -> int:
    # MBA-Net chose its thresholds so that half of an aspect's people train; elsewhere that rule itself serves.
    published = THRESHOLDS.get(dataset, {}).get(aspect)
    if published is not None:
        return published
    people = np.sort(images["identity"].unique())
    return int(people[(len(people) + 1) // 2 - 1])


def _one_draw(images: pd.DataFrame, name: str) -> np.ndarray:
    drawn = np.full(len(images), "", dtype=object)
    for role in ("test", "validation", "distractor"):
        part = images[images["role"] == role]
        for _, hand in part.groupby("identity"):
            ticket = [_ticket(name, path) for path in hand["path"]]
            if role != "distractor":
                drawn[hand.index] = "query"
            drawn[hand.index[int(np.argmin(ticket))]] = "gallery"
    return drawn


def _shuffled(people: np.ndarray, name: str) -> list[int]:
    return sorted(people.tolist(), key=lambda person: _ticket(name, str(person)))


def _ticket(name: str, item: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}|{item}".encode()).digest()[:8], "big") >> 1
