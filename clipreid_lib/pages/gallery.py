"""Sheets of photographs, a row of tiles each: what queries retrieved, what a sentence found, who is in a data set.

Photographs are shown as they were taken, upright and not squashed, and not as the model gets them. A file that cannot
be opened becomes a tile that says so. Colour is never the only sign: right and wrong also carry a tick or a cross. In
all functions, ``root`` is the folder that the tables' paths are relative to, and ``top`` how many photographs a row has
at most, beside the query.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageOps

from clipreid_lib.pages import choices
from clipreid_lib.pages.ranking import Ranking, name_aspect, name_person
from clipreid_lib.pages.style import INK, MISSED, RIGHT, WRONG, font
from clipreid_lib.pages.thumbnails import FRAME, LINE, draw_captions, draw_frame, fit, open_small, wrap

TILE, GAP, HEAD = 256, 20, 36  # px in print: longest side of a photograph, space around things, a line above a row
MOST_LINES = 6  # above a row: what a verdict takes above two tiles; a name of any length makes no taller sheet


class Tile(NamedTuple):
    """One photograph of a row: its file, captions below it, its frame's colour, a tick or a cross, and air before."""

    path: Path | Image.Image  # the file, or what is in it
    captions: list[str]
    colour: str = INK
    tick: bool | None = None
    air: int = 0  # px


def draw_rows(rows: Sequence[tuple[str, list[Tile]]], title: str = "") -> Image.Image:
    """Draw rows of tiles below one another: what stands above each row, if anything, and its tiles."""
    side, above = TILE + 2 * FRAME, 80 if title else 0
    bold, large = font(26, bold=True, text="".join(text for text, _ in rows)), font(36, bold=True, text=title)
    width = 4 * GAP + (side + GAP) * max(3 if title else 1, *(len(tiles) for _, tiles in rows))
    words = [wrap(text, bold, width - 2 * GAP) if text else [] for text, _ in rows]
    words = [[*mine[: MOST_LINES - 1], " ".join(mine[MOST_LINES - 1 :])][: len(mine)] for mine in words]
    heads = [GAP + HEAD * len(mine) + 4 * bool(mine) for mine in words]
    lines = [max(len(tile.captions) for tile in tiles) for _, tiles in rows]
    tops = above + np.cumsum([0] + [head + side + LINE * n + 28 for head, n in zip(heads, lines, strict=True)])
    canvas = Image.new("RGB", (width, int(tops[-1])), "white")
    draw = ImageDraw.Draw(canvas)
    draw.text((GAP, GAP), fit(title, large, width - 2 * GAP), INK, large)
    for y, head, said, (_, tiles) in zip(tops[:-1].tolist(), heads, words, rows, strict=True):
        if said:
            draw.line((GAP, y, width - GAP, y), fill="#cccccc", width=2)
        for number, text in enumerate(said):
            draw.text((GAP, y + 14 + number * HEAD), fit(text, bold, width - 2 * GAP), INK, bold)
        x = GAP
        for tile in tiles:
            x += tile.air
            image = open_small(tile.path, TILE) if isinstance(tile.path, Path) else tile.path
            if not isinstance(image, str):
                image = ImageOps.contain(image, (TILE, TILE))  # enlarges where the file itself is smaller
            draw_frame(canvas, (x, y + head), image, (TILE, TILE), tile.colour, tile.tick)
            draw_captions(canvas, (x, y + head + side + 8), tile.captions, side)
            x += side + GAP
    return canvas


def draw_queries(
    ranking: Ranking, root: str | Path, queries: Sequence[int] | np.ndarray, *, top: int = 8, title: str = ""
) -> Image.Image:
    """Draw the queries at some positions: one row each, the query at the left, then what it retrieved.

    A column ``asks`` of the ranking's query table says what asks, where that is no query.

    Raises:
        UserError: no query, or a position outside the query table.
    """
    precision, first = ranking.average_precision(), ranking.first_hit()
    rows = []
    for q in ranking.check_queries(queries):
        query, (found, late) = ranking.query.iloc[q], ranking.row(q, top)
        tiles = [Tile(Path(root) / query["path"], [query.get("asks", "query"), name_aspect(query["aspect"])])]
        for place, each in enumerate(found + late[:1]):
            image, beyond = ranking.gallery.iloc[each.position], place >= top
            captions = [f"{each.score:.3f}{f' · rank {each.rank}' if beyond else ''}", name_person(image)]
            colour = MISSED if beyond else RIGHT if each.right else WRONG
            air = GAP if beyond or place == 0 else 0
            path = Path(root) / image["path"]
            tiles.append(Tile(path, [*captions, *each.note.splitlines()], colour, each.right, air))
        head = f"{name_person(query)} · AP {precision[q]:.3f} · first hit at rank {first[q]}"
        rows.append((head, tiles))
    return draw_rows(rows, title)


def draw_stages(named: dict[str, Ranking], root: str | Path, query: int, *, top: int = 8, why: str = "") -> Image.Image:
    """Draw the query at one position under several embeddings, one row each.

    Rankings of the same queries are given by what is written above their row, such as the stage; ``why`` is said
    before every name.
    """
    titles = {f"{why}: {name}" if why else name: ranking for name, ranking in named.items()}
    return stack([draw_queries(ranking, root, [query], top=top, title=title) for title, ranking in titles.items()])


def draw_moved(named: dict[str, Ranking], root: str | Path, top: int = 8) -> Image.Image:
    """Draw the query that gained most from the first ranking to the last, and the one that lost most.

    With one ranking alone, or where nothing moved, the hardest query is drawn.
    """
    first, *_, last = [*named.values(), *named.values()]
    gain = last.average_precision() - first.average_precision()
    words = {1: "Query that gained most", -1: "Query that lost most", 0: "Hardest query"}
    chosen = choices.choose_moved(first, last, 1)
    return stack([draw_stages(named, root, int(q), top=top, why=words[int(np.sign(gain[q]))]) for q in chosen])


def draw_found(table: pd.DataFrame, root: str | Path, title: str) -> Image.Image:
    """Draw images side by side that :func:`clipreid_lib.pages.retrieval.ask` found, with their ``score``."""
    tiles = [
        Tile(Path(root) / row["path"], [f"{row['score']:.3f}", name_person(row), name_aspect(row["aspect"])])
        for _, row in table.iterrows()
    ]
    return draw_rows([("", tiles)], title)


def draw_people(images: pd.DataFrame, root: str | Path, people: int = 6) -> Image.Image:
    """Draw the first nine images of the first people of a table, a row per person, in the order they were taken."""
    rows = []
    for _, mine in [*images.groupby("identity")][:people]:
        tiles = [
            Tile(Path(root) / image.path, ["" if pd.isna(image.session) else f"session {image.session}"])
            for image in mine.sort_values("path").head(9).itertuples()
        ]
        rows.append((name_person(mine.iloc[0]), tiles))
    return draw_rows(rows)


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Put pictures below one another."""
    canvas = Image.new("RGB", (max(each.width for each in pictures), sum(each.height for each in pictures)), "white")
    y = 0
    for each in pictures:
        canvas.paste(each, (0, y))
        y += each.height
    return canvas
