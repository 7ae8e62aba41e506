"""Contact sheets of people: a row per person, images in the order they were taken."""

from pathlib import Path

import pandas as pd
from PIL import Image

from clipreid_lib.pages.style import INK
from clipreid_lib.pages.thumbnails import FRAME, LINE, draw_tile

TILE, GAP = 256, 16  # px in print


def identity_sheet(images: pd.DataFrame, root: str | Path, people: int = 6, top: int = 9) -> Image.Image:
    """Draw the first images of the first people of a table.

    Args:
        images: rows with ``path``, ``identity`` and ``session``.
        root: folder the paths are relative to.
        people: rows at most.
        top: images per row at most.

    Returns:
        An RGB image; a file that cannot be opened becomes a tile that says so.
    """
    rows = [hand.sort_values("path").head(top) for _, hand in images.groupby("identity")][:people]
    wide, high = TILE + 2 * FRAME + GAP, TILE + 2 * FRAME + 2 * LINE + 2 * GAP
    columns = max(map(len, rows), default=0)
    canvas = Image.new("RGB", (GAP + columns * wide, GAP + len(rows) * high), "white")
    for y, hand in enumerate(rows):
        for x, image in enumerate(hand.itertuples()):
            session = "" if pd.isna(image.session) else f"session {image.session}"
            captions = [f"identity {image.identity}" if x == 0 else "", session]
            draw_tile(canvas, (GAP + x * wide, GAP + y * high), Path(root) / image.path, TILE, INK, captions)
    return canvas
