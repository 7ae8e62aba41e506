"""Self-attention through torch's fused kernel, in training too, with the parameters of ``nn.MultiheadAttention``."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class SelfAttention(nn.MultiheadAttention):
    """The same attention. In training, torch's own copies queries, keys and values before its kernel reads them."""

    def forward(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *more: Any, **named: Any) -> Any:
        """Return the attended tokens (B, L, width), and weights where they are asked for."""
        plain = not more and named.get("attn_mask") is None and named.get("need_weights") is False
        if not (plain and key is query and value is query):
            return super().forward(query, key, value, *more, **named)
        queries, keys, values = split_heads(self, query)  # (B, heads, L, width / heads) each
        attended = functional.scaled_dot_product_attention(queries, keys, values)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


def split_heads(attention: nn.MultiheadAttention, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the queries, keys and values of tokens (B, L, width), each (B, heads, L, width / heads)."""
    joint = functional.linear(x, attention.in_proj_weight, attention.in_proj_bias)  # (B, L, 3 width)
    return tuple(part.unflatten(2, (attention.num_heads, -1)).transpose(1, 2) for part in joint.chunk(3, dim=2))


def fuse_attention(visual: nn.Module) -> None:
    """Let a ViT's blocks attend through the fused kernel, in place. Other attention is left as it is."""
    for part in visual.modules():
        if type(part) is nn.MultiheadAttention and part.batch_first:
            part.__class__ = SelfAttention  # it has no state of its own, so weights and their names stay
