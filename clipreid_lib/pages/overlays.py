"""What the model looks at: a query beside a gallery image, heat over both, and lines between alike places.

Every photograph is shown as the model gets it, squashed or cropped to its input size, so that maps lie where they
belong. Right and wrong carry a tick or a cross, lines carry numbers: colour is never the only sign. The maps are made
by ``attention`` and ``correspondence``.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageColor, ImageDraw, ImageOps

from clipreid_lib.base.errors import UnreadableImage, UserError
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.pages import attention, correspondence
from clipreid_lib.pages.attention import Heat
from clipreid_lib.pages.ranking import Ranking, Result, name_aspect, name_person
from clipreid_lib.pages.style import INK, RIGHT, WRONG, font, write_line
from clipreid_lib.pages.thumbnails import FRAME, LINE, draw_captions, draw_frame, explain_missing, fit, wrap
from clipreid_lib.scores.given_features import ONLY

WIDEST, TALLEST = 384, 576  # px in print: limits of a photograph
GAP, BETWEEN, HEAD = 20, 88, 64  # around things, between the photographs that lines join, and above each row
COLOURS = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#ffffff")  # Okabe and Ito
OPACITY = 0.7  # of the hottest place
DOT = 16  # px in print, radius of a line's numbered end
DROP = 3 * LINE  # how much lower the second of the joined photographs hangs: lines within a row would hide one another


class Look(NamedTuple):
    """One query and one gallery image, and what the model makes of the two.

    Attributes:
        pair: the query's row of its table, and the gallery image's.
        result: the gallery image's rank and score, and whether it is right.
        pixels: (3, H, W) uint8 of either, as the model gets them; in two words why there are none.
        heat: maps of what the model looks at; None where a photograph is missing.
        alike: pairs of alike places, from :func:`clipreid_lib.pages.correspondence.find_alike`.
        grid: (rows, columns) of those places.
    """

    pair: pd.DataFrame
    result: Result
    pixels: list[torch.Tensor | str]
    heat: Heat | None = None
    alike: pd.DataFrame = pd.DataFrame()
    grid: tuple[int, int] = (0, 0)


def draw_pair(clip: Backbone | None, photographs: Photographs, ranking: Ranking, query: int, rank: int) -> Image.Image:
    """Draw a query and the gallery image at one rank; the rest is as in :func:`draw_queries`.

    Raises:
        UserError: no such query or rank, a ViT that keeps its attention to itself, or no backbone.
    """
    if clip is None:
        raise UserError(ONLY)
    return draw_looks(clip, [look(clip, photographs, ranking, query, rank)])


def draw_queries(
    clip: Backbone | None, photographs: Photographs, ranking: Ranking, queries: Sequence[int]
) -> Image.Image:
    """Draw several queries, each with what ranked first and, where that is somebody else, its best true match below.

    Args:
        clip: the backbone that looks; None of a run of given features draws a line that says so.
        photographs: the data set's images.
        ranking: one draw under that backbone's embedding.
        queries: positions in the query table, in the order to draw them.

    Returns:
        Photographs, heat, alike places and a legend, for :func:`~clipreid_lib.pages.style.save_image`. A file that is
        gone leaves pale tiles that say so.

    Raises:
        UserError: as :func:`draw_pair`, or no query is given.
    """
    if clip is None:
        return write_line(ONLY)
    looks = []
    for q in ranking.check_queries(queries):
        looks.append(look(clip, photographs, ranking, q, 1))
        if not looks[-1].result.right:
            looks.append(look(clip, photographs, ranking, q, int(ranking.first_hit()[q])))
    return draw_looks(clip, looks)


def look(clip: Backbone, photographs: Photographs, ranking: Ranking, query: int, rank: int) -> Look:
    """Compute what :func:`draw_pair` draws, of the same arguments."""
    ranking.check_queries([query])
    found, _ = ranking.row(query, len(ranking.gallery))
    if not 1 <= rank <= len(found):
        raise UserError(f"rank: {rank} is not there; query {query} has a gallery with ranks 1 to {len(found)}")
    result = found[rank - 1]
    pair = pd.concat([ranking.query.iloc[[query]], ranking.gallery.iloc[[result.position]]])
    pixels = [_read_pixels(photographs, pair.iloc[[row]], clip.image_size) for row in (0, 1)]
    return look_at(clip, pair, result, pixels)


def look_at(clip: Backbone, pair: pd.DataFrame, result: Result, pixels: list[torch.Tensor | str]) -> Look:
    """Compute the maps and lines of two images; the arguments are what :class:`Look` holds of the same names."""
    there = [each for each in pixels if not isinstance(each, str)]
    if len(there) < 2:
        return Look(pair, result, pixels)
    side = clip.side_rows(pair)
    heat = attention.map_heat(clip, torch.stack(there), side)
    places = correspondence.map_features(clip, torch.stack(there), side)
    alike = correspondence.find_alike(places, heat.maps)
    return Look(pair, result, pixels, heat, alike, (places.shape[2], places.shape[3]))


def draw_looks(clip: Backbone, looks: Sequence[Look]) -> Image.Image:
    """Draw looks of one backbone below one another, at least one, and one legend below all."""
    height, width = clip.image_size
    scale, face, bold = min(WIDEST / width, TALLEST / height), font(24), font(26, bold=True)
    size = round(width * scale), round(height * scale)
    wide, high = (side + 2 * FRAME for side in size)
    # left edges of the query's and the match's tile, for photographs, heat and lines
    lefts = np.cumsum([2 * GAP, wide + GAP, wide + 3 * GAP, wide + GAP, wide + 3 * GAP, wide + BETWEEN]).tolist()
    total = lefts[-1] + wide + 2 * GAP
    captions = [_write_captions(each) for each in looks]
    heights = [HEAD + high + 8 + LINE * max(3, *map(len, both)) + GAP for both in captions]
    tops = np.cumsum([0, *heights]).tolist()
    legend = [line for text in _write_legend(clip, looks) for line in wrap(text, face, total - 4 * GAP)]
    canvas = Image.new("RGB", (total, tops[-1] + 2 * GAP + LINE * len(legend)), "white")
    draw = ImageDraw.Draw(canvas)
    for y in tops:
        draw.line((GAP, y, total - GAP, y), fill="#cccccc", width=2)
    for each, both, y in zip(looks, captions, tops, strict=False):
        corners = [(x, y + HEAD) for x in lefts]
        corners[-1] = (lefts[-1], y + HEAD + DROP)
        right = each.result.right
        frames, ticks = (INK, INK if right is None else RIGHT if right else WRONG), (None, right)
        for number, (title, images) in enumerate(_draw_panels(clip, each, size)):
            places, span = corners[2 * number : 2 * number + 2], BETWEEN if number == 2 else GAP
            draw.text((places[0][0], y + 16), fit(title, bold, 2 * wide + span), INK, bold)
            for corner, image, frame, tick in zip(places, images, frames, ticks, strict=True):
                draw_frame(canvas, corner, image, size, frame, None if number else tick)
        for corner, lines in zip(corners, both, strict=False):
            draw_captions(canvas, (corner[0], corner[1] + high + 8), lines, wide)
        if each.heat:
            _draw_bar(canvas, (corners[2][0], y + HEAD + high + 8), 2 * wide + GAP, each.heat)
            _draw_lines(draw, corners[4:], size, clip, each)
    for number, line in enumerate(legend):
        draw.text((2 * GAP, tops[-1] + GAP + number * LINE), line, INK, face)
    return canvas


def overlay(
    photograph: Image.Image, heat: np.ndarray, centres: tuple[np.ndarray, np.ndarray], ends: tuple[float, float]
) -> Image.Image:
    """Lay a heat map (gh, gw) over a photograph, which turns grey so that colour means heat alone; cold stays clear.

    ``centres`` is from :func:`clipreid_lib.pages.attention.find_centres`; ``ends`` are the value without colour, and
    that of the strongest.
    """
    width, height = photograph.size
    down, across = (_weights(each, pixels) for each, pixels in zip(centres, (height, width), strict=True))
    smooth = down @ heat @ across.T  # (height, width)
    share = (smooth - ends[0]) / max(ends[1] - ends[0], 1e-12)
    return _colour(np.asarray(ImageOps.grayscale(photograph)), share.clip(0, 1))


def _read_pixels(photographs: Photographs, table: pd.DataFrame, size: tuple[int, int]) -> torch.Tensor | str:
    """Read one row's photograph (3, H, W), or say in two words why it cannot be."""
    try:
        return torch.from_numpy(photographs.load(table, size)[0])
    except UnreadableImage:
        return explain_missing(photographs.root / table["path"].iloc[0])


def _write_captions(each: Look) -> tuple[list[str], list[str]]:
    result, (query, match) = each.result, (row for _, row in each.pair.iterrows())
    judged = {None: "", True: ", right", False: ", wrong"}[result.right]
    verdict = [f"rank {result.rank}{judged}", f"score {result.score:.3f}"]
    known = result.note.splitlines() or [name_aspect(match["aspect"])]
    if result.right is None:
        return ["photograph", query["path"]], [*verdict, name_person(match), *known]
    return ["query", name_person(query), name_aspect(query["aspect"])], [*verdict, name_person(match), *known]


def _scale_heat(heat: Heat) -> tuple[np.ndarray, tuple[float, float], tuple[str, str]]:
    """Return both maps in the unit they are drawn in, the two ends of the colours, and what stands below those."""
    maps = heat.maps.numpy()
    if heat.method == "Grad-CAM":
        return maps, (0.0, 1.0), ("0", "each map's maximum")
    maps = maps * maps[0].size  # shares become multiples of an even share
    return maps, (maps.min(), maps.max()), (f"{maps.min():.1f}", f"{maps.max():.1f} times an even share")


def _draw_panels(clip: Backbone, each: Look, size: tuple[int, int]) -> list[tuple[str, list[Any]]]:
    """Return photographs, heat over them, and photographs to draw lines on: each a title and two pictures, or words."""
    photographs: list[Any] = [
        pixels
        if isinstance(pixels, str)
        else Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0))).resize(size, Image.Resampling.BICUBIC)
        for pixels in each.pixels
    ]
    first = ("the photographs, as the model gets them", photographs)
    if each.heat is None:
        missing = next(image for image in photographs if isinstance(image, str))
        return [first, ("", [f"no map: {missing}"] * 2), ("", [f"no lines: {missing}"] * 2)]
    heat, cosines = each.heat, each.alike["cosine"]
    maps, ends, _ = _scale_heat(heat)
    where = attention.find_centres(clip, maps[0].shape)
    heated = [overlay(image, one, where, ends) for image, one in zip(photographs, maps, strict=True)]
    method = f"Grad-CAM of their cosine, {heat.cosine:.3f}" if heat.method == "Grad-CAM" else heat.method
    found = f"{len(cosines)}, cosine {cosines.iloc[0]:.2f} to {cosines.iloc[-1]:.2f}" if len(cosines) else "none found"
    return [first, (method, heated), (f"alike places: {found}", photographs)]


def _draw_bar(canvas: Image.Image, corner: tuple[int, int], width: int, heat: Heat) -> None:
    *_, (low, high) = _scale_heat(heat)
    (x, y), draw, face = corner, ImageDraw.Draw(canvas), font(24)
    grey = np.full((24, width), 160, np.uint8)  # as a hand's skin turns out
    canvas.paste(_colour(grey, np.linspace(0, 1, width)[None].repeat(24, axis=0)), (x, y + 4))
    draw.text((x, y + LINE), low, INK, face)
    draw.text((x + width, y + LINE), high, INK, face, anchor="ra")


def _draw_lines(
    draw: ImageDraw.ImageDraw, corners: Sequence[tuple[int, int]], size: tuple[int, int], clip: Backbone, each: Look
) -> None:
    down, across = attention.find_centres(clip, each.grid)
    lines = []
    for places in each.alike[correspondence.COLUMNS[:4]].to_numpy().reshape(-1, 2, 2):  # (row, column) of either end
        both = zip(corners, places, strict=True)
        lines.append([(x + FRAME + across[c] * size[0], y + FRAME + down[r] * size[1]) for (x, y), (r, c) in both])
    numbered = list(zip(range(1, len(lines) + 1), lines, COLOURS * len(lines), strict=False))[::-1]  # best comes on top
    for _, ends, colour in numbered:
        draw.line(ends, INK, 9)
        draw.line(ends, colour, 5)
    for number, ends, colour in numbered:
        dark = np.dot(ImageColor.getrgb(colour), (0.299, 0.587, 0.114)) < 130  # ITU-R 601
        for end in ends:
            draw.circle(end, DOT, colour, INK, 2)
            draw.text(end, str(number), "white" if dark else INK, font(20, bold=True), anchor="mm")


def _weights(centres: np.ndarray, pixels: int) -> np.ndarray:
    """Return what each place weighs at each pixel along one side, (pixels, places): linear, level at the borders."""
    at = (np.arange(pixels) + 0.5) / pixels
    return np.stack([np.interp(at, centres, one) for one in np.eye(len(centres))], axis=1)


def _colour(grey: np.ndarray, share: np.ndarray) -> Image.Image:
    """Colour grey pixels (height, width) by a share in [0, 1] of the same shape, which is the opacity too."""
    colour = 255 * matplotlib.colormaps["inferno"](share)[..., :3]
    cover = OPACITY * share[..., None]
    return Image.fromarray((grey[..., None] * (1 - cover) + colour * cover).round().astype(np.uint8))


def _write_legend(clip: Backbone, looks: Sequence[Look]) -> list[str]:
    whole = [(each.heat, each.grid, each.result.score) for each in looks if each.heat]
    if not whole:
        return ["No map and no lines: a photograph is missing or cannot be read."]
    heat, grid, _ = whole[0]
    legend = [heat.legend, correspondence.write_legend(clip, grid)]
    if any(abs(heat.cosine - score) > 0.005 for heat, _, score in whole):  # more than the store rounds
        legend.append("The scores are those of another embedding than the image's, which maps and lines are about.")
    return legend
