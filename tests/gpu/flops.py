"""Floating-point operations counted from a tower's shape, and what data sheets say of cards."""

import torch
from torch import nn

from clipreid_lib.clip.backbone import Backbone

TRAINING = 3  # times a forward pass: the backward pass takes a product for the input and one for the weights
# Dense bf16 TFLOP/s. Names as torch gives them; the first that fits counts.
PEAKS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H200": 989,
    "A100": 312,
    "A10G": 70,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "RTX 4090": 165,
    "RTX 3090": 71,
}


def peak_of(card: str) -> float | None:
    """Return a card's dense bf16 TFLOP/s by its data sheet; None for one that is not known here."""
    return next((float(peak) for name, peak in PEAKS.items() if name in card), None)


def forward_flops(clip: Backbone) -> float:
    """Count one image's way through the image tower: two per product of two numbers, and nothing but products.

    Counted by hand because torch's own counter does not see attention's fast path.

    Args:
        clip: with any image tower, in the shape that is meant.
    """
    total = 0.0

    def count(layer: nn.Module, given: tuple, out: torch.Tensor) -> None:
        nonlocal total
        if isinstance(layer, nn.Conv2d):
            kernel = layer.in_channels // layer.groups * layer.kernel_size[0] * layer.kernel_size[1]
            total += 2 * kernel * out.numel()
        else:
            total += 2 * layer.in_features * out.numel()

    # The linear layer inside an attention is used as a pair of matrices, not called: attention counts them itself.
    inside = {id(part.out_proj) for part in clip.clip.visual.modules() if isinstance(part, nn.MultiheadAttention)}
    counted = [part for part in clip.clip.visual.modules() if isinstance(part, nn.Conv2d | nn.Linear)]
    pooled = getattr(clip.clip.visual, "attnpool", None)
    counted = [p for p in counted if id(p) not in inside and p not in (pooled.children() if pooled else ())]
    handles = [part.register_forward_hook(count) for part in counted]
    try:
        with torch.no_grad():
            clip.image_features(torch.zeros(1, 3, *clip.image_size, device=clip.device))
    finally:
        for handle in handles:
            handle.remove()
    return total + _attention_flops(clip)


def _attention_flops(clip: Backbone) -> float:
    visual = clip.clip.visual
    if not clip.is_vit:
        pool = visual.attnpool
        tokens, width = pool.positional_embedding.shape
        # open_clip lets every place ask, not the mean alone.
        return 2 * tokens * width * (3 * width + pool.c_proj.out_features) + 4 * tokens**2 * width
    tokens, width = visual.positional_embedding.shape
    blocks = len(visual.transformer.resblocks)
    projection = 0 if visual.proj is None else 2 * width * visual.proj.shape[1]
    return blocks * (8 * tokens * width**2 + 4 * tokens**2 * width) + projection
