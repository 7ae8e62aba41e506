"""Protocols: who trains, who is tested, and which test image is gallery or query in each draw.

A protocol turns the image table into a :class:`~clipreid_lib.manifest.Manifest`. Every choice hangs on a SHA-256
of (seed, what is chosen, image path), so it is the same on every platform, in every file order and with every
library version, and two protocols with one seed choose the same gallery image for a person.

``own``            half of the aspect's people train, the others are tested. In each draw one random image per
                   test person is the gallery and all others are queries (one-shot gallery).
``mba``            MBA-Net's: the same split and draws, and distractors in the gallery. For 11k Hands these are the
                   gallery images that the other aspects' test people have in that draw, for HD all images of its
                   second folder; both under shifted identities, so that they never count as a match.
``common``         ``own`` with one split of people for all aspects, so that whoever trains in one aspect is tested
                   in none. (MBA-Net's thresholds differ between aspects: six people train in one and are tested
                   in another.) For work across aspects.
``cross_session``  ``own`` with queries only from other capture bursts than the gallery image's. People with a
                   single burst cannot be searched for; their gallery image stays, as a distractor, so that the
                   gallery is as large as in ``own``.
``given``          the split the data set brings in its ``split`` column, one draw. Market-1501's, where matches
                   from the query's own camera are ignored.

All but ``given`` leave out images with accessories, as MBA-Net does, and test people with a single image, who
cannot be query and gallery both.

Validation takes images out of training. ``published`` takes one random image per person, for comparison with
papers that trained without them: nothing may be chosen by it. ``identity_disjoint`` takes a fifth of the people and
scores them by the protocol's own one-shot retrieval: for choosing epochs and rates. ``none`` takes nothing.
"""

import hashlib

import numpy as np
import pandas as pd

from clipreid_lib.errors import UserError
from clipreid_lib.manifest import Manifest

# MBA-Net's identity thresholds: people up to and including this number train, the rest are tested.
THRESHOLDS = {
    "11k": {"dorsal_r": 1050, "dorsal_l": 1037, "palmar_r": 1051, "palmar_l": 1042},
    "hd": {"dorsal": 447},
}
# The order in which MBA-Net appends the other aspects, each 10,000,000 further up (the first at 11,000,000).
OTHERS = {
    "dorsal_r": ("dorsal_l", "palmar_r", "palmar_l"),
    "dorsal_l": ("dorsal_r", "palmar_r", "palmar_l"),
    "palmar_r": ("dorsal_l", "dorsal_r", "palmar_l"),
    "palmar_l": ("palmar_r", "dorsal_r", "dorsal_l"),
}
FIRST_SHIFT, NEXT_SHIFT = 11_000_000, 10_000_000
PROTOCOLS = ("own", "mba", "common", "cross_session", "given")
VALIDATIONS = ("identity_disjoint", "published", "none")
HELD_APART = 0.2  # share of the training people that identity_disjoint validation takes


def build(
    table: pd.DataFrame,
    protocol: str,
    aspect: str | None = None,
    seed: int = 0,
    validation: str = "identity_disjoint",
    draws: int = 10,
) -> Manifest:
    """Build one protocol's manifest from an image table that holds all aspects.

    Args:
        table: as :func:`clipreid_lib.datasets.load_images` returns it.
        protocol: one of ``own``, ``mba``, ``common``, ``cross_session`` and ``given``.
        aspect: the aspect that trains and is tested; None where the table has one.
        seed: which draws and which validation people.
        validation: ``identity_disjoint``, ``published`` or ``none``.
        draws: how many gallery/query draws (the papers take 10); ``given`` has one.

    Raises:
        UserError: a misspelt argument, an aspect the table lacks, data that the protocol cannot work with, or
            too few people.
    """
    for given, allowed, key in ((protocol, PROTOCOLS, "protocol"), (validation, VALIDATIONS, "validation")):
        if given not in allowed:
            raise UserError(f"{key}: {given!r} is unknown; allowed: {', '.join(allowed)}")
    dataset = table.attrs.get("dataset", "the table")
    there = sorted(table["aspect"].unique())
    if aspect is None and len(there) == 1:
        aspect = there[0]
    if aspect not in there:
        raise UserError(f"aspect: {dataset} holds no image of {aspect!r}; it has {', '.join(there) or 'nothing'}")

    if protocol == "given":
        images, draws = _given(table, aspect, dataset), 1
    else:
        images = _one_shot(table, protocol, aspect, dataset)
    images = _hold_out(images, validation, seed, protocol)
    for role in ("train", "test"):
        if not (images["role"] == role).any():
            what = "train on some and test others" if protocol != "given" else f"have a {role} part"
            raise UserError(f"aspect: {dataset} has too few people of {aspect!r} to {what}")
    for index in range(draws):
        images[f"draw_{index}"] = _one_draw(images, f"{seed}|draw {index}", protocol)
    images.insert(0, "dataset", dataset)
    images.insert(1, "protocol", protocol)
    images.attrs.clear()  # attrs would not survive the CSV, so nothing may come to rely on them
    return Manifest(images).checked()


def _one_shot(table: pd.DataFrame, protocol: str, aspect: str, dataset: str) -> pd.DataFrame:
    bare = table[~table["accessories"]] if "accessories" in table else table
    extra = bare["split"].isin(["distractor", "junk"]) if "split" in bare else pd.Series(False, bare.index)
    extra, bare = bare[extra & (bare["aspect"] == aspect)], bare[~extra]
    mine = bare[bare["aspect"] == aspect]
    if mine.empty:
        lacks = ", ".join(sorted(bare["aspect"].unique())) or "nothing"
        raise UserError(f"aspect: {dataset} holds no usable image of {aspect!r}; it has {lacks}")
    threshold = _half(bare) if protocol == "common" else _threshold(dataset, mine, aspect)
    mine = mine.assign(subject=mine["identity"], role=np.where(mine["identity"] <= threshold, "train", "test"))
    mine.loc[_lone(mine) & (mine["role"] == "test"), "role"] = "unpaired"
    if protocol == "cross_session":
        if mine["session"].isna().any():
            raise UserError(f"protocol: cross_session needs capture sessions; {dataset} knows none for some images")
        mine.loc[_lone(mine, "session") & (mine["role"] == "test"), "role"] = "distractor"
    parts = [mine]
    if protocol == "mba":
        if dataset == "hd":
            parts.append(_shifted(extra, FIRST_SHIFT))
        others = OTHERS.get(aspect) or sorted(set(bare["aspect"]) - {aspect})
        for place, other in enumerate(others):
            theirs = bare[bare["aspect"] == other]
            if len(theirs):
                tested = theirs[theirs["identity"] > _threshold(dataset, theirs, other)]
                parts.append(_shifted(tested, FIRST_SHIFT + NEXT_SHIFT * place))
    return pd.concat(parts).reset_index(drop=True)


def _shifted(images: pd.DataFrame, shift: int) -> pd.DataFrame:
    return images.assign(subject=images["identity"], identity=images["identity"] + shift, role="distractor")


def _given(table: pd.DataFrame, aspect: str, dataset: str) -> pd.DataFrame:
    if "split" not in table:
        raise UserError(f"protocol: given needs a split column, and {dataset} brings none; use own")
    mine = table[(table["aspect"] == aspect) & (table["split"] != "")]
    roles = {"query": "test", "gallery": "test"}
    return mine.assign(subject=mine["identity"], role=mine["split"].replace(roles)).reset_index(drop=True)


def _hold_out(images: pd.DataFrame, validation: str, seed: int, protocol: str) -> pd.DataFrame:
    train = images["role"] == "train"
    if validation == "identity_disjoint":
        people = sorted(images.loc[train, "identity"].unique(), key=lambda p: _ticket(f"{seed}|validation", str(p)))
        held = train & images["identity"].isin(people[: max(1, round(len(people) * HELD_APART))])
        lone = _lone(images[held], "session" if protocol == "cross_session" else None)
        images.loc[held, "role"] = np.where(lone, "train", "validation")  # who cannot be validated may train
    if validation == "published":
        for _, hand in images[train].groupby("identity"):
            if len(hand) > 1:
                images.loc[_chosen(hand, f"{seed}|validation image"), "role"] = "validation"
    return images


def _lone(images: pd.DataFrame, column: str | None = None) -> pd.Series:
    """Whether a row's person has but one image, or one value of a column."""
    people = images.groupby("identity")
    return (people["path"].transform("size") if column is None else people[column].transform("nunique")) == 1


def _threshold(dataset: str, images: pd.DataFrame, aspect: str) -> int:
    # MBA-Net chose its thresholds so that half of an aspect's people train; elsewhere that rule itself serves.
    published = THRESHOLDS.get(dataset, {}).get(aspect)
    return _half(images) if published is None else published


def _half(images: pd.DataFrame) -> int:
    people = np.sort(images["identity"].unique())
    return int(people[(len(people) + 1) // 2 - 1])


def _one_draw(images: pd.DataFrame, name: str, protocol: str) -> np.ndarray:
    drawn = np.full(len(images), "", dtype=object)
    if protocol == "given":
        taken = images["split"].isin(["query", "gallery"])
        drawn[taken] = images.loc[taken, "split"]
    if "split" in images:
        drawn[(images["role"] == "distractor") & (images["split"] == "distractor")] = "gallery"  # all of them
    whole = images["role"].isin(["test", "validation"])  # distractors are drawn for the gallery alone
    trained = set(images.loc[images["role"] == "train", "identity"])
    for (role, identity), hand in images.groupby(["role", "identity"]):
        if role not in ("test", "validation", "distractor") or identity in trained or (drawn[hand.index] != "").any():
            continue
        chosen = _chosen(hand, name)
        if whole[chosen] and protocol == "cross_session":
            drawn[hand.index[hand["session"] != hand.loc[chosen, "session"]]] = "query"
        elif whole[chosen]:
            drawn[hand.index] = "query"
        drawn[chosen] = "gallery"
    return drawn


def _chosen(hand: pd.DataFrame, name: str) -> int:
    return hand.index[int(np.argmin([_ticket(name, path) for path in hand["path"]]))]


def _ticket(name: str, item: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}|{item}".encode()).digest()[:8], "big") >> 1
