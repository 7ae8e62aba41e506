"""Ranked galleries as contact sheets: what each query retrieved, one row per query.

Colour is never the only sign: right and wrong also carry a tick or a cross.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from clipreid_lib.pages.ranking import Ranking, called, spoken
from clipreid_lib.pages.style import INK, MISSED, RIGHT, WRONG, font
from clipreid_lib.pages.thumbnails import FRAME, LINE, draw_tile, fit

TILE, GAP = 256, 20  # px in print: longest side of the sheet's images, and the space around things


def sheet(
    ranking: Ranking, root: str | Path, queries: Sequence[int] | np.ndarray, *, top: int = 8, title: str = ""
) -> Image.Image:
    """Draw chosen queries as a contact sheet: one row each, the query at the left, then what it retrieved.

    Args:
        ranking: the draw to show; a column ``asks`` of its query table says what asks, where that is no query.
        root: folder that the tables' paths are relative to.
        queries: query positions, in the order to draw them.
        top: gallery images per row; at most the gallery's size is drawn.
        title: a line above the rows.

    Returns:
        An RGB image. Photographs are shown as they were taken, upright and not squashed, and not as the model gets
        them. A file that cannot be opened becomes a tile that says so.

    Raises:
        ValueError: no query, a position outside the query table, or top below 1.
    """
    queries, top, count = [int(q) for q in queries], ranking.clamped(top), len(ranking.query)
    if not queries:
        raise ValueError("a sheet needs at least one query position")
    if not all(0 <= q < count for q in queries):
        raise ValueError(f"query positions go from 0 to {count - 1}, given: {queries}")
    rows = [ranking.row(q, top) for q in queries]
    precision, first = ranking.average_precision(), ranking.first_hit()
    step, head, bold = TILE + 2 * FRAME + GAP, 80 if title else 0, font(26, bold=True)
    lines = [2 + max(len(tile.note.splitlines()) for tile in found + late[:1]) for found, late in rows]
    tops = head + np.cumsum([0] + [60 + TILE + 2 * FRAME + LINE * n + 28 for n in lines])  # title, tile, air
    width = 4 * GAP + step * (1 + top + any(late for _, late in rows))
    canvas = Image.new("RGB", (width, int(tops[-1])), "white")
    draw = ImageDraw.Draw(canvas)
    if title:
        draw.text((GAP, GAP), fit(title, font(36, bold=True), width - 2 * GAP), INK, font(36, bold=True))

    for y, q, (found, late) in zip(tops[:-1].tolist(), queries, rows, strict=True):
        query = ranking.query.iloc[q]
        text = f"{called(query)} · AP {precision[q]:.3f} · first hit at rank {first[q]}"
        draw.line((GAP, y, width - GAP, y), fill="#cccccc", width=2)
        draw.text((GAP, y + 14), fit(text, bold, width - 2 * GAP), INK, bold)
        captions = [query.get("asks", "query"), spoken(query["aspect"])]
        draw_tile(canvas, (GAP, y + 60), Path(root) / query["path"], TILE, INK, captions)
        for column, tile in enumerate(found + late[:1], 1):
            image, beyond = ranking.gallery.iloc[tile.position], column > top
            rank = f" · rank {tile.rank}" if beyond else ""
            captions = [f"{tile.score:.3f}{rank}", called(image), *tile.note.splitlines()]
            colour = MISSED if beyond else RIGHT if tile.right else WRONG
            corner = (column * step + (3 if beyond else 2) * GAP, y + 60)
            draw_tile(canvas, corner, Path(root) / image["path"], TILE, colour, captions, tick=tile.right)
    return canvas


def before_and_after(
    named: dict[str, Ranking], root: str | Path, query: int, *, top: int = 8, why: str = ""
) -> Image.Image:
    """Draw one query under several embeddings, one row each.

    Args:
        named: rankings of the same queries, by what is written above the row, such as the stage.
        root: folder that the tables' paths are relative to.
        query: its position, the same in all of them.
        top: gallery images per row.
        why: what to say of the query before every name.

    Returns:
        An RGB image, the sheets of :func:`sheet` below one another.

    Raises:
        ValueError: as :func:`sheet`, or the rankings are of other queries.
    """
    if len({tuple(ranking.query["path"]) for ranking in named.values()}) != 1:
        raise ValueError("before and after need rankings of the same queries")
    titles = {f"{why}: {name}" if why else name: ranking for name, ranking in named.items()}
    return stacked([sheet(ranking, root, [query], top=top, title=title) for title, ranking in titles.items()])


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures below one another."""
    canvas = Image.new("RGB", (max(each.width for each in pictures), sum(each.height for each in pictures)), "white")
    y = 0
    for each in pictures:
        canvas.paste(each, (0, y))
        y += each.height
    return canvas
