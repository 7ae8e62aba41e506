"""Who it fails: scores by gender, age, skin colour and other columns of the image table, with counts and intervals."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import uncertainty
from clipreid_lib.scores.score_names import format_share, name_attribute

if TYPE_CHECKING:  # slow to import, and reports show groups that were scored before
    from clipreid_lib.scores.evaluation import Evaluation

FEWEST = 10  # people in a group before a rate is printed: with fewer, one person moves it by more than ten points
AGES = {"under 20": 19, "20 to 29": 29, "30 to 39": 39, "40 to 49": 49, "50 and over": 999}  # the last year of each
NUMBERS = {"up to 5": 5, "6 to 10": 10, "11 to 15": 15, "16 and more": 10**9}
UNKNOWN = "unknown"
ORDER = {name: place for place, name in enumerate([*AGES, *NUMBERS, UNKNOWN])}
ENDS = ("", "_low", "_high")  # a score and its interval


def list_attributes(manifest: Manifest) -> pd.DataFrame:
    """Return what is known of every test image, ready to group by.

    Returns:
        Indexed by ``path``; the columns of ``gender``, ``age``, ``skin colour``, ``nail polish``, ``irregularities``
        that the data set has, and ``images of the person``, as text.
    """
    test = manifest.test.set_index("path")
    known = {name: test[name].astype(str).replace("", UNKNOWN) for name in ("gender", "skin_color") if name in test}
    if "age" in test:
        known["age"] = _band(test["age"], AGES)
    answers = {True: "yes", False: "no"}
    known |= {name: test[name].map(answers) for name in ("nail_polish", "irregularities") if name in test}
    known["images of the person"] = _band(test.groupby("identity")["aspect"].transform("size"), NUMBERS)
    return pd.DataFrame(known, index=test.index).rename(columns=name_attribute)


def score_groups(scores: "Evaluation", pairs: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    """Score every group of queries.

    Rank-1 and mAP are of the group's queries against the whole gallery; EER is of the pairs with an image of the group
    on either side. Intervals are 95 %, by bootstrap over identities.

    Args:
        scores: of every query, under the manifest.
        pairs: what the draws compare, from :func:`~clipreid_lib.scores.verification.list_pairs`.
        manifest: the protocol, whose test images say who belongs to which group.

    Returns:
        Indexed by ``attribute`` and ``group``: ``identities queries`` (images that ask, in any draw), and ``rank1 map
        eer`` each with ``_low`` and ``_high``, and ``fmr fnmr`` (false positive and false negative rate, by the names
        biometrics has for them, at the threshold of everybody's EER), shares in [0, 1]; NaN where a group has fewer
        than 10 identities.
    """
    from clipreid_lib.scores import verification

    known, rows = list_attributes(manifest), {}
    queries = scores.per_query.assign(rank1=scores.of("rank1"), map=scores.of("map"))
    threshold = verification.verify(pairs).eer_threshold if verification.has_both(pairs) else np.nan
    for attribute in known:
        groups = known.loc[queries["path"], attribute].to_numpy()
        for group in sorted(set(groups), key=lambda name: (ORDER.get(name, 0), name)):
            mine = queries[groups == group]
            row = {"identities": mine["identity"].nunique(), "queries": mine["path"].nunique()}
            if row["identities"] >= FEWEST:
                for score in ("rank1", "map"):
                    ends = uncertainty.find_interval(mine[score], mine["identity"])
                    row |= {score: mine[score].mean(), f"{score}_low": ends[0], f"{score}_high": ends[1]}
                paths = known.index[known[attribute] == group]
                theirs = pairs[pairs["query"].isin(paths) | pairs["gallery"].isin(paths)]
                if verification.has_both(theirs):
                    ends = verification.bootstrap_eer(theirs)
                    row |= {"eer": verification.verify(theirs).eer, "eer_low": ends[0], "eer_high": ends[1]}
                    row["fmr"], row["fnmr"] = verification.rate_at(theirs, threshold)
            rows[attribute, group] = row
    columns = ["identities", "queries", *(f"{score}{end}" for score in ("rank1", "map", "eer") for end in ENDS)]
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=[*columns, "fmr", "fnmr"])
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


def find_hardest(queries: pd.DataFrame) -> pd.DataFrame:
    """Return the ten people with the lowest mAP over all draws, worst first, with their rank-1 and number of queries.

    Args:
        queries: ``per_query`` table of an evaluation; queries without a match take no part in rank-1.

    Returns:
        Indexed by ``identity``, as the table has it: ``mAP`` and ``rank-1`` in per cent, ``queries`` (images that ask,
        in any draw).
    """
    hit = (queries["first_hit"] == 1).astype(float).where(queries["first_hit"] > 0)
    columns = {"mAP": ("average_precision", "mean"), "rank-1": ("hit", "mean"), "queries": ("path", "nunique")}
    people = queries.assign(hit=hit).groupby("identity").agg(**columns)
    people = people.sort_values(["mAP", "rank-1"], kind="stable").head(10)
    return people.assign(**{name: (100 * people[name]).round(1) for name in ("mAP", "rank-1")})


def _band(numbers: pd.Series, bands: dict[str, int]) -> pd.Series:
    values = pd.to_numeric(numbers, errors="coerce").astype(float)
    return pd.cut(values, [-1, *bands.values()], labels=list(bands)).astype(object).fillna(UNKNOWN)
