"""Sentences with slots: text whose tokens are partly learnt instead of looked up."""

from collections.abc import Sequence

import torch
from torch import nn

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.text_prefix import TextPrefix

SLOT = "x"  # one token of CLIP's vocabulary; where it stands a learnt token goes


class Sentences(nn.Module):
    """One or more sentences, each with the same number of slots in a row."""

    tokens: torch.Tensor  # (S, L), S sentences
    embedded: torch.Tensor  # (S, L, width)
    places: torch.Tensor  # (S, slots), where the learnt tokens go

    def __init__(self, backbone: Backbone, texts: Sequence[str], slots: int) -> None:
        """Tokenise once and look the fixed words up.

        Args:
            backbone: whose vocabulary and text tower they are written for; it is not held or changed.
            texts: with ``slots`` times ``x`` in a row in each; a list of one serves every row.
            slots: number of learnt tokens.

        Raises:
            UserError: the vocabulary cuts a text in an unexpected way, or it does not fit the context.
        """
        super().__init__()
        self.texts, self.slots = list(texts), slots
        tokens = backbone.tokenize(self.texts)
        marks = tokens == backbone.tokenizer.encode(SLOT)[0]
        if slots and (own := marks.sum(dim=1) > slots).any():
            text = self.texts[int(own.int().argmax())].replace(" ".join(slots * [SLOT]), "...")
            told = f"{SLOT} stands for a learnable token; give the aspect or noun another name"
            raise UserError(f"sentence {text!r}: {told}")
        places = marks.int().argmax(dim=1, keepdim=True) + torch.arange(slots)  # (S, slots)
        in_a_row = torch.zeros_like(marks)
        if not slots or places.max() < tokens.shape[1]:
            in_a_row.scatter_(1, places, True)
        if slots and not torch.equal(marks, in_a_row):
            raise UserError(f"num_prompts: {slots} tokens do not fit the text tower's context")
        differ = (tokens != tokens[0]).any(dim=0).nonzero()  # from the first of these on, sentences go their own ways
        self.shared = min([int(each.min()) for each in (differ, places) if each.numel()], default=0)
        with torch.no_grad():
            embedded = backbone.embed_tokens(tokens.to(backbone.device)).cpu()
        self.register_buffer("tokens", tokens)
        self.register_buffer("embedded", embedded)
        self.register_buffer("places", places, persistent=False)
        self._prefix: tuple[tuple, TextPrefix] | None = None

    def features(self, backbone: Backbone, learnt: torch.Tensor | None, rows: torch.Tensor) -> torch.Tensor:
        """Return text features (B, embed_dim), un-normalised, with learnt token embeddings (B, slots, width), if any.

        ``rows`` (B,) say which sentence; they are ignored where there is one. ``learnt`` is None without slots.
        """
        rows = torch.zeros_like(rows) if len(self.texts) == 1 else rows
        words, tokens = self.embedded[rows], self.tokens[rows]  # (B, L, width), (B, L)
        if self.slots:
            assert learnt is not None  # as many as there are slots
            words = words.scatter(1, self.places[rows].unsqueeze(2).expand_as(learnt), learnt)
            if TextPrefix.fits(backbone):
                states = self._beginning(backbone).states(backbone, words[:, self.shared :])
                return backbone.read_out(states, tokens[:, self.shared :])
        return backbone.text_features(words, tokens)

    def _beginning(self, backbone: Backbone) -> TextPrefix:
        whose = (backbone.text.transformer, self.embedded.device)
        if self._prefix is None or self._prefix[0] != whose:
            self._prefix = whose, TextPrefix(backbone, self.embedded[:1, : self.shared])
        return self._prefix[1]
