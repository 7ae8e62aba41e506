"""What the model looks at: a query beside a gallery image, heat over both, and lines between alike places.

The maps are made by ``attention`` and ``correspondence``, the pictures by ``overlay_sheet``.
"""

from collections.abc import Sequence

import pandas as pd
import torch
from PIL import Image

from clipreid_lib.base.errors import UnreadableImage, UserError
from clipreid_lib.pages import attention, correspondence, overlay_sheet
from clipreid_lib.pages.overlay_sheet import Look
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.pages.thumbnails import why_not
from clipreid_lib.runs.run import Run
from clipreid_lib.runs.stages import Trained


def pair(run: Run, trained: Trained, ranking: Ranking, query: int, rank: int = 1) -> Image.Image:
    """Draw a query and the gallery image at one rank: photographs, heat, alike places, and a legend.

    Args:
        run: the run.
        trained: its backbone.
        ranking: one draw under the run's embedding.
        query: position in the query table.
        rank: of the gallery image; ``ranking.first_hit()[query]`` is the best true match's.

    Returns:
        An RGB image, for :func:`~clipreid_lib.pages.style.keep_image`. A file that is gone leaves pale tiles that
        say so.

    Raises:
        UserError: no such query or rank, or a ViT that keeps its attention to itself.
    """
    return overlay_sheet.sheet(trained.backbone, [look(run, trained, ranking, query, rank)])


def rows(run: Run, trained: Trained, ranking: Ranking, queries: Sequence[int]) -> Image.Image:
    """Draw several queries, each with what ranked first and, where that is somebody else, its best true match below.

    Args:
        run: the run.
        trained: its backbone.
        ranking: one draw under the run's embedding.
        queries: positions in the query table, in the order to draw them.

    Returns:
        As for :func:`pair`, with one legend below all.

    Raises:
        UserError: as :func:`pair`, or no query is given.
    """
    if not len(queries):
        raise UserError("queries: none are given; choose some, such as ranking.hardest(3)")
    first = ranking.first_hit()
    asked = [(q, rank) for q in queries for rank in sorted({1, int(first[_position(ranking, q)])})]
    return overlay_sheet.sheet(trained.backbone, [look(run, trained, ranking, q, rank) for q, rank in asked])


def look(run: Run, trained: Trained, ranking: Ranking, query: int, rank: int = 1) -> Look:
    """Compute what :func:`pair` draws, to work on with the numbers.

    Args:
        run: the run.
        trained: its backbone.
        ranking: one draw under the run's embedding.
        query: position in the query table.
        rank: of the gallery image.

    Returns:
        Pixels, heat maps and alike places of the pair; the maps and places are None where a photograph cannot be read.

    Raises:
        UserError: as :func:`pair`.
    """
    query, clip = _position(ranking, query), trained.backbone
    found, _ = ranking.row(query, len(ranking.gallery))
    if not 1 <= rank <= len(found):
        raise UserError(f"rank: {rank} is not there; query {query} has a gallery with ranks 1 to {len(found)}")
    tile = found[rank - 1]
    tables = [ranking.query.iloc[[query]], ranking.gallery.iloc[[tile.position]]]
    mine, theirs = (_pixels(run, table, clip.image_size) for table in tables)
    asked, shown = (table.iloc[0] for table in tables)
    if isinstance(mine, str) or isinstance(theirs, str):
        return Look(asked, shown, tile, mine, theirs)
    sides = [clip.side_rows(table) for table in tables]
    batch = [mine[None], theirs[None]]  # (1, 3, H, W) each
    heat = attention.heat(clip, *batch, *sides)
    places = [correspondence.features_at_places(clip, *each)[0] for each in zip(batch, sides, strict=True)]
    alike = correspondence.alike_places(places[0], places[1], heat.query[0], heat.match[0])
    return Look(asked, shown, tile, mine, theirs, heat, alike, (places[0].shape[1], places[0].shape[2]))


def _position(ranking: Ranking, query: int) -> int:
    if not 0 <= query < len(ranking.query):
        raise UserError(f"query: {query} is not there; positions go from 0 to {len(ranking.query) - 1}")
    return int(query)


def _pixels(run: Run, table: pd.DataFrame, size: tuple[int, int]) -> torch.Tensor | str:
    """Read one row's photograph (3, H, W), or say in two words why it cannot be."""
    try:
        return torch.from_numpy(run.photographs.load(table, size)[0])
    except UnreadableImage:
        return why_not(run.photographs.root / table["path"].iloc[0])
