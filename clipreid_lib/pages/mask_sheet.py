"""The sheet of masks: what was taken for the hand, outlined on photographs as the network gets them."""

from pathlib import PurePosixPath

import numpy as np
from PIL import Image
from scipy import ndimage

from clipreid_lib.data.hand_mask import Found
from clipreid_lib.pages.gallery import TILE, Tile, draw_rows
from clipreid_lib.pages.style import RIGHT, WRONG, write_line
from clipreid_lib.scores.hand_table import describe_refused
from clipreid_lib.scores.hand_test import HandTest

ROW = 8  # photographs side by side
OUTLINE = (255, 0, 255)  # magenta: neither skin nor a backdrop
LINE = 2  # px of a tile


def draw_masks(test: HandTest) -> Image.Image:
    """Draw the samples of a test, trusted masks first; where nothing was asked, say why."""
    if not test.samples:
        return write_line(f"Is it the hand? Not asked: {test.record.get('left_out', 'there is no photograph')}.")
    rows: list[tuple[str, list[Tile]]] = []
    for head, refused in (("outlined: taken for the hand", False), ("no mask to trust", True)):
        tiles = [
            Tile(outline(pixels, found), [PurePosixPath(path).name, *([found.refused] if refused else [])], colour)
            for path, pixels, found in test.samples
            if bool(found.refused) is refused
            for colour in [WRONG if refused else RIGHT]
        ]
        rows += [("" if start else head, tiles[start : start + ROW]) for start in range(0, len(tiles), ROW)]
    return draw_rows(rows, describe_refused(test.record).partition(":")[0])


def outline(pixels: np.ndarray, found: Found) -> Image.Image:
    """Enlarge (H, W, 3) uint8 pixels to a tile and draw the outline of their mask."""
    height, width = pixels.shape[:2]
    size = round(TILE * width / max(height, width)), round(TILE * height / max(height, width))
    picture = np.array(Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC))
    mask = np.asarray(Image.fromarray(found.mask).resize(size, Image.Resampling.NEAREST), bool)
    picture[ndimage.binary_dilation(mask, iterations=LINE) & ~mask] = OUTLINE
    return Image.fromarray(picture)
