"""What :mod:`.hand_test` found, as a table and in words. Light, for reports have the record alone."""

import pandas as pd

from clipreid_lib.base.errors import counted
from clipreid_lib.scores.comparison import COMPARED, write_p
from clipreid_lib.scores.score_names import format_score, format_share

BACKGROUND = "background alone"  # name of the change that takes the hand out


def names_by_background(record: dict) -> bool:
    """Whether the background alone names people better than chance: the interval of its rank-1 lies above."""
    row = record.get("rows", {}).get(BACKGROUND, {})
    return row.get("rank1_low") is not None and row["rank1_low"] > row["chance"]


def describe_refused(record: dict) -> str:
    """Say how many photographs have no mask to trust, and why."""
    lost, images = sum(record["refused"].values()), counted(record["images"], "photograph")
    share = format_share(lost / record["images"])
    why = "; ".join(f"{reason}: {count}" for reason, count in record["refused"].items())
    return f"No mask to trust for {lost} of {images} ({share} %){f': {why}' if why else ''}."


def tabulate(record: dict) -> pd.DataFrame:
    """Return the scores of a record in per cent [95 % interval], one row per change, differences in points."""
    if "left_out" in record:
        return pd.DataFrame({"": [record["left_out"]]}, index=["left out"])
    table = {}
    for name, row in record["rows"].items():
        if "left_out" in row:
            table[name] = {"images": row["left_out"]}
            continue
        cells = {"images": str(row["images"]), "people": str(row["people"])}
        for score, shown in COMPARED.items():
            ends = [row[f"{score}_difference{end}"] for end in ("_low", "_high")]
            cells[shown] = format_score(row, score)
            cells[f"{shown} unchanged"] = format_share(row[f"{score}_unchanged"])
            cells[f"{shown} difference"] = format_share(row[f"{score}_difference"], ends=ends, sign="+")
            cells[f"p ({shown})"] = write_p(row[f"{score}_p"])
        table[name] = cells | {"chance": format_share(row["chance"])}
    return pd.DataFrame.from_dict(table, orient="index").fillna("")
