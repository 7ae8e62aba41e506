"""Protocols: who trains, who is tested, and which test image is gallery or query in each draw.

A protocol turns the image table into a :class:`~clipreid_lib.data.manifest.Manifest`. Choices depend only on the seed,
the purpose, and the image path or person (by a SHA-256). So they are the same on every platform, in every file order
and with every library version, and two protocols with one seed choose the same gallery image for a person.

``own``            half of the aspect's people train, the others are tested: those up to MBA-Net's thresholds (11k,
                   hd), a random half (folder, whose people may be sorted by something), or the lower half of the
                   numbers. In each draw one random image per test person is the gallery and all others are
                   queries (one-shot gallery).
``mba``            MBA-Net's: the same split and draws, and distractors in the gallery. For 11k Hands these are the
                   gallery images that the other aspects' test people have in that draw (also of those with a single
                   image), for HD all images of its second folder; both under shifted identities, so that they never
                   count as a match.
``common``         ``own`` with one split of people for all aspects, so that whoever trains in one aspect is tested
                   in none. (MBA-Net's thresholds differ between aspects: six people train in one and are tested
                   in another.) For work across aspects, and for one run of several, joined by +: all their images
                   train, and a person's gallery image is of any of them.
``cross_session``  ``own`` with queries only from other capture bursts than the gallery image's. People with a
                   single burst cannot be searched for; their gallery image stays, as a distractor, so that the
                   gallery is as large as in ``own``.
``given``          the split the data set brings in its ``split`` column, one draw. Market-1501's, where matches
                   from the query's own camera are ignored.

All but ``given`` leave out images with accessories, as MBA-Net does, and test people with a single image, who
cannot be query and gallery both.

Validation takes images out of training. ``published`` takes one random image per person, for comparison with
papers that trained without them: nothing may be chosen by it. ``identity_disjoint`` takes a fifth of the people for
a one-shot retrieval among themselves (without distractors; under ``cross_session`` only those with several bursts):
for choosing epochs and rates. ``none`` takes nothing.
"""

import hashlib
from collections.abc import Iterable

import numpy as np
import pandas as pd

from clipreid_lib.base.errors import TooFewPeople, UserError
from clipreid_lib.data.manifest import PROTOCOLS, Manifest
from clipreid_lib.params.contradictions import JOINED
from clipreid_lib.params.schema import allowed_words

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
VALIDATIONS = allowed_words("validation")
HELD_APART = 0.2  # share of the training people that identity_disjoint validation takes


def build(
    table: pd.DataFrame,
    protocol: str,
    aspect: str | None = None,
    seed: int = 0,
    validation: str = "none",
    draws: int = 10,
) -> Manifest:
    """Build one protocol's manifest, checked, from an image table that holds all aspects.

    Args:
        table: as :func:`clipreid_lib.data.datasets.load_images` returns it.
        protocol: as described above; ``given`` has one draw.
        aspect: the aspect that trains and is tested, or under ``common`` several, joined by +; None where the table
            has one.
        seed: which draws and which validation people.
        validation: ``identity_disjoint``, ``published`` or ``none``.
        draws: how many gallery/query draws (the papers take 10).

    Raises:
        UserError: a misspelt argument, an aspect the table lacks, or data that the protocol cannot work with.
        TooFewPeople: not enough people to train, validate and test.
    """
    if draws < 1:
        raise UserError(f"draws: {draws}; give at least 1")
    for given, known, key in ((protocol, PROTOCOLS, "protocol"), (validation, VALIDATIONS, "validation")):
        if given not in known:
            raise UserError(f"{key}: {given!r} is unknown; allowed: {', '.join(known)}")
    dataset = table.attrs.get("dataset", "the table")
    there = sorted(table["aspect"].unique())
    if aspect is None and len(there) == 1:
        aspect = there[0]
    mine = split_aspects(aspect or "", there)
    for each in mine:
        if each not in there:
            asked = each or aspect
            raise UserError(f"aspect: {dataset} holds no image of {asked!r}; it has {', '.join(there) or 'nothing'}")
    if len(mine) > 1 and protocol != "common":
        raise UserError(f"aspect: {aspect}: {JOINED}")
    table = table.sort_values("path")
    if protocol == "given":
        images, draws = _take_split(table, mine[0], dataset), 1
    else:
        images = _assign_roles(table, protocol, mine, dataset, seed)
    parts = set(images["role"])
    images = _hold_out(images, validation, seed, protocol)
    for role in ("train", "test") if validation != "identity_disjoint" else ("train", "validation", "test"):
        if role not in set(images["role"]):
            taken = f"; validation {validation} takes them" if role in parts else ""
            last = THRESHOLDS.get(dataset, {}).get(str(aspect))
            who = f"; MBA-Net trains on people up to number {last} and tests the others" if last else ""
            raise TooFewPeople(f"aspect: {dataset} has too few people of {aspect!r} for a {role} part{taken}{who}")
    for index in range(draws):
        images[f"draw_{index}"] = draw_once(images, name_draw(seed, index), protocol)
    images.insert(0, "dataset", dataset)
    images.insert(1, "protocol", protocol)
    images.attrs.clear()  # attrs would not survive the CSV, so nothing may come to rely on them
    manifest = Manifest(images).check()
    for index in range(draws):
        if manifest.draw(index)[1]["identity"].nunique() < 2:
            who = f"too few people of {aspect!r} for a test: a gallery shows one person alone"
            raise TooFewPeople(f"aspect: {dataset} has {who}, and nobody to tell them from")
    return manifest


def split_aspects(aspect: str, there: Iterable[str]) -> list[str]:
    """Return the aspects that a name joins by +; a name that a data set has itself is one aspect."""
    return [aspect] if aspect in there else aspect.split("+")


def build_crossing(table: pd.DataFrame, asks: str, shown: str, seed: int = 0, draws: int = 10) -> Manifest:
    """Build the test in which images of one aspect ask galleries of another, under the split of ``common``.

    Every test person with images of both aspects takes part, also who has one of each and cannot be tested in either
    alone. A person's gallery image is the one that ``common`` draws for ``shown`` alone.

    Args:
        table: as :func:`build` takes it.
        asks: aspect of the queries.
        shown: aspect of the galleries.
        seed: of the draws.
        draws: how many.

    Raises:
        UserError: as :func:`build`; nobody, or one person alone, has images of both aspects.
    """
    whole = build(table, "common", f"{asks}+{shown}", seed, draws=1).images  # its roles; the draws are made below
    both = whole.groupby("subject")["aspect"].transform("nunique") == 2
    images = whole[(whole["role"] == "train") | (whole["role"] == "test") & both].reset_index(drop=True)
    tested = images["role"] == "test"
    if images.loc[tested, "identity"].nunique() < 2:
        raise TooFewPeople(f"aspect: {whole['dataset'].iloc[0]} has too few people tested in {asks} and {shown}")
    images["side"] = np.where(tested, np.where(images["aspect"] == asks, "query", "gallery"), "")
    for index in range(draws):
        drawn = np.where(images["side"] == "query", "query", "").astype(object)
        for _, hand in images[images["side"] == "gallery"].groupby("identity"):
            drawn[_choose_image(hand, name_draw(seed, index))] = "gallery"
        images[f"draw_{index}"] = drawn
    return Manifest(images).check()


def _assign_roles(table: pd.DataFrame, protocol: str, aspects: list[str], dataset: str, seed: int) -> pd.DataFrame:
    aspect = "+".join(aspects)
    bare = table[~table["accessories"]] if "accessories" in table else table
    extra = bare["split"].isin(["distractor", "junk"]) if "split" in bare else pd.Series(False, bare.index)
    extra, bare = bare[extra & bare["aspect"].isin(aspects)], bare[~extra]
    mine = bare[bare["aspect"].isin(aspects)]
    if mine.empty:
        there = ", ".join(sorted(bare["aspect"].unique())) or "nothing"
        raise UserError(f"aspect: {dataset} holds no usable image of {aspect!r}; it has {there}")
    half = protocol == "common"
    trainers = _choose_half(bare, dataset, seed) if half else _choose_trainers(mine, dataset, aspect, seed)
    mine = mine.assign(subject=mine["identity"], role=np.where(mine["identity"].isin(trainers), "train", "test"))
    mine.loc[_find_lone(mine) & (mine["role"] == "test"), "role"] = "unpaired"
    if protocol == "cross_session":
        if mine["session"].isna().any():
            raise UserError(f"protocol: cross_session needs capture sessions; {dataset} knows none for some images")
        mine.loc[_find_lone(mine, "session") & (mine["role"] == "test"), "role"] = "distractor"
    parts = [mine]
    if protocol == "mba":
        largest = int(table["identity"].max())
        first, step = (FIRST_SHIFT, NEXT_SHIFT) if largest < NEXT_SHIFT else 2 * [10 ** len(str(largest))]
        if dataset == "hd":
            parts.append(_shift_labels(extra, first))
        others = OTHERS.get(aspect) or sorted(set(bare["aspect"]) - {aspect})
        for place, other in enumerate(others):
            theirs = bare[bare["aspect"] == other]
            tested = theirs[~theirs["identity"].isin(_choose_trainers(theirs, dataset, other, seed))]
            parts.append(_shift_labels(tested, first + step * place))
        if not sum(map(len, parts[1:])):
            raise UserError(f"protocol: mba needs distractors, and {dataset} holds none here; use own")
    return pd.concat(parts).reset_index(drop=True)


def _shift_labels(images: pd.DataFrame, shift: int) -> pd.DataFrame:
    return images.assign(subject=images["identity"], identity=images["identity"] + shift, role="distractor")


def _take_split(table: pd.DataFrame, aspect: str, dataset: str) -> pd.DataFrame:
    if "split" not in table:
        raise UserError(f"protocol: given needs a split column, and {dataset} brings none; use own")
    mine = table[(table["aspect"] == aspect) & (table["split"] != "")]
    roles = {"query": "test", "gallery": "test"}
    return mine.assign(subject=mine["identity"], role=mine["split"].replace(roles)).reset_index(drop=True)


def _hold_out(images: pd.DataFrame, validation: str, seed: int, protocol: str) -> pd.DataFrame:
    train = images["role"] == "train"
    if validation == "identity_disjoint":
        people = sorted(images.loc[train, "identity"].unique(), key=lambda p: _hash(f"{seed}|validation", str(p)))
        held = train & images["identity"].isin(people[: max(1, round(len(people) * HELD_APART))])
        lone = _find_lone(images[held], "session" if protocol == "cross_session" else None)
        images.loc[held, "role"] = np.where(lone, "train", "validation")  # who cannot be validated may train
    if validation == "published":
        for _, hand in images[train].groupby("identity"):
            if len(hand) > 1:
                images.loc[_choose_image(hand, f"{seed}|validation image"), "role"] = "validation"
    return images


def _find_lone(images: pd.DataFrame, column: str | None = None) -> pd.Series:
    """Find the rows whose person has but one image, or one value of a column."""
    people = images.groupby("identity")
    return (people["path"].transform("size") if column is None else people[column].transform("nunique")) == 1


def _choose_trainers(images: pd.DataFrame, dataset: str, aspect: str, seed: int) -> set[int]:
    # MBA-Net chose its thresholds so that half of an aspect's people train; elsewhere that rule itself serves.
    published = THRESHOLDS.get(dataset, {}).get(aspect)
    people = set(images["identity"])
    return _choose_half(images, dataset, seed) if published is None else {each for each in people if each <= published}


def _choose_half(images: pd.DataFrame, dataset: str, seed: int) -> set[int]:
    people = sorted(images["identity"].unique())
    if dataset == "folder":
        people.sort(key=lambda person: _hash(f"{seed}|split", str(person)))
    return set(people[: (len(people) + 1) // 2])


def draw_once(images: pd.DataFrame, name: str, protocol: str) -> np.ndarray:
    """Draw a gallery from images that have their roles.

    Args:
        images: columns ``path identity role``, and what the protocol needs; rows are numbered from 0.
        name: of the draw, from :func:`name_draw`.
        protocol: whose rule is meant.

    Returns:
        (N,) ``gallery``, ``query`` or empty.
    """
    drawn = np.full(len(images), "", dtype=object)
    if protocol == "given":
        taken = images["split"].isin(["query", "gallery"])
        drawn[taken] = images.loc[taken, "split"]
    if "split" in images:
        drawn[(images["role"] == "distractor") & (images["split"] == "distractor")] = "gallery"  # all of them
    role, person = images["role"], images.groupby(["role", "identity"]).ngroup().to_numpy()
    asks = role.isin(["test", "validation"]).to_numpy()
    trained = images["identity"].isin(images.loc[role == "train", "identity"])
    held_out = (role == "validation") & trained  # of `published`: not drawn
    free = (asks | (role == "distractor")) & ~held_out & ~np.isin(person, person[drawn != ""])
    rows = np.flatnonzero(free)
    rows = rows[order_images(images["path"].iloc[rows], name)]
    chosen = rows[~pd.Series(person[rows]).duplicated()]
    queries = free & asks  # distractors are drawn for the gallery alone
    if protocol == "cross_session":
        shown = pd.Series(images["session"].iloc[chosen].array, person[chosen])
        queries &= images["session"] != pd.Series(person).map(shown)
    drawn[queries] = "query"
    drawn[chosen] = "gallery"
    return drawn


def name_draw(seed: int, index: int) -> str:
    """Name a draw for :func:`order_images`."""
    return f"{seed}|draw {index}"


def order_images(paths: Iterable[str], name: str) -> np.ndarray:
    """Return the order in which a draw of that name takes images, (N,): the first of a person is its gallery image."""
    return np.argsort([_hash(name, path) for path in paths], kind="stable")


def _choose_image(hand: pd.DataFrame, name: str) -> int:
    return hand.index[order_images(hand["path"], name)[0]]


def _hash(name: str, item: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{name}|{item}".encode()).digest()[:8], "big") >> 1
