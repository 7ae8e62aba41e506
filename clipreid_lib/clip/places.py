"""The last layers of an image tower that still have a grid of places, and their output brought into one form."""

from typing import Any

import torch
from torch import nn

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import timm_towers, tower_shapes


def last_layer(visual: Any) -> nn.Module:
    """Return the block, layer or stage whose output is pooled."""
    if timm_towers.is_timm(visual):
        return visual.trunk.get_submodule(visual.trunk.feature_info[-1]["module"])
    return visual.transformer.resblocks[-1] if tower_shapes.is_vit(visual) else visual.layer4


def explained_layer(visual: Any) -> nn.Module:
    """Return the layer whose places Grad-CAM weighs: the last one, or the norm after it.

    A layer norm does not heed its input's length, so the gradient there is at right angles to the input and their
    product is nothing. Where a class token is read out, only the last block's attention still sees the places.
    """
    if not timm_towers.is_timm(visual):
        pool = getattr(visual, "attn_pool", None)
        return last_layer(visual) if pool is None else pool.ln_k
    trunk = visual.trunk
    if getattr(trunk, "global_pool", "") == "token" and hasattr(trunk.blocks[-1], "norm1"):
        return trunk.blocks[-1].norm1
    norm = getattr(trunk, "norm", None)
    return last_layer(visual) if norm is None or isinstance(norm, nn.Identity) else norm


def arrange_places(visual: Any, out: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Bring such a layer's output into the form (B, C, rows, columns), without class tokens and registers.

    Args:
        visual: the tower.
        out: (B, C, rows, columns), (B, rows, columns, C), or tokens (B, L, C) with the places last.
        size: height and width of the images in pixels.

    Raises:
        UserError: it has no such form.
    """
    if not timm_towers.is_timm(visual):
        return out if out.ndim == 4 else _lay_out(out, tower_shapes.grid_of(visual, size))
    trunk = visual.trunk
    if out.ndim == 4:
        return out.permute(0, 3, 1, 2) if getattr(trunk, "output_fmt", "NCHW") == "NHWC" else out
    reduction = trunk.feature_info[-1]["reduction"]  # pixels from place to place
    if out.ndim != 3:
        raise UserError(f"heat maps: {type(trunk).__name__} keeps its places in a form that cannot be drawn")
    return _lay_out(out, (size[0] // reduction, size[1] // reduction))


def _lay_out(tokens: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    places = tokens[:, -grid[0] * grid[1] :]  # (B, rows * columns, C)
    return places.transpose(1, 2).unflatten(2, grid)
