"""Who it fails: scores by gender, age, skin colour and other columns of the image table, with counts and intervals."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import uncertainty
from clipreid_lib.scores.score_names import format_share, name_attribute

if TYPE_CHECKING:  # slow to import, and reports show groups that were scored before
    from clipreid_lib.scores.evaluation import Evaluation
    from clipreid_lib.scores.verification import Pairs

FEWEST = 10  # people in a group before a rate is printed: with fewer, one person moves it by more than ten points
AGES = ((0, 19, "under 20"), (20, 29, "20 to 29"), (30, 39, "30 to 39"), (40, 49, "40 to 49"), (50, 999, "50 and over"))
NUMBERS = ((1, 5, "up to 5"), (6, 10, "6 to 10"), (11, 15, "11 to 15"), (16, 10**9, "16 and more"))
UNKNOWN = "unknown"
ORDER = {name: place for bands in (AGES, NUMBERS) for place, (_, _, name) in enumerate(bands)} | {UNKNOWN: 99}
ENDS = ("", "_low", "_high")  # a score and its interval


def list_attributes(manifest: Manifest) -> pd.DataFrame:
    """Return what is known of every test image, ready to group by.

    Returns:
        Indexed by ``path``; the columns of ``gender``, ``age``, ``skin colour``, ``nail polish``, ``irregularities``
        that the data set has, and ``images of the person``, as text.
    """
    test = manifest.test.set_index("path")
    known = {}
    for column in ("gender", "skin_color"):
        if column in test:
            known[column] = test[column].astype(str).replace("", UNKNOWN)
    if "age" in test:
        known["age"] = _band(test["age"], AGES)
    for column in ("nail_polish", "irregularities"):
        if column in test:
            known[column] = test[column].map({True: "yes", False: "no"})
    number = test.groupby("identity")["aspect"].transform("size")
    known["images of the person"] = _band(number, NUMBERS)
    return pd.DataFrame(known, index=test.index).rename(columns=name_attribute)


def score_groups(scores: "Evaluation", pairs: "Pairs", manifest: Manifest, seed: int = 0) -> pd.DataFrame:
    """Score every group of queries.

    Rank-1 and mAP are of the group's queries against the whole gallery; EER is of the pairs with an image of the group
    on either side. Intervals are 95 %, by bootstrap over identities.

    Args:
        scores: of every query, under the manifest.
        pairs: what the draws compare.
        manifest: the protocol, whose test images say who belongs to which group.
        seed: of the resampling.

    Returns:
        Indexed by ``attribute`` and ``group``: ``identities queries`` (images that ask, in any draw), and ``rank1 map
        eer`` each with ``_low`` and ``_high``, and ``fmr fnmr`` (false positive and false negative rate, by the names
        biometrics has for them, at the threshold of everybody's EER), shares in [0, 1]; NaN where a group has fewer
        than 10 identities.
    """
    from clipreid_lib.scores import verification

    known, rows = list_attributes(manifest), {}
    queries = scores.per_query.assign(rank1=scores.of("rank1"))
    threshold = verification.verify(pairs).eer_threshold if pairs.both else np.nan
    for attribute in known:
        groups = known.loc[queries["path"], attribute].to_numpy()
        for group in sorted(set(groups), key=lambda name: (ORDER.get(name, 0), name)):
            mine = queries[groups == group]
            row = {"identities": mine["identity"].nunique(), "queries": mine["path"].nunique()}
            if row["identities"] >= FEWEST:
                for score, column in (("rank1", "rank1"), ("map", "average_precision")):
                    ends = uncertainty.interval(mine[column], mine["identity"], seed)
                    row |= {score: mine[column].mean(), f"{score}_low": ends[0], f"{score}_high": ends[1]}
                theirs = pairs.of(set(known.index[known[attribute] == group]))
                if theirs.both:
                    ends = verification.eer_interval(theirs, seed)
                    row |= {"eer": verification.verify(theirs).eer, "eer_low": ends[0], "eer_high": ends[1]}
                    row["fmr"], row["fnmr"] = verification.at_threshold(theirs, threshold)
            rows[attribute, group] = row
    columns = ["identities", "queries"] + [f"{score}{end}" for score in ("rank1", "map", "eer") for end in ENDS]
    columns += ["fmr", "fnmr"]
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)
    table.index = pd.MultiIndex.from_tuples(rows, names=["attribute", "group"])
    return table


def format_groups(table: pd.DataFrame) -> pd.DataFrame:
    """Write :func:`score_groups`'s shares in per cent with their intervals; empty where a group has no rate."""
    written = table[["identities", "queries"]].copy()
    for score, name in (("rank1", "rank-1"), ("map", "mAP"), ("eer", "EER")):
        columns = table[[f"{score}{end}" for end in ENDS]].to_numpy(float)
        written[name] = [format_share(share, ends=ends) for share, *ends in columns]
    for rate, name in (("fmr", "FPR"), ("fnmr", "FNR")):
        written[name] = table[rate].map(format_share)
    return written


def find_hardest(queries: pd.DataFrame, number: int = 10) -> pd.DataFrame:
    """Return the people with the lowest mAP over all draws, worst first, with their rank-1 and number of queries.

    Args:
        queries: ``per_query`` table of an evaluation; queries without a match take no part in rank-1.
        number: people to return, at most.

    Returns:
        Indexed by ``identity``, as the table has it: ``mAP`` and ``rank-1`` in per cent, ``queries`` (images that ask,
        in any draw).
    """
    hit = (queries["first_hit"] == 1).astype(float).where(queries["first_hit"] > 0)
    people = queries.assign(hit=hit).groupby("identity")
    people = people.agg(
        **{"mAP": ("average_precision", "mean"), "rank-1": ("hit", "mean"), "queries": ("path", "nunique")}
    )
    people = people.sort_values(["mAP", "rank-1"], kind="stable").head(number)
    return people.assign(**{name: (100 * people[name]).round(1) for name in ("mAP", "rank-1")})


def _band(numbers: pd.Series, bands: tuple[tuple[int, int, str], ...]) -> pd.Series:
    values = pd.to_numeric(numbers, errors="coerce").astype(float)
    named = pd.Series(UNKNOWN, numbers.index, dtype=object)
    for low, high, name in bands:
        named[values.between(low, high)] = name
    return named
