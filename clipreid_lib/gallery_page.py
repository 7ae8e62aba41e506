"""Ranked galleries as one self-contained web page: every query of a draw, to filter, sort, search and step through."""

import json
from pathlib import Path

import pandas as pd

from clipreid_lib.files import write_text
from clipreid_lib.ranking import Ranking, Tile, spoken
from clipreid_lib.thumbnails import jpeg_base64, open_small

THUMB = 110  # px, longest side of the page's previews: about 2 KB each, so 400 queries stay below 2 MB


def write(
    ranking: Ranking,
    root: str | Path,
    target: str | Path,
    *,
    title: str,
    top: int = 10,
    facts: dict[str, str] | None = None,
) -> Path:
    """Write all queries as one HTML file that needs no network: hardest first, to filter, sort and search.

    Args:
        ranking: the draw to show.
        root: folder that the tables' paths are relative to.
        target: file to write, atomically; its folder is made where missing.
        title: heading of the page.
        top: gallery images per query; at most the gallery's size is shown.
        facts: rows of the table above the pictures, such as run, protocol, rank-1 and mAP.

    Returns:
        The path written.

    Raises:
        ValueError: no query, or top below 1.
    """
    top, count = ranking.clamped(top), len(ranking.query)
    if not count:
        raise ValueError("a page needs at least one query")
    precision, first = ranking.average_precision(), ranking.first_hit()
    shown, notes = {}, {"": 0}  # gallery position -> its place in the page's own table; note -> its number

    def packed(tile: Tile) -> list:
        place, note = shown.setdefault(tile.position, len(shown)), notes.setdefault(tile.note, len(notes))
        return [place, tile.rank, round(tile.score, 3), int(tile.right), note]

    queries = []
    for q in ranking.hardest(count):
        found, late = ranking.row(q, top)
        tiles = [packed(tile) for tile in found + late[:1]]
        queries.append([*_entry(ranking.query.iloc[q]), round(precision[q], 4), int(first[q]), tiles, len(late)])
    gallery = [_entry(ranking.gallery.iloc[position]) for position in shown]
    images, absent = {}, {}
    for path in dict.fromkeys(entry[0] for entry in queries + gallery):
        image = open_small(Path(root) / path, THUMB)
        if isinstance(image, str):
            absent[path] = image
        else:
            images[path] = jpeg_base64(image)
    data = {"title": title, "facts": [[str(k), str(v)] for k, v in (facts or {}).items()], "top": top}
    data |= {"queries": queries, "gallery": gallery, "notes": list(notes), "absent": absent, "images": images}
    # The block sits inside a script element. Without these three signs nothing in it can end that element or
    # open a comment; the reader's JSON parser turns the escapes back into the same text.
    block = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        block = block.replace(sign, f"\\u{ord(sign):04x}")
    template = Path(__file__).with_name("gallery_page.html").read_text(encoding="utf-8")
    write_text(target, template.replace("__DATA__", block))
    return Path(target)


def _entry(row: pd.Series) -> list[str]:
    return [str(row["path"]), str(row["identity"]), spoken(row["aspect"])]
