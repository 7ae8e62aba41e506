"""Texts through CLIP's text tower, token by token: prompts' tokens need not come from the vocabulary."""

from typing import Any

import torch
from torch import nn

from clipreid_lib.base.errors import UserError

from open_clip.tokenizer import SimpleTokenizer  # isort: skip
from open_clip.transformer import text_global_pool  # isort: skip


class TextSide(nn.Module):
    """What :class:`clipreid_lib.clip.clip_towers.Backbone` does with texts.

    Attributes:
        clip: open_clip's model.
        text: its text tower.
        tokenizer: open_clip's tokenizer; None where the model has no text tower with CLIP's vocabulary.
        name: the model as params name it, such as ``vitb16``.
        mute: why the model takes no sentences, such as a missing text tower; empty where it takes them.
    """

    text: Any  # open_clip's, whose parts differ from family to family

    def __init__(self, clip: nn.Module, tokenizer: Any, name: str) -> None:
        """Take the text tower of a model, with its tokenizer and the params' name of it."""
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.name = name
        self.text = getattr(clip, "text", clip)  # CustomTextCLIP keeps its text tower apart
        clips = isinstance(tokenizer, SimpleTokenizer) and getattr(self.text, "cls_emb", None) is None
        self.mute = "" if clips else f"model: {name} has no text tower with CLIP's vocabulary and form"

    @property
    def text_width(self) -> int:
        """Width of a token's embedding, where there is a text tower."""
        return self.text.token_embedding.weight.shape[1]

    def embed_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Look up token embeddings: ids (B, L) to (B, L, text_width).

        Raises:
            UserError: the model takes no sentences; :attr:`mute` says why.
        """
        self._refuse_where_mute()
        return self.text.token_embedding(tokens)

    def text_features(self, embeddings: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Run the text tower on token embeddings, which need not come from the vocabulary.

        Under CLIP's causal mask nothing after the end-of-text token can change its output, so prompts may be
        as short as their own length.

        Args:
            embeddings: (B, L, text_width), L at most the context length.
            tokens: (B, L) ids of the template: they say where the end-of-text token stands.

        Returns:
            (B, embed_dim), un-normalised.
        """
        tower, length = self.text, embeddings.shape[1]
        x = embeddings + tower.positional_embedding[:length]
        mask = tower.attn_mask
        x = tower.transformer(x, attn_mask=None if mask is None else mask[:length, :length])
        return self.read_out(x, tokens)

    def read_out(self, states: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Turn what the last block gives for ids (B, L), (B, L, text_width), into text features (B, embed_dim)."""
        tower = self.text
        x = tower.ln_final(states)
        pool = getattr(tower, "text_pool_type", None) or tower.pool_type
        eos = getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)
        x = text_global_pool(x, tokens, pool, eos_token_id=eos)  # (B, text_width) at the end-of-text token
        projection = tower.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """Turn texts into ids (B, L), cut after the longest text's end-of-text token where the mask allows.

        Raises:
            UserError: as :meth:`embed_tokens`.
        """
        self._refuse_where_mute()
        tokens = self.tokenizer(texts)
        if self.text.attn_mask is None:  # without a causal mask the padding counts too
            return tokens
        return tokens[:, : int((tokens != 0).sum(dim=1).max())]

    def _refuse_where_mute(self) -> None:
        if self.mute:
            raise UserError(f"{self.mute}; use variant frozen, tip_adapter, classifier or clipid_no_text")

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """Return the features of plain texts, (B, embed_dim), un-normalised."""
        tokens = self.tokenize(texts).to(self.text.token_embedding.weight.device)
        return self.text_features(self.embed_tokens(tokens), tokens)
