"""Ranked galleries: what each query retrieved, as a contact sheet and as one self-contained web page.

Both are drawn from one :class:`Ranking`, whose order, ties and average precision are the metrics' own, so a
picture cannot tell another story than the table. Colour is never the only sign: right and wrong also carry a
tick or a cross, and their colours (Okabe and Ito's blue and vermillion) stay apart for colour-blind readers.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

from clipreid_lib import metrics
from clipreid_lib.files import write_text
from clipreid_lib.thumbnails import FRAME, INK, LINE, draw_tile, fit, font, jpeg_base64, open_small

RIGHT, WRONG, MISSED = "#0072b2", "#d55e00", "#757575"
THUMB = 110  # px, longest side of the page's previews: about 2 KB each, so 400 queries stay below 2 MB
TILE, GAP = 128, 10  # px: longest side of the sheet's images, and the space around things


class Tile(NamedTuple):
    """One gallery image in one query's row."""

    position: int  # row of the gallery table
    rank: int  # 1-based
    score: float
    right: bool
    note: str  # empty, or what kind of distractor this is, one fact per line


@dataclass(frozen=True, eq=False)  # eq=False: tables have no single truth value to compare by
class Ranking:
    """One draw's result, as the metrics saw it.

    Attributes:
        query: (Q rows) columns ``path`` (relative to the data root), ``identity`` (the number to compare) and
            ``aspect``; ``subject`` (the person) is used where both tables have it.
        gallery: (G rows) the same columns; ``role`` says ``distractor`` where an image can match no query.
        similarity: (Q, G) cosine similarity in [-1, 1]; -inf takes an image out of that query's gallery.

    Raises:
        ValueError: a column is missing, shapes disagree, a similarity is not a number, or a query has no match.
    """

    query: pd.DataFrame
    gallery: pd.DataFrame
    similarity: np.ndarray

    def __post_init__(self) -> None:
        """Check what every method relies on."""
        for name, table in (("query", self.query), ("gallery", self.gallery)):
            lacking = {"path", "identity", "aspect"} - set(table.columns)
            if lacking:
                raise ValueError(f"the {name} table lacks the column(s) {', '.join(sorted(lacking))}")
        expected = (len(self.query), len(self.gallery))
        if self.similarity.shape != expected:
            raise ValueError(f"similarity has shape {self.similarity.shape}, the tables ask for {expected}")
        if np.isnan(self.similarity).any() or np.isposinf(self.similarity).any():
            raise ValueError("similarity holds values that are not finite")
        ids = (table["identity"].to_numpy() for table in (self.query, self.gallery))
        matched = (np.equal.outer(*ids) & (self.similarity > -np.inf)).any(axis=1)
        unmatched = np.flatnonzero(~matched)
        if len(unmatched):
            path = self.query["path"].iloc[unmatched[0]]
            raise ValueError(f"query {path} has no true match in the gallery, so it has no rank")

    def order(self, q: int) -> np.ndarray:
        """Return gallery positions (G,), best first; on equal scores wrong ones first, then by position."""
        return metrics.ranking(self.similarity[q], self._right(q))

    def first_hit(self) -> np.ndarray:
        """Return the 1-based rank of each query's best-ranked true match, (Q,)."""
        return self._scores.first_hit

    def average_precision(self) -> np.ndarray:
        """Return each query's AP in [0, 1], (Q,): mean over its true matches of precision at their rank."""
        return self._scores.average_precision

    def hardest(self, n: int) -> np.ndarray:
        """Return the n worst query positions, worst first: late first hit, then low AP, then position."""
        return np.lexsort((self.average_precision(), -self.first_hit()))[: max(n, 0)]

    def spread(self, n: int) -> np.ndarray:
        """Return n query positions evenly spaced from the hardest to the easiest, both included."""
        everyone = self.hardest(len(self.query))
        return everyone[np.unique(np.linspace(0, len(everyone) - 1, n).round().astype(int))]

    def row(self, q: int, top: int) -> tuple[list[Tile], list[Tile]]:
        """Return query q's first ``top`` tiles, and the true matches that rank beyond them, best first."""
        order, right = self.order(q), self._right(q)
        tiles = [
            Tile(int(g), rank, float(self.similarity[q, g]), bool(right[g]), self._note(q, g))
            for rank, g in enumerate(order, 1)
            if (rank <= top or right[g]) and self.similarity[q, g] > -np.inf
        ]
        return tiles[:top], tiles[top:]

    @cached_property
    def _scores(self) -> metrics.RetrievalScores:
        query, gallery = (table["identity"].to_numpy() for table in (self.query, self.gallery))
        return metrics.score_similarity(self.similarity, query, gallery)

    def _right(self, q: int) -> np.ndarray:
        same = self.gallery["identity"].to_numpy() == self.query["identity"].iloc[q]  # (G,)
        return same & (self.similarity[q] > -np.inf)

    def _note(self, q: int, g: int) -> str:
        query, image = self.query.iloc[q], self.gallery.iloc[g]
        if image.get("role") != "distractor":
            return ""
        mine, other = (_spoken(row["aspect"]).split() for row in (query, image))
        kind = "distractor" if mine == other else "other hand" if mine[:1] == other[:1] else "other aspect"
        lines = [kind, " ".join(other)]
        if "subject" in query and query["subject"] == image.get("subject"):
            lines.append("same person")  # the right person, and still counted as wrong
        return "\n".join(lines)


def sheet(ranking: Ranking, root: str | Path, queries: Sequence[int], *, top: int = 8, title: str = "") -> Image.Image:
    """Draw chosen queries as a contact sheet: one row each, the query at the left, then what it retrieved.

    Args:
        ranking: the draw to show.
        root: folder that the tables' paths are relative to.
        queries: query positions, in the order to draw them.
        top: gallery images per row; at most the gallery's size is drawn.
        title: a line above the rows.

    Returns:
        An RGB image. A file that cannot be opened becomes a tile that says so.

    Raises:
        ValueError: no query, a position outside the query table, or top below 1.
    """
    queries, top, count = [int(q) for q in queries], _clamped(ranking, top), len(ranking.query)
    if not queries:
        raise ValueError("a sheet needs at least one query position")
    if not all(0 <= q < count for q in queries):
        raise ValueError(f"query positions go from 0 to {count - 1}, given: {queries}")
    rows = [ranking.row(q, top) for q in queries]
    precision, first = ranking.average_precision(), ranking.first_hit()
    step, head, bold = TILE + 2 * FRAME + GAP, 40 if title else 0, font(13, bold=True)
    lines = [2 + max(len(tile.note.splitlines()) for tile in found + late[:1]) for found, late in rows]
    tops = head + np.cumsum([0] + [30 + TILE + 2 * FRAME + LINE * n + 14 for n in lines])  # title, tile, air
    width = 4 * GAP + step * (1 + top + any(late for _, late in rows))
    canvas = Image.new("RGB", (width, int(tops[-1])), "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((GAP, 10), fit(title, font(18, bold=True), width - 2 * GAP), INK, font(18, bold=True))

    for y, q, (found, late) in zip(tops[:-1].tolist(), queries, rows, strict=True):
        query = ranking.query.iloc[q]
        text = f"identity {query['identity']} · AP {precision[q]:.3f} · first hit at rank {first[q]}"
        draw.line((GAP, y, width - GAP, y), fill="#cccccc")
        draw.text((GAP, y + 7), fit(text, bold, width - 2 * GAP), INK, bold)
        captions = ["query", _spoken(query["aspect"])]
        draw_tile(canvas, (GAP, y + 30), Path(root) / query["path"], TILE, INK, captions)
        for column, tile in enumerate(found + late[:1], 1):
            image, beyond = ranking.gallery.iloc[tile.position], column > top
            rank = f" · rank {tile.rank}" if beyond else ""
            captions = [f"{tile.score:.3f}{rank}", f"identity {image['identity']}", *tile.note.splitlines()]
            colour = MISSED if beyond else RIGHT if tile.right else WRONG
            corner = (column * step + (3 if beyond else 2) * GAP, y + 30)
            draw_tile(canvas, corner, Path(root) / image["path"], TILE, colour, captions, tick=tile.right)
    return canvas


def before_and_after(named: dict[str, Ranking], root: str | Path, query: int, *, top: int = 8) -> Image.Image:
    """Draw one query under several embeddings, one row each.

    Args:
        named: rankings of the same queries, by what is written above the row, such as the stage.
        root: folder that the tables' paths are relative to.
        query: its position, the same in all of them.
        top: gallery images per row.

    Raises:
        ValueError: as :func:`sheet`, or the rankings are of other queries.
    """
    if len({tuple(ranking.query["path"]) for ranking in named.values()}) != 1:
        raise ValueError("before and after need rankings of the same queries")
    return stacked([sheet(ranking, root, [query], top=top, title=name) for name, ranking in named.items()])


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures below one another."""
    canvas = Image.new("RGB", (max(each.width for each in pictures), sum(each.height for each in pictures)), "white")
    y = 0
    for each in pictures:
        canvas.paste(each, (0, y))
        y += each.height
    return canvas


def page(
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
    top, count = _clamped(ranking, top), len(ranking.query)
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


def _clamped(ranking: Ranking, top: int) -> int:
    if top < 1:
        raise ValueError(f"top must be at least 1, given: {top}")
    return min(top, len(ranking.gallery))


def _entry(row: pd.Series) -> list[str]:
    return [str(row["path"]), str(row["identity"]), _spoken(row["aspect"])]


def _spoken(aspect: str) -> str:
    words = {"r": "right", "l": "left"}  # dorsal_r -> dorsal right
    return " ".join(words.get(word, word) for word in re.split(r"[ _]+", str(aspect)))
