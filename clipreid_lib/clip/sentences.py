"""Sentences with slots: text whose tokens are partly learnt instead of looked up."""

from collections.abc import Sequence

import torch
from torch import nn

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.text_prefix import TextPrefix

SLOT = "x"  # one token of CLIP's vocabulary; where it stands a learnt token goes


class Sentences(nn.Module):
    """One or more sentences that share the place of their slots and what stands before it."""

    tokens: torch.Tensor  # (S, L), S sentences
    embedded: torch.Tensor  # (S, L, width)

    def __init__(self, backbone: Backbone, texts: Sequence[str], slots: int) -> None:
        """Tokenise once and look the fixed words up.

        Args:
            backbone: whose vocabulary and text tower they are written for; it is not held or changed.
            texts: with ``slots`` times ``x`` in a row at the same place in each; a list of one serves every row.
            slots: number of learnt tokens.

        Raises:
            UserError: the vocabulary cuts a text in an unexpected way, or it does not fit the context.
        """
        super().__init__()
        self.texts, self.slots = list(texts), slots
        tokens = backbone.tokenize(self.texts)
        marks = tokens == backbone.tokenizer.encode(SLOT)[0]
        self.first = int(marks[0].int().argmax()) if slots else 0
        in_a_row = torch.zeros_like(marks)
        in_a_row[:, self.first : self.first + slots] = True
        if not torch.equal(marks, in_a_row) or (tokens[:, : self.first] != tokens[0, : self.first]).any():
            raise UserError(f"num_prompts: {slots} tokens do not fit the text tower's context")
        with torch.no_grad():
            embedded = backbone.embed_tokens(tokens.to(backbone.device)).cpu()
        self.register_buffer("tokens", tokens)
        self.register_buffer("embedded", embedded)
        self._prefix: tuple[tuple, TextPrefix] | None = None

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
        words, tokens = self.embedded[rows], self.tokens[rows]  # (B, L, width), (B, L)
        if self.slots:
            assert learnt is not None  # as many as there are slots
            words = torch.cat([words[:, : self.first], learnt, words[:, self.first + self.slots :]], dim=1)
            if TextPrefix.fits(backbone):
                states = self._beginning(backbone).states(backbone, words[:, self.first :])
                return backbone.read_out(states, tokens[:, self.first :])
        return backbone.text_features(words, tokens)

    def _beginning(self, backbone: Backbone) -> TextPrefix:
        whose = (backbone.text.transformer, self.embedded.device)
        if self._prefix is None or self._prefix[0] != whose:
            # All texts share what stands before their slots, which stand at the same place.
            self._prefix = whose, TextPrefix(backbone, self.embedded[:1, : self.first])
        return self._prefix[1]
