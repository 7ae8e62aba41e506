"""Sentences with slots: text whose tokens are partly learnt instead of looked up."""

from collections.abc import Sequence

import torch
from torch import nn

from clipreid_lib.backbone import Backbone
from clipreid_lib.errors import UserError

SLOT = "x"  # one token of CLIP's vocabulary; where it stands a learnt token goes


class Sentences(nn.Module):
    """One or more sentences that share the place of their slots.

    Args:
        backbone: whose vocabulary and text tower they are written for; it is not held or changed.
        texts: with ``slots`` times ``x`` in a row at the same place in each; a list of one serves every row.
        slots: number of learnt tokens.

    Raises:
        UserError: the vocabulary cuts a text in an unexpected way, or it does not fit the context.
    """

    def __init__(self, backbone: Backbone, texts: Sequence[str], slots: int):
        """Tokenise once and look the fixed words up."""
        super().__init__()
        self.texts, self.slots = list(texts), slots
        tokens = backbone.tokenize(self.texts)  # (S, L), S sentences
        marks = tokens == backbone.tokenizer.encode(SLOT)[0]
        self.first = int(marks[0].int().argmax()) if slots else 0
        in_a_row = torch.zeros_like(marks)
        in_a_row[:, self.first : self.first + slots] = True
        if not torch.equal(marks, in_a_row):
            raise UserError(f"num_prompts: {slots} tokens do not fit the text tower's context")
        with torch.no_grad():
            embedded = backbone.embed_tokens(tokens.to(backbone.device)).cpu()
        self.register_buffer("tokens", tokens)  # (S, L)
        self.register_buffer("embedded", embedded)  # (S, L, width)

    def features(self, backbone: Backbone, learnt: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
        """Return text features.

        Args:
            backbone: the text tower.
            learnt: (B, slots, width) token embeddings, or None without slots.
            rows: (B,) which sentence; ignored where there is one.

        Returns:
            (B, embed_dim), un-normalised.
        """
        rows = torch.zeros_like(rows) if len(self.texts) == 1 else rows
        words = self.embedded[rows]  # (B, L, width)
        if self.slots:
            words = torch.cat([words[:, : self.first], learnt, words[:, self.first + self.slots :]], dim=1)
        return backbone.text_features(words, self.tokens[rows])
