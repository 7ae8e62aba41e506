"""Ranked galleries as one self-contained web page: every query of a draw, to filter, sort, search and step through."""

import base64
import json
from pathlib import Path
from typing import Any

import pandas as pd

from clipreid_lib.base.files import write_text
from clipreid_lib.pages import choices
from clipreid_lib.pages.ranking import Ranking, has_name, name_aspect
from clipreid_lib.pages.thumbnails import open_small, to_jpeg
from clipreid_lib.scores.score_names import name_attribute

THUMB = 110  # px, longest side of the page's previews: 2 to 4 KB each, and all there is for the large view
MOST = 20  # gallery images per query that the page holds, of which the reader chooses how many to see


def write(
    ranking: Ranking, root: str | Path, target: Path, *, title: str, top: int = 10, facts: dict[str, str] | None = None
) -> Path:
    """Write all queries as one HTML file that needs no network, to filter, sort, search and step through.

    Args:
        ranking: the draw to show.
        root: folder that the tables' paths are relative to.
        target: file to write, atomically; its folder is made where missing.
        title: heading of the page.
        top: gallery images per query when the page opens. The reader can raise it to ``MOST``; every image among some
            query's first ``MOST`` is in the page, 2 to 4 KB each.
        facts: rows of the table above the pictures, such as run, protocol, rank-1 and mAP.

    Returns:
        The path written.
    """
    top, most = (min(shown, len(ranking.gallery)) for shown in (top, max(top, MOST)))
    data: dict[str, Any] = {"title": title, "facts": [*(facts or {}).items()], "top": top, "most": most}
    data |= _list_contents(ranking, most)
    images, absent = {}, {}  # path to JPEG in base64, path to why there is none
    for path in dict.fromkeys(entry["path"] for entry in data["queries"] + data["gallery"]):
        image = open_small(Path(root) / path, THUMB)
        if isinstance(image, str):
            absent[path] = image
        else:
            images[path] = base64.b64encode(to_jpeg(image)).decode()
    # The block sits inside a script element. Without these three signs nothing in it can end that element or
    # open a comment; the reader's JSON parser turns the escapes back into the same text.
    block = json.dumps(data | {"images": images, "absent": absent}, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        block = block.replace(sign, f"\\u{ord(sign):04x}")
    template = Path(__file__).with_name("gallery_page.html").read_text(encoding="utf-8")
    write_text(target, template.replace("__DATA__", block))
    return target


def _list_contents(ranking: Ranking, most: int) -> dict[str, list]:
    """Return what the page tells of a ranking, small enough for thousands of queries.

    Returns:
        ``queries``, hardest first, each with ``tiles``: three whole numbers per gallery image, best first, namely
        its place in ``gallery``, its score in thousandths, and twice its place in ``notes``, plus 1 where it is
        right. ``late`` counts the true matches beyond rank ``most``; where there are any, the first of them is the
        last tile, and ``rank`` is its rank. ``gallery`` holds the images that some tile shows. ``groups`` are what
        queries can be chosen by, as (name, values), and ``groups`` of a query the places of its own values.
    """
    precision, first = ranking.average_precision(), ranking.first_hit()
    words = choices.list_groups(ranking)
    groups = [(name_attribute(column), sorted(set(values))) for column, values in words.items()]
    places: dict[int, int] = {}  # gallery position -> its place in the page's own table
    notes, queries = {"": 0}, []
    for q in ranking.hardest(len(ranking.query)):
        found, late = ranking.row(q, most)
        query: dict[str, Any] = _describe(ranking.query.iloc[q])
        query |= {"ap": round(float(precision[q]), 6), "first": int(first[q]), "late": len(late)}
        query |= {"rank": late[0].rank} if late else {}
        query["groups"] = [known.index(each[q]) for (_, known), each in zip(groups, words.values(), strict=True)]
        query["tiles"] = []
        for each in found + late[:1]:
            place, note = places.setdefault(each.position, len(places)), notes.setdefault(each.note, len(notes))
            query["tiles"] += [place, round(1000 * each.score), 2 * note + bool(each.right)]
        queries.append(query)
    gallery = [_describe(ranking.gallery.iloc[position]) for position in places]
    return {"queries": queries, "gallery": gallery, "notes": list(notes), "groups": [list(each) for each in groups]}


def _describe(row: pd.Series) -> dict[str, str]:
    entry = {"path": str(row["path"]), "identity": str(row["identity"]), "aspect": name_aspect(row["aspect"])}
    return entry | ({"name": row["name"]} if has_name(row) else {})
