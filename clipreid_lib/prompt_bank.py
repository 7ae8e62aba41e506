"""Learnable prompts: one sentence per identity, with tokens of its own in the middle."""

import torch
from torch import nn

from clipreid_lib.backbone import Backbone
from clipreid_lib.errors import UserError

PLACEHOLDER = "x"  # one token of CLIP's vocabulary; where it stands the learnable tokens go


class PromptBank(nn.Module):
    """Prompts ``a photo of a [X]1 ... [X]M hand.``, one per identity, as in CLIP-ReID (arXiv 2211.13977).

    Only the M tokens of each identity learn. With ``prompt_dim`` each is a short code that one linear layer,
    shared by all identities and learnt with them, maps to the text width.

    Args:
        backbone: whose vocabulary and text tower the prompts are written for; it is not held or changed.
        identities: the people, in the order of the rows; kept as the label map.
        num_prompts: M, learnable tokens per identity.
        prompt_dim: width of a code; None learns at the text width itself, as CLIP-ReID does.

    Raises:
        UserError: the vocabulary cuts the template in an unexpected way, or M tokens do not fit the context.
    """

    def __init__(self, backbone: Backbone, identities: list[int], num_prompts: int = 4, prompt_dim: int | None = None):
        """Tokenise the template once and draw the codes from N(0, 0.02), CLIP's own scale of embeddings."""
        super().__init__()
        self.identities = [int(identity) for identity in identities]
        self.template = f"a photo of a {' '.join([PLACEHOLDER] * num_prompts)} hand."
        tokens = backbone.tokenize([self.template])  # (1, L)
        marks = (tokens[0] == backbone.tokenizer.encode(PLACEHOLDER)[0]).nonzero().flatten()
        if len(marks) != num_prompts or int(marks[-1] - marks[0]) != num_prompts - 1:
            raise UserError(f"num_prompts: {num_prompts} tokens do not fit the text tower's context")
        self.first = int(marks[0])
        self.num_prompts = num_prompts
        width = backbone.text_width
        self.codes = nn.Parameter(torch.randn(len(self.identities), num_prompts, prompt_dim or width) * 0.02)
        self.to_width = nn.Linear(prompt_dim, width, bias=False) if prompt_dim else nn.Identity()
        with torch.no_grad():
            embedded = backbone.embed_tokens(tokens.to(backbone.device))
        self.register_buffer("tokens", tokens)  # (1, L)
        self.register_buffer("prefix", embedded[:, : self.first].cpu())  # (1, first, width)
        self.register_buffer("suffix", embedded[:, self.first + num_prompts :].cpu())  # (1, rest, width)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the token embeddings of some identities' sentences: rows (B,) to (B, L, text_width)."""
        learnt = self.to_width(self.codes[rows])  # (B, M, text_width)
        return torch.cat([self.prefix.expand(len(rows), -1, -1), learnt, self.suffix.expand(len(rows), -1, -1)], 1)

    def text_features(self, backbone: Backbone, rows: torch.Tensor) -> torch.Tensor:
        """Return some identities' text features through the backbone's text tower, (B, embed_dim)."""
        return backbone.text_features(self(rows), self.tokens.expand(len(rows), -1))

    @torch.no_grad()
    def anchors(self, backbone: Backbone) -> torch.Tensor:
        """Return every identity's text feature, (identities, embed_dim), un-normalised."""
        return self.text_features(backbone, torch.arange(len(self.identities), device=self.codes.device))


def text_logits(image: torch.Tensor, text: torch.Tensor, how: str, scale: float) -> torch.Tensor:
    """Similarity of images to texts as the losses take it.

    Args:
        image: (B, D) projected image features.
        text: (T, D) text features.
        how: ``dot`` takes raw dot products (as published: CLIP's feature norms of about 10 act as the
            temperature); ``cosine`` takes cosines times ``scale`` and so works whatever a backbone's norms are.
        scale: CLIP's learned inverse temperature.

    Returns:
        (B, T).
    """
    image, text = scaled_pair(image, text, how, scale)
    return image @ text.T


def scaled_pair(image: torch.Tensor, text: torch.Tensor, how: str, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both sides such that their plain dot product is what :func:`text_logits` describes."""
    if how == "dot":
        return image, text
    return nn.functional.normalize(image, dim=1) * scale, nn.functional.normalize(text, dim=1)
