"""Crossing: images of one aspect ask galleries of another, as a run of several aspects is tested."""

from itertools import permutations
from typing import TYPE_CHECKING, Any

import pandas as pd

from clipreid_lib.base.errors import UserError
from clipreid_lib.data import protocols
from clipreid_lib.params.run_params import Params
from clipreid_lib.scores.score_names import SHOWN, format_score, name_interval

if TYPE_CHECKING:  # slow to import, and reports tabulate what was measured before
    from clipreid_lib.scores.features import Embeddings

SCORES = ("rank1", "map")


def cross(embeddings: "Embeddings", table: pd.DataFrame, params: Params) -> list[dict[str, Any]]:
    """Test embeddings across the aspects of a run, each asking each other one.

    Args:
        embeddings: of at least all test images of the aspects.
        table: the data set's image table.
        params: of the run: its aspects, and the seed and number of the draws.

    Returns:
        One row per pair: ``asks``, the queries' aspect; ``shown``, the galleries'; ``identities``; ``rank1`` and
        ``map`` with their intervals over people; or why there are none, in place of both. None for a run of one aspect.
    """
    from clipreid_lib.scores.evaluation import evaluate

    rows = []
    for asks, shown in permutations(protocols.split_aspects(params.aspect, set(table["aspect"])), 2):
        row: dict[str, Any] = {"asks": asks, "shown": shown}
        try:
            manifest = protocols.build_crossing(table, asks, shown, params.draw_seed, params.draws)
            scores = evaluate(embeddings, manifest)
        except UserError as error:  # too few people are in both, or an image has no features
            rows.append(row | {"identities": 0} | dict.fromkeys(SCORES, str(error)))
            continue
        row["identities"] = int(manifest.test["identity"].nunique())
        found, ends = scores.summary(SCORES), scores.intervals(SCORES)
        for score in SCORES:
            row |= name_interval(score, (found[score], *ends[score]))
        rows.append(row)
    return rows


def tabulate(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return rank-1 and mAP in per cent [interval]: a row per aspect that asks, a column per aspect of the gallery."""
    cells: dict[str, dict[str, str]] = {}
    for each in SCORES:
        for row in rows:
            asked = cells.setdefault(f"{SHOWN[each]}, {row['asks']} asks", {})
            asked[f"gallery of {row['shown']}"] = format_score(row, each)
    return pd.DataFrame.from_dict(cells or {"": {"": "the run has one aspect"}}, orient="index")
