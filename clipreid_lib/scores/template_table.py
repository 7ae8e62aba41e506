"""What several images of a person gave, as a table. Light, so that reports can use it."""

from typing import Any

import pandas as pd

from clipreid_lib.base.errors import counted
from clipreid_lib.scores.score_names import ENDS, format_score, format_share, name_rates, name_score


def tabulate(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the rows of :func:`~clipreid_lib.scores.templates.measure_all` as a table in per cent.

    A column per number of images holds its scores, or why it has none.
    """
    columns = {}
    for row in rows:
        said = {f"{key} of a draw": f"{row[key]:,}" for key in ("queries", "gallery") if key in row}
        if "people" in row:
            said = {"people (left out)": f"{row['people']} ({row['left_out']})"} | said
        names = {key: name_score(key) for key in ("rank1", "map", "eer") if key in row} | name_rates(row)
        for key, name in names.items():
            said[name] = format_score(row, key)
            if "one" in row:
                said[f"{name}, one image each"] = format_score(row["one"], key)
            if f"{key}_gain" in row:
                gain, *ends = (row[f"{key}_gain{end}"] for end in ENDS)
                said[f"{name}, points gained"] = format_share(gain, ends=ends, sign="+")
        for fusion, scores in row.get("others", {}).items():
            said |= {f"{name_score(key)} by {fusion}": format_score(scores, key) for key in scores}
        columns[_name(row)] = said | ({"no scores": row["lacks"]} if "lacks" in row else {})
    order = dict.fromkeys(key for said in sorted(columns.values(), key=len, reverse=True) for key in said)
    return pd.DataFrame(columns, index=list(order)).fillna("")


def _name(row: dict[str, Any]) -> str:
    """Name a row by its numbers of images."""
    name = counted(row["gallery_images"], "image")
    return name if row["query_images"] == 1 else f"{name}, asked with {row['query_images']}"
