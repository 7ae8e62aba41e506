"""Patch-to-patch correspondence: which places of a query and of its match have alike features.

The places are those of the last feature map that still has a useful grid: the patches of a ViT after its last block
and final norm; layer 3 of CLIP's ResNet (CLIP-ReID's ``f_last`` before pooling), which has twice as many rows and
columns as its layer 4 (6 x 6 instead of 3 x 3 in the embedded CLIP); the last block or stage of timm's networks.
"""

import numpy as np
import pandas as pd
import torch
from torch.nn import functional

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.places import arrange_places, last_layer
from clipreid_lib.pages.attention import prepare

MOST = 12  # pairs
PATCHES = "the last block's patch tokens"
COLUMNS = ["query_row", "query_column", "match_row", "match_column", "cosine"]
LEGEND = (
    "Numbered lines join places of {what} that are each other's nearest by cosine among all {rows} × {columns}, the "
    "most alike first; places not above the median of their heat map are left out, as bare backgrounds always agree. "
    "Alike features do not mean that they were used, a place sees far beyond itself, and places at the same spot of "
    "both images may agree for where they lie alone."
)


@torch.no_grad()
def map_features(clip: Backbone, pixels: torch.Tensor, side: torch.Tensor | None = None) -> torch.Tensor:
    """Return what any tower knows of each place of images (B, 3, H, W) uint8, (B, C, gh, gw) on the CPU.

    ``side`` is the side information (B,), as for ``image_features``.
    """
    visual = clip.clip.visual
    kept: list[torch.Tensor] = []
    layer = visual.layer3 if hasattr(visual, "layer3") else last_layer(visual)
    hook = layer.register_forward_hook(lambda _, given, out: kept.append(out))
    try:
        clip.image_features(prepare(clip, pixels), side)
    finally:
        hook.remove()
    (maps,) = kept
    if layer is not getattr(visual, "layer3", None):
        maps = arrange_places(visual, visual.ln_post(maps) if clip.has_class_token else maps, clip.image_size)
    return maps.float().cpu()


def find_alike(places: torch.Tensor, heat: torch.Tensor) -> pd.DataFrame:
    """Find the places of two images that are each other's nearest neighbours by cosine.

    Corners of plain background always agree. So pairs are dropped of which either place is not above its heat map's
    median: a rough remedy, as heat is no outline of the hand. Neighbours are sought among all places, so leaving
    places out makes no new pairs.

    Args:
        places: (2, C, gh, gw) features of the query and of its match.
        heat: (2, h, w) their heat maps, on any grid; an even map leaves no place out.

    Returns:
        One row per pair, the most alike first: ``query_row query_column match_row match_column`` (0-based, from the
        top left) and ``cosine``; at most ``MOST``, or none.
    """
    grid = tuple(places.shape[2:])
    query, match = functional.normalize(places.flatten(2), dim=1)  # (C, gh * gw) each
    cosine = query.T @ match
    there, back = cosine.argmax(dim=1), cosine.argmax(dim=0)
    here = torch.arange(len(there))
    warm = [_find_warm(each, grid) for each in heat]
    keep = (back[there] == here) & warm[0] & warm[1][there]
    here, there = here[keep], there[keep]
    value = cosine[here, there]
    best = value.argsort(descending=True, stable=True)[:MOST]
    at = [*np.unravel_index(here[best].numpy(), grid), *np.unravel_index(there[best].numpy(), grid)]
    return pd.DataFrame(dict(zip(COLUMNS, [*at, value[best].numpy()], strict=True)))


def write_legend(clip: Backbone, grid: tuple[int, int]) -> str:
    """Say what numbered lines between such places show, and what they do not."""
    what = "layer 3" if hasattr(clip.clip.visual, "layer3") else "the last block" if clip.is_timm else PATCHES
    return LEGEND.format(what=what, rows=grid[0], columns=grid[1])


def _find_warm(heat: torch.Tensor, grid: tuple[int, ...]) -> torch.Tensor:
    """Tell which places (gh * gw,) lie above the median of a heat map brought to their grid."""
    if heat.max() == heat.min():
        return torch.ones(grid, dtype=torch.bool).flatten()
    if heat.shape != grid:
        heat = functional.interpolate(heat[None, None], size=grid, mode="bilinear", align_corners=False)[0, 0]
    return (heat > heat.median()).flatten()
