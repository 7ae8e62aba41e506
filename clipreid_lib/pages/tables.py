"""Tables of a report: scores by protocol with their intervals, other ways to compare, leaderboard rows."""

import math

import pandas as pd

from clipreid_lib.pages.layout import Table
from clipreid_lib.scores import uncertainty
from clipreid_lib.scores.score_names import SHOWN, in_words

COUNTS = {
    "identities": "people asked for",
    "queries": "queries (draw 0)",
    "gallery": "gallery images (draw 0)",
    "distractors": "distractors among them",
    "draws": "draws",
    "unmatched": "queries without a match",
    "genuine_pairs": "genuine pairs",
    "impostor_pairs": "impostor pairs",
}
NOTHING = "–"


def value(scores: dict, score: str, line: str = "\n") -> str:
    """Write a score in per cent: mean ± deviation over draws, then its 95 % interval; a sentence stays one.

    Args:
        scores: flat record of one protocol, as in ``metrics.json``.
        score: its key.
        line: what stands between the mean and its interval.
    """
    found = scores.get(score)
    if found is None or isinstance(found, str):
        return found or NOTHING
    said = in_words(found, scores.get(f"{score}_std"))
    if f"{score}_low" in scores:
        ends = [math.nan if end is None else end for end in (scores[f"{score}_low"], scores.get(f"{score}_high"))]
        said += line + uncertainty.in_words(ends)
    return said


def by_protocol(protocols: dict[str, dict]) -> Table:
    """Return every score under every protocol, the first being the run's own."""
    names = list(protocols)
    keys = dict.fromkeys(key for scores in protocols.values() for key in scores)
    labels = COUNTS | SHOWN | {"eer": "EER"}
    labels |= {key: f"TPR at FPR {key.rsplit('_', 1)[1]}" for key in keys if key.startswith("tpr_at_fpr_")}
    fnir = [key for key in keys if key.startswith("fnir_at_fpir_") and not key.endswith(("_low", "_high"))]
    labels |= {key: f"FNIR at FPIR {key.rsplit('_', 1)[1]}" for key in fnir}
    rows = []
    for key, label in labels.items():
        if key not in keys:
            continue
        if key in COUNTS:
            rows.append([label, *(_count(protocols[name].get(key)) for name in names)])
        else:
            rows.append([label, *(value(protocols[name], key) for name in names)])
    head = ["", f"{names[0]} (the run's own)", *names[1:]]
    caption = (
        "Per cent: mean ± standard deviation over draws, and below it the 95 % interval over people in brackets. "
        "TPR has no interval; what cannot be measured says why."
    )
    return Table(head, rows, caption)


def other_rows(rows: dict[str, dict], caption: str) -> Table:
    """Return the scores of other embeddings, and of the same compared in other ways."""
    body = [[name, *(value(scores, score) for score in SHOWN)] for name, scores in rows.items()]
    return Table(["", *SHOWN.values()], body, caption)


def plain(table: pd.DataFrame, caption: str = "", index: bool = True) -> Table:
    """Turn a pandas table into a report's, every cell as text; empty for NaN."""
    table = table.reset_index() if index else table
    cells = [["" if pd.isna(cell) else str(cell) for cell in row] for row in table.itertuples(index=False)]
    return Table(["" if str(name) in ("index", "level_0") else str(name) for name in table], cells, caption)


def _count(number: float | None) -> str:
    return NOTHING if number is None else f"{number:,}"
