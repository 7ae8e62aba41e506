"""Activation checkpointing of a ModifiedResNet, which open_clip offers for transformers alone.

A layer's inner activations are dropped after the forward pass and computed again when its gradient is wanted (Chen
et al. 2016, arXiv 1604.06174): a third more computation for the memory of one layer instead of four.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


def recompute_activations(layer: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """Return ``layer(maps)``, keeping nothing of what lies in between; same values, gradients and statistics.

    Args:
        layer: one layer of a ResNet.
        maps: (B, C, H, W) its input.
    """
    return checkpoint(
        layer, maps, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), keep_statistics(layer))
    )


@contextlib.contextmanager
def keep_statistics(layer: nn.Module) -> Iterator[None]:
    """Let batch norms update copies of their running statistics, so that each batch counts only once."""
    owners = [(part, name, kept) for part in layer.modules() for name, kept in part.named_buffers(recurse=False)]
    try:
        for part, name, kept in owners:
            setattr(part, name, kept.clone())
        yield
    finally:
        for part, name, kept in owners:
            setattr(part, name, kept)
