"""Textual inversion: a network that turns an image's feature into a word, as CLIP-HandID proposes."""

import torch
from torch import nn

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.sentences import SLOT, Sentences
from clipreid_lib.method.clipid_model import ModelOutput
from clipreid_lib.method.contrastive_loss import contrast_both_ways


class Inversion(nn.Module):
    """Maps an image feature to one token embedding, and that to the text feature of "a photo of a [it] hand.".

    Three linear layers with layer norm, GELU and dropout between them, as CLIP-HandID describes (arXiv 2506.12447).
    In its published code no gradient reaches the network and the word is averaged over its own components; here the
    word keeps its components and the text tower is differentiated through. The word starts at the length that the
    vocabulary's words have, since CLIP's text tower never read longer ones. Weights and logits of the losses are
    the ladder's (``id_weight``, ``text_weight``, ``text_logits``), where CLIP-HandID weighs all alike on raw dots.

    Args:
        backbone: its text tower reads the word; it is not held or changed.
        noun: end of the sentence.
    """

    def __init__(self, backbone: Backbone, noun: str = "hand.") -> None:
        """Build the network for the backbone's widths."""
        super().__init__()
        before, width = backbone.embed_dim, backbone.text_width
        layers: list[nn.Module] = []
        wide = 4 * before
        for _ in range(2):
            layers += [nn.Linear(before, wide), nn.LayerNorm(wide), nn.GELU(), nn.Dropout(0.5)]
            before = wide
        last = nn.LayerNorm(width)
        self.network = nn.Sequential(*layers, nn.Linear(wide, width), last)
        length = backbone.text.token_embedding.weight.norm(dim=1).mean()
        nn.init.constant_(last.weight, float(length) / width**0.5)
        self.sentence = Sentences(backbone, [f"a photo of a {SLOT} {noun}"], slots=1)

    def text_features(self, backbone: Backbone, f_proj: torch.Tensor) -> torch.Tensor:
        """Return the text feature of each image's own sentence, un-normalised; it and ``f_proj`` are (B, embed_dim)."""
        word = self.network(f_proj)[:, None]  # (B, 1, text_width)
        rows = torch.zeros(len(f_proj), dtype=torch.long, device=f_proj.device)
        return self.sentence.features(backbone, word, rows)


class InversionLoss(nn.Module):
    """Contrast, in both directions, between each image and the sentence that :class:`Inversion` makes of it.

    Args:
        logits: ``cosine`` or ``dot``, as :func:`~clipreid_lib.method.prompt_bank.scale_pair` takes them.
        noun: end of the sentence; CLIP-HandID's has no full stop.
    """

    def __init__(self, logits: str = "cosine", noun: str = "hand.") -> None:
        """Wait for :meth:`build`."""
        super().__init__()
        self.logits, self.noun = logits, noun

    def build(self, clip: Backbone) -> None:
        """Make the network for a backbone; the training does so, right after it has drawn its heads."""
        self.reader = Inversion(clip, noun=self.noun).to(clip.device)
        self._scale = clip.logit_scale  # once: to read it, a GPU has to wait
        self._clip = [clip]  # in a list, so that the backbone's own parameters do not count as this loss's

    def forward(self, out: ModelOutput, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return ``image_to_text`` and ``text_to_image`` of a batch, (B,) rows of the label map."""
        (clip,) = self._clip
        with torch.random.fork_rng(devices=[]):  # its dropout must not change the crops that follow
            text = self.reader.text_features(clip, out.features.in_text_space)  # (B, embed_dim)
        return contrast_both_ways(out.features.in_text_space, text, rows, self.logits, self._scale)
