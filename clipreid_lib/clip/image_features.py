"""The image features that CLIP-ReID takes from a tower, and where each family of networks has them."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ImageFeatures:
    """CLIP-ReID's three features of an image batch (arXiv 2211.13977, supplementary material).

    ====================== =========================== ============================ ===================================
    family                 ``f_last``                  ``f``                        ``f_proj``
    ====================== =========================== ============================ ===================================
    ViT with class token   the class token one block   the class token after the    ``f`` through CLIP's projection
                           before the end              last block and norm
    ViT that pools         the mean of the patches one what it pools after the      ``f`` through CLIP's projection
    (CLIPA, CoCa)          block before the end        last block and norm
    CLIP's ResNet          the mean of layer 3         the mean of layer 4          layer 4 through the attention pool
    timm in open_clip      of the last block or stage  what it pools, after its     ``f`` through its projection; none
    (SigLIP, EVA,          but one: the class token,   last norm                    for SigLIP, whose ``f`` is shared
    ConvNeXt)              or the mean of the places                                with text
    ``timm/NAME``          likewise                    likewise                     none
    ====================== =========================== ============================ ===================================
    """

    f_last: torch.Tensor  # (B, its width)
    f: torch.Tensor  # (B, width)
    f_proj: torch.Tensor | None = None  # (B, embed_dim), un-normalised
    composed: torch.Tensor | None = None  # (B, embed_dim), PromptSG's feature of an image and its own sentence

    def to_float32(self) -> "ImageFeatures":
        """Return the same in float32, whatever they were computed in: losses need all the digits."""
        return ImageFeatures(*(None if each is None else each.float() for each in vars(self).values()))  # type: ignore[arg-type]

    @property
    def embedding(self) -> torch.Tensor:
        """What retrieval compares: ``composed``, ``f`` and ``f_proj`` side by side, whichever are there, (B, D)."""
        return torch.cat([each for each in (self.composed, self.f, self.f_proj) if each is not None], dim=1)

    @property
    def in_text_space(self) -> torch.Tensor:
        """The feature in the space shared with text, (B, embed_dim): ``f_proj``, or ``f`` without a projection."""
        return self.f if self.f_proj is None else self.f_proj
