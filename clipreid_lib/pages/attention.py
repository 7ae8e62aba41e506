"""What an image tower looks at, as heat over its grid of places: rollout for a ViT with class token, else Grad-CAM.

The two answer different questions, and neither says why an image won; :attr:`Heat.legend` says so below a picture.
"""

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import tower_shapes
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import normalise
from clipreid_lib.clip.places import arrange_places, explained_layer

# A place's part in Grad-CAM is a part of the cosine; float32 sums over thousands of channels are no finer than this.
ROUNDING = 1e-6


class Heat(NamedTuple):
    """Maps of what the tower looks at in a query and in the image it is compared with.

    Attributes:
        maps: (2, gh, gw), not negative. Rollout: shares that sum to 1. Grad-CAM: relative to the map's maximum, which
            is 1; all zero where nothing adds to the cosine.
        cosine: of the two embeddings.
        method: ``attention rollout`` or ``Grad-CAM``.
        legend: what the maps show, and what they do not, in a few sentences.
    """

    maps: torch.Tensor
    cosine: float
    method: str
    legend: str


def map_heat(clip: Backbone, pair: torch.Tensor, side: torch.Tensor | None = None) -> Heat:
    """Map what the tower looks at in a query and in the image it is compared with, by the method its kind allows.

    Args:
        clip: with any image tower.
        pair: (2, 3, H, W) uint8.
        side: (2,) side information, from the backbone's ``side_rows``; None adds none.

    Raises:
        UserError: as :func:`roll_out_attention`.
    """
    images = prepare(clip, pair)
    with torch.no_grad():
        embeddings = clip.image_features(images, side).to_float32().embedding  # (2, D)
    if clip.has_class_token:
        maps, method, legend = roll_out_attention(clip, images, side), "attention rollout", ROLLOUT
    else:
        maps, method, legend = grad_cam(clip, images, embeddings.flip(0)), "Grad-CAM", GRAD_CAM
    cosine = functional.cosine_similarity(embeddings[:1], embeddings[1:]).item()
    return Heat(maps, cosine, method, legend.format(rows=maps.shape[1], columns=maps.shape[2]))


ROLLOUT = (
    "Attention rollout (Abnar and Zuidema 2020): from which of the {rows} × {columns} places information can have "
    "flowed into the class token, which the embedding is made of; heads averaged, layers multiplied. It does not show "
    "what decided, and an image's map is the same whatever it is compared with. Bare background may be hot: ViTs keep "
    "notes there."
)
GRAD_CAM = (
    "Grad-CAM in HiResCAM's form (Selvaraju et al. 2017; Draelos and Carin 2020): what each of the {rows} × {columns} "
    "places adds to this pair's cosine, to first order, the other image and the embedding's length held fixed. It is "
    "coarse, smoothed here, and each map is scaled to its own maximum; places that count against the likeness show "
    "cold. It explains this likeness, not why another image ranks lower or higher."
)


def roll_out_attention(clip: Backbone, images: torch.Tensor, side: torch.Tensor | None = None) -> torch.Tensor:
    """Follow the attention of a ViT from the class token back to the patches (Abnar & Zuidema 2020, arXiv 2005.00928).

    Plain patches may score high because ViTs use some of them as scratch space (arXiv 2309.16588).

    Args:
        clip: with a ViT.
        images: (B, 3, H, W), normalised.
        side: (B,) side information.

    Returns:
        (B, gh, gw) shares of the places, summing to 1, on the CPU.

    Raises:
        UserError: the tower's blocks hide their attention.
    """
    grid = tower_shapes.grid_of(clip.clip.visual, (images.shape[-2], images.shape[-1]))
    return multiply_layers(collect_attention(clip, images, side)).unflatten(1, grid).cpu()


def multiply_layers(attention: Sequence[torch.Tensor]) -> torch.Tensor:
    """Multiply attention through the layers, half of each layer's flow passing by on the skip connection.

    Args:
        attention: each layer's weights (B, L, L), first layer first, heads averaged, rows summing to 1; token 0 is
            the class token.

    Returns:
        (B, L - 1) shares of the other tokens in the class token, summing to 1.
    """
    flow = torch.eye(attention[0].shape[-1], device=attention[0].device).expand_as(attention[0])  # (B, L, L)
    for layer in attention:
        mixed = layer + torch.eye(layer.shape[-1], device=layer.device)  # the skip connection
        flow = mixed / mixed.sum(dim=-1, keepdim=True) @ flow
    shares = flow[:, 0, 1:]  # without the class token's share in itself
    return shares / shares.sum(dim=1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)


@torch.no_grad()
def collect_attention(clip: Backbone, images: torch.Tensor, side: torch.Tensor | None = None) -> list[torch.Tensor]:
    """Return every layer's attention (B, L, L) of a ViT, averaged over heads; arguments as in roll_out_attention."""
    layers: list[Any] = [getattr(block, "attn", None) for block in clip.clip.visual.transformer.resblocks]
    if not all(isinstance(layer, nn.MultiheadAttention) for layer in layers):
        raise UserError(f"attention rollout: {clip.name} keeps its attention to itself; use a ViT such as vitb16")
    seen: list[torch.Tensor] = []

    def ask(_: nn.Module, given: tuple, named: dict) -> tuple[tuple, dict]:  # open_clip's blocks say need_weights=False
        return given, {**named, "need_weights": True, "average_attn_weights": True}

    def note(_: nn.Module, given: tuple, out: tuple[torch.Tensor, torch.Tensor]) -> None:
        seen.append(out[1].detach().float())

    with contextlib.ExitStack() as hooks:
        for layer in layers:
            hooks.callback(layer.register_forward_pre_hook(ask, with_kwargs=True).remove)
            hooks.callback(layer.register_forward_hook(note).remove)
        clip.image_features(images, side)
    return seen


def grad_cam(clip: Backbone, images: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
    """Map where the last layer of places speaks for a likeness: gradient times response, summed over channels.

    The score explained is the cosine of the image's embedding (``f`` and ``f_proj`` side by side) to a fixed one.
    Grad-CAM (arXiv 1610.02391) averages each channel's gradient over the places, which an attention pool weighs
    differently, and a cosine ignores length, so what adds to it and what takes from it cancel. So the embedding's
    length is held fixed (as arXiv 1901.00536 does) and every place keeps its own gradient (HiResCAM, arXiv 2011.08891):
    the map is each place's share of the cosine, to first order. With the embedded CLIP on 60 demo pairs, maps and what
    covering each ninth of the query took from the cosine had a mean rank correlation of 0.71; as published, 0.28.

    Args:
        clip: with any image tower; its parameters may be frozen.
        images: (B, 3, H, W), normalised.
        towards: (B, D) the embedding each image is compared with.

    Returns:
        (B, gh, gw) in [0, 1], each map's maximum 1, on the CPU; places that count against the likeness are 0. All
        zero where no place adds more than rounding, such as towards an embedding of zeros.
    """
    kept: list[torch.Tensor] = []

    def cut(_: nn.Module, given: tuple, out: torch.Tensor) -> torch.Tensor:
        kept.append(out.detach().requires_grad_())  # a leaf: the gradient is wanted here, and in no layer below
        return kept[0]

    hook = explained_layer(clip.clip.visual).register_forward_hook(cut)
    try:
        with torch.enable_grad():
            ours = clip.image_features(images).to_float32().embedding  # (B, D)
            theirs = functional.normalize(towards.detach(), dim=1)
            length = ours.norm(dim=1, keepdim=True)  # (B, 1)
            score = (ours / length.detach() * theirs).sum()  # images do not mix
            (gradient,) = torch.autograd.grad(score, kept)  # as the layer gives it; leaves no .grad behind
    finally:
        hook.remove()
    parts = arrange_places(clip.clip.visual, gradient * kept[0].detach(), clip.image_size)  # (B, C, gh, gw)
    maps = parts.sum(dim=1).relu().float()  # (B, gh, gw)
    highest = maps.amax(dim=(1, 2), keepdim=True)  # (B, 1, 1)
    return torch.where(highest > ROUNDING, maps / highest.clamp(min=ROUNDING), 0.0).cpu()


def find_centres(clip: Backbone, grid: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Tell where the places of a grid (gh, gw) lie in the image: a ViT's patches, a layer of a ResNet, an even grid.

    Returns:
        How far down each row's middle lies, (gh,), and how far across each column's, (gw,), as shares of the image's
        height and width. Patches that overlap, or do not fill the image, lie off what an even grid would say.
    """
    visual, size = clip.clip.visual, clip.image_size
    reach: tuple[float, ...]
    step: tuple[float, ...]
    if clip.is_timm:
        reach = step = (size[0] / grid[0], size[1] / grid[1])
    elif clip.is_vit:
        reach, step = visual.patch_size, visual.conv1.stride
    else:  # everything up to layer 3 takes every 16th pixel
        last = visual.layer4[0].stride if grid == tower_shapes.grid_of(visual, size) else 1
        reach = step = (16 * last, 16 * last)
    sides = zip(grid, step, reach, size, strict=True)
    down, across = ((np.arange(n) * s + r / 2) / pixels for n, s, r, pixels in sides)
    return down, across


def prepare(clip: Backbone, pixels: torch.Tensor) -> torch.Tensor:
    """Return uint8 pixels (B, 3, H, W) as the tower wants them, and put it into evaluation mode."""
    clip.eval()
    return normalise(pixels.to(clip.device), *clip.normalisation)
