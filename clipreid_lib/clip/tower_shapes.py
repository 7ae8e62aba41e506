"""Image towers in other shapes than they were trained in: input size, overlapping patches, a finer last layer.

All three change the grid of places the tower looks at, and with it the table of position embeddings: one row for
the class token (ViT) or the mean (a ResNet's attention pool), which is kept, and one per place, which are
interpolated. CLIP-ReID (arXiv 2211.13977) interpolates bilinearly; the default here is bicubic with antialiasing, which
is what open_clip does when it loads weights at another size, so that both ways give the same table.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import timm_towers
from clipreid_lib.params.image_sizes import parse_size, spell

Tower = Any  # open_clip's VisionTransformer or ModifiedResNet, each with parts of its own


def is_vit(visual: Tower) -> bool:
    """Tell open_clip's VisionTransformer from its ModifiedResNet."""
    return hasattr(visual, "ln_post")


def image_size_of(visual: Tower) -> tuple[int, int]:
    """Height and width of the input in pixels."""
    size = visual.image_size
    return parse_size(tuple(size) if isinstance(size, (tuple, list)) else size)


def grid_of(visual: Tower, size: tuple[int, int]) -> tuple[int, int]:
    """Count the places (rows, columns) that the tower looks at in an image of (height, width), as it is strided now."""
    if is_vit(visual):
        patch, stride = visual.patch_size, visual.conv1.stride
        rows, columns = ((n - p) // s + 1 for n, p, s in zip(size, patch, stride, strict=True))
    else:
        rows, columns = ((n + 1) // 2 // (8 * visual.layer4[0].stride) for n in size)  # conv1 rounds up, poolings down
    return rows, columns


def adapt(
    visual: Tower,
    name: str,
    size: int | str | tuple[int, int] | None = None,
    patch_stride: int | None = None,
    last_stride: int | None = None,
    positions: str = "bicubic",
) -> None:
    """Give a loaded tower another shape, in place. Whatever is None, or as it is already, is not touched.

    Args:
        visual: with its weights. A network of timm changes its input size alone.
        name: what the params call the model, for messages.
        size: of the input, as :func:`clipreid_lib.params.image_sizes.parse_size` takes it.
        patch_stride: ViT only: pixels from patch to patch, at most a patch's side. CLIP-ReID takes 12 of 16; the
            grid becomes (H - patch) // stride + 1 high.
        last_stride: ResNet only: 1 or 2. CLIP-ReID takes 1, so that layer 4 keeps layer 3's resolution.
        positions: how their table is resized, as for :func:`resize_positions`.

    Raises:
        UserError: a key of another family, a stride that is not allowed, or an image smaller than one place.
    """
    if timm_towers.is_timm(visual):
        for key, value in (("patch_stride", patch_stride), ("last_stride", last_stride)):
            if value is not None:
                raise UserError(f"{key}: {name} is a network of timm, whose strides are its own; leave it null")
        if size is not None:
            timm_towers.resize(visual, name, image_size_of(visual), parse_size(size))
        return
    before = grid_of(visual, image_size_of(visual))
    size = image_size_of(visual) if size is None else parse_size(size)
    if is_vit(visual):
        if last_stride is not None:
            raise UserError(f"last_stride: {name} is a ViT, only a ResNet has a layer 4; leave it null")
        patch = min(visual.patch_size)
        if patch_stride is not None:
            if not 1 <= patch_stride <= patch:
                raise UserError(f"patch_stride: {patch_stride} is not allowed; {name} takes 1 to {patch}")
            visual.conv1.stride = (patch_stride, patch_stride)
        least, what = max(visual.patch_size), "one patch"
    else:
        if patch_stride is not None:
            raise UserError(f"patch_stride: {name} is a ResNet, only a ViT has patches; leave it null")
        if last_stride not in (None, 1, 2):
            raise UserError(f"last_stride: {last_stride} is not allowed; {name} takes 1 or 2")
        first = visual.layer4[0]
        if last_stride is not None and last_stride != first.stride:
            # In this ResNet striding is average pooling, once in the block's branch and once before its shortcut.
            first.stride = last_stride
            first.avgpool = nn.AvgPool2d(last_stride) if last_stride > 1 else nn.Identity()
            first.downsample[0] = nn.AvgPool2d(last_stride) if last_stride > 1 else nn.Identity()
        least, what = 16 * first.stride, "one place of its last layer"
    if min(size) < least:
        raise UserError(f"image_size: {spell(size)} is too small for {name}; {what} takes {least} pixels")
    visual.image_size = size
    owner = visual if is_vit(visual) else visual.attnpool
    if (after := grid_of(visual, size)) != before:
        table = resize_positions(owner.positional_embedding.detach(), before, after, positions)
        owner.positional_embedding = nn.Parameter(table, owner.positional_embedding.requires_grad)
        if is_vit(visual):
            visual.grid_size = after


def resize_positions(
    table: torch.Tensor, before: tuple[int, int], after: tuple[int, int], how: str = "bicubic"
) -> torch.Tensor:
    """Interpolate position embeddings (1 + rows * columns, C) from one grid (rows, columns) to another.

    The first entry belongs to no place and stays as it is. ``bicubic`` smooths where the grid gets coarser (as
    open_clip), ``bilinear`` does not (as CLIP-ReID).
    """
    antialias = how == "bicubic"
    places = table[1:].unflatten(0, before).permute(2, 0, 1)[None]  # (1, C, rows, columns)
    places = functional.interpolate(places, size=after, mode=how, antialias=antialias, align_corners=False)
    return torch.cat([table[:1], places[0].permute(1, 2, 0).flatten(0, 1)])
