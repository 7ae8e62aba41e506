"""Who it fails: scores by gender, age, skin colour and other columns of the image table, with counts and intervals."""

from typing import TYPE_CHECKING

import pandas as pd

from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import uncertainty
from clipreid_lib.scores.score_names import ENDS, GROUP_SCORES, format_share, name_attribute, name_interval

if TYPE_CHECKING:  # slow to import, and reports show groups that were scored before
    from clipreid_lib.scores.evaluation import Evaluation

FEWEST = 10  # people in a group before a rate is printed: with fewer, one person moves it by more than ten points
AGES = {"under 20": 19, "20 to 29": 29, "30 to 39": 39, "40 to 49": 49, "50 and over": 999}  # the last year of each
NUMBERS = {"up to 5": 5, "6 to 10": 10, "11 to 15": 15, "16 and more": 10**9}
UNKNOWN = "unknown"
ORDER = {name: place for place, name in enumerate([*AGES, *NUMBERS, UNKNOWN])}


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


def score_groups(
    scores: "Evaluation", pairs: pd.DataFrame, manifest: Manifest, thresholds: dict[str, float]
) -> pd.DataFrame:
    """Score every group of test people.

    Rank-1 and mAP are of the group's queries against the whole gallery. EER, FPR and FNR are of the pairs within the
    group: impostors of other groups would dilute what happens inside it. FPR and FNR are at thresholds that everybody
    shares. Intervals are 95 %, over people.

    Args:
        scores: of every query, under the manifest.
        pairs: from :func:`~clipreid_lib.scores.verification.list_pairs`.
        manifest: the protocol, whose test images say who belongs to which group.
        thresholds: that everybody shares, ``Verification.thresholds_at`` of all pairs.

    Returns:
        Indexed by ``attribute`` and ``group``: ``identities queries`` (images that ask), and ``rank1 map eer
        fpr_at_fpr_0.01 fnr_at_fpr_0.01 fpr_at_eer fnr_at_eer``, each with ``_low`` and ``_high``, shares in [0, 1]; NaN
        where a group has fewer than 10 identities or too few pairs.
    """
    known, rows = list_attributes(manifest), {}
    queries = scores.per_query
    for attribute in known:
        groups = known.loc[queries["path"], attribute].to_numpy()
        for group in sorted(set(groups), key=lambda name: (ORDER.get(name, 0), name)):
            mine = queries[groups == group]
            row = {"identities": mine["identity"].nunique(), "queries": len(mine)}
            if row["identities"] >= FEWEST:
                for score in ("rank1", "map"):
                    found = uncertainty.estimate_mean(mine[score], mine["identity"], mine["weight"])
                    row |= name_interval(score, found)
                paths = known.index[known[attribute] == group]
                row |= _score_pairs(pairs[pairs["query"].isin(paths) & pairs["gallery"].isin(paths)], thresholds)
            rows[attribute, group] = row
    columns = ["identities", "queries", *(f"{score}{end}" for score in GROUP_SCORES for end in ENDS)]
    table = pd.DataFrame.from_dict(rows, orient="index").reindex(columns=columns)
    table.index = pd.MultiIndex.from_tuples(rows, names=["attribute", "group"])
    return table


def _score_pairs(pairs: pd.DataFrame, thresholds: dict[str, float]) -> dict[str, float]:
    """Return EER, FPR and FNR of the pairs within a group, at the thresholds by the ends of their names."""
    from clipreid_lib.scores import verification

    row: dict[str, float] = {}
    if not verification.has_both(pairs):
        return row
    verified = verification.verify(pairs)
    if not verified.eer_lacks:
        ends = verification.find_intervals(pairs, verified)["eer"]
        row |= name_interval("eer", (verified.eer, *ends))
    genuine = pairs["genuine"]
    right, wrong = pairs[genuine], pairs[~genuine]
    for place, threshold in thresholds.items():
        missed = uncertainty.estimate_mean(right["score"] < threshold, right["query_subject"], right["weight"])
        people = wrong["query_subject"], wrong["gallery_subject"]
        passed = uncertainty.estimate_pairs(wrong["score"] >= threshold, *people, wrong["weight"])
        row |= name_interval(f"fnr_at_{place}", missed) | name_interval(f"fpr_at_{place}", passed)
    return row


def format_groups(table: pd.DataFrame) -> pd.DataFrame:
    """Write :func:`score_groups`'s shares in per cent with their intervals; empty where a group has no rate."""
    written = table[["identities", "queries"]].rename(columns={"queries": "query images"})
    for score, name in GROUP_SCORES.items():
        columns = table[[f"{score}{end}" for end in ENDS]].to_numpy(float)
        written[name] = [format_share(share, ends=ends) for share, *ends in columns]
    return written


def find_hardest(queries: pd.DataFrame) -> pd.DataFrame:
    """Return the ten people with the lowest mAP, worst first, with their rank-1 and number of queries.

    ``queries`` is the ``per_query`` table of an evaluation; queries without a match take no part.

    Returns:
        Indexed by ``identity``, as the table has it: ``mAP`` and ``rank-1`` in per cent, ``queries`` (images that ask).
    """
    asked = queries.dropna(subset="map").assign(number=1)
    for score in ("map", "rank1"):
        asked[score] *= asked["weight"]
    people = asked.groupby("identity")[["map", "rank1", "weight", "number"]].sum()
    shares = {name: people[score] / people["weight"] for name, score in (("mAP", "map"), ("rank-1", "rank1"))}
    people = pd.DataFrame(shares | {"queries": people["number"]})
    people = people.sort_values(["mAP", "rank-1"], kind="stable").head(10)
    return people.assign(**{name: (100 * people[name]).round(1) for name in ("mAP", "rank-1")})


def _band(numbers: pd.Series, bands: dict[str, int]) -> pd.Series:
    values = pd.to_numeric(numbers, errors="coerce").astype(float)
    return pd.cut(values, [-1, *bands.values()], labels=list(bands)).astype(object).fillna(UNKNOWN)
