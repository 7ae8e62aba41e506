"""The audit: what a reviewer would ask about a data set and a protocol, answered in one line each."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from clipreid_lib.base.errors import counted
from clipreid_lib.data.contract import Summary
from clipreid_lib.data.inspection import NEAR, find_pairs
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.data.photographs import BLANK

PARTS = ("train", "validation", "test", "query", "gallery")


@dataclass(frozen=True)
class Finding:
    """One thing found."""

    about: str  # what kind of thing, one or two words
    text: str  # a sentence
    wrong: bool = False  # whether it has to be put right; otherwise it is only worth knowing


def format_findings(found: list[Finding]) -> list[str]:
    """Return one line per finding, what is wrong first and a verdict last."""
    ordered = sorted(found, key=lambda finding: not finding.wrong)
    lines = [f"{'WRONG' if finding.wrong else 'note '}  {finding.about}: {finding.text}" for finding in ordered]
    wrong = sum(finding.wrong for finding in found)
    return [*lines, f"NOT OK: {counted(wrong, 'thing')} to put right" if wrong else "OK"]


def count_images(table: pd.DataFrame, summary: Summary) -> pd.DataFrame:
    """Return how many images and people there are, beside how many the complete set has.

    Returns:
        One row per count of the summary (or, where it states none, images, identities and each aspect), columns
        ``found`` and ``expected`` (null where the summary states none).
    """
    expected = summary.counts or dict.fromkeys(("images", "identities", *sorted(table["aspect"].unique())), pd.NA)
    found = {}
    for name in expected:
        parts = table["aspect"] == name
        if "split" in table:
            parts |= table["split"] == name
        found[name] = {"images": len(table), "identities": table["identity"].nunique()}.get(name, int(parts.sum()))
    return pd.DataFrame({"found": found, "expected": expected}).astype("Int64")


def count_parts(manifest: Manifest, aspect: str, summary: Summary) -> pd.DataFrame:
    """Return images and people of each part, beside those published for the aspect under the manifest's protocol.

    Returns:
        One row per part, columns ``images``, ``people`` and, null where unpublished, ``published images`` and
        ``published people``. Query and gallery are draw 0's.
    """
    query, gallery = manifest.draw(0)
    tables = (manifest.train, manifest.validation, manifest.test, query, gallery)
    rows = {part: {"images": len(t), "people": t["identity"].nunique()} for part, t in zip(PARTS, tables, strict=True)}
    published = summary.published.get(aspect, {}) if manifest.protocol == summary.protocol else {}
    for part, row in rows.items():
        row["published images"], row["published people"] = published.get(part, (pd.NA, pd.NA))
    return pd.DataFrame.from_dict(rows, orient="index").astype("Int64")


def format_counts(numbers: pd.DataFrame) -> pd.DataFrame:
    """Return a table of counts ready to print: thousands marked, nothing where nothing is known."""
    known = numbers.dropna(axis="columns", how="all")
    return known.map(lambda number: "" if pd.isna(number) else f"{number:,}")


def judge_images(
    table: pd.DataFrame, seen: pd.DataFrame, summary: Summary, allow_missing: bool = False
) -> list[Finding]:
    """Judge a data set's files.

    Args:
        table: the image table.
        seen: its inspection, from :func:`clipreid_lib.data.inspection.inspect`.
        summary: what the data set should be.
        allow_missing: absent images are known about.
    """
    found = []

    def add(about: str, number: int, what: str, items: Iterable[str]) -> None:
        if number:
            found.append(Finding(about, f"{counted(number, 'image')} {what}: {_list_some(items)}", True))

    missing, named = table.attrs.get("missing", 0), table.attrs.get("named", len(table))
    absent = table.attrs.get("absent", [])
    if missing:
        rest = f" and {missing - len(absent):,} more" if missing > len(absent) else ""
        first = f": {', '.join(absent)}{rest}" if absent else ""
        found.append(Finding("missing", f"{missing:,} of {named:,} images are absent{first}", not allow_missing))
    differ = count_images(table, summary).dropna().query("found != expected")
    if len(differ):
        text = ", ".join(f"{name} {row['found']:,} of {row['expected']:,}" for name, row in differ.iterrows())
        found.append(Finding("counts", f"the set is not complete: {text}", not allow_missing))
    broken, good = seen[seen["problem"] != ""], seen[seen["problem"] == ""]
    wide, high = summary.size or (0, 0)
    odd = good[((good["width"] != wide) | (good["height"] != high)) & bool(summary.size)]
    sizes = [f"{number:,} of {w}x{h}" for (w, h), number in odd.value_counts(["width", "height"]).head(3).items()]
    blank = good[good["contrast"] < BLANK]
    copies = [group["path"].tolist() for _, group in good.groupby("sha256") if len(group) > 1]
    more = sum(map(len, copies)) - len(copies)
    add("unreadable", len(broken), "cannot be read", (f"{row.path} ({row.problem})" for row in broken.itertuples()))
    add("size", len(odd), f"not of {wide}x{high} pixels", sizes)
    add("blank", len(blank), "of one colour", blank["path"])
    add("copies", more, "stored more than once, byte for byte", map(" = ".join, copies))
    return found


def judge_protocol(
    manifest: Manifest, aspect: str, table: pd.DataFrame, seen: pd.DataFrame, summary: Summary
) -> list[Finding]:
    """Judge what a protocol makes of a data set's images; each finding begins with the aspect.

    Args:
        manifest: the protocol's.
        aspect: that it was built for.
        table: the image table it was built from.
        seen: inspection of its images at least.
        summary: what the data set should be.
    """
    found = []

    def add(about: str, text: str, wrong: bool = False) -> None:
        found.append(Finding(about, f"{aspect}: {text}", wrong))

    published = count_parts(manifest, aspect, summary).dropna()
    if manifest.validation.empty or manifest.validates_people:  # training then differs from the papers' by intent
        published = published.drop(["train", "validation"], errors="ignore")
    differ = published.query("images != `published images` or people != `published people`")
    if len(differ) and len(table) >= summary.counts.get("images", 0):  # a partial download cannot have them
        text = ", ".join(
            f"{part} {row['images']} of {row['people']} people, "
            f"published {row['published images']} of {row['published people']}"
            for part, row in differ.iterrows()
        )
        add("protocol", f"images differ from the published counts: {text}", True)

    images = manifest.images
    role = seen["path"].map(images.set_index("path")["role"])
    learned, tested = seen[role.isin(["train", "validation"])], seen[role.isin(["test", "distractor", "unpaired"])]
    near = find_pairs(learned, tested)
    if len(near):
        text = _list_some(f"{row.left} ~ {row.right} ({row.bits} bits)" for row in near.itertuples())
        text = f"{len(near):,} pairs of a training and a test image look alike (at most {NEAR} of 256 bits): {text}"
        add("near-duplicates", text, True)
    trained = manifest.train["identity"].value_counts()
    for part, lone, what in (
        ("test", images.loc[images["role"] == "unpaired", "identity"], ", who take no part"),
        ("training", sorted(trained.index[trained == 1]), " to train on"),
    ):
        if len(lone):
            who = f"{len(lone):,} {part} {'people' if len(lone) != 1 else 'person'}"
            called = dict(zip(images["identity"], images.get("name", images["identity"]), strict=True))
            add("one image", f"{who} with a single image{what}: {_list_some(str(called[each]) for each in lone)}")
    people, distractors = set(manifest.test["subject"]), images[images["role"] == "distractor"]
    mirrored = {"r": "l", "l": "r"}.get(aspect[-1:]) if aspect[-2:-1] == "_" else None
    other_hand = people & set(distractors.loc[distractors["aspect"] == f"{aspect[:-1]}{mirrored}", "subject"])
    if other_hand:
        themselves = len(people & set(distractors["subject"]))
        add(
            "mirrored hands",
            f"{len(other_hand)} of {len(people)} test people have their own other hand among the distractors "
            f"({themselves} have some other view of themselves), counted as a wrong answer; train without flips",
        )
    if both := sorted(set(distractors["subject"]) & set(manifest.train["subject"])):
        add("train and test", f"of the training people, {_list_some(map(str, both))} are distractors in another aspect")
    query, gallery = manifest.draw(0)
    if query["session"].notna().all() and manifest.protocol != "given":
        session = gallery.drop_duplicates("identity").set_index("identity")["session"]
        share = 100 * (query["session"] == query["identity"].map(session)).mean()
        text = f"{share:.0f} % of queries (draw 0) come from their gallery image's session (one capture burst)"
        add("sessions", text)
    return found


def _list_some(items: Iterable[str], most: int = 3) -> str:
    items = list(items)
    return ", ".join(items[:most]) + (f" and {len(items) - most:,} more" if len(items) > most else "")
