"""The model that learns to identify: CLIP's image encoder with BNNeck classifiers on two of its features."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import see_images
from clipreid_lib.clip.image_features import ImageFeatures

HEADS = ("head_composed", "head", "head_proj")  # of composed, f and f_proj, whichever a model has


@dataclass(frozen=True)
class ModelOutput:
    """What one batch gives: the features, and identity logits of the heads, each (B, identities)."""

    features: ImageFeatures
    logits: torch.Tensor
    logits_proj: torch.Tensor | None  # None where the tower has no projection
    logits_composed: torch.Tensor | None = None  # these two where the model composes features, as PromptSG does
    text: torch.Tensor | None = None  # (B, embed_dim), text feature of each image's own sentence


class BNNeck(nn.Module):
    """Batch norm without a learnt shift, then a bias-free classifier (Luo et al. 2019, arXiv 1903.07071)."""

    def __init__(self, width: int, identities: int) -> None:
        """Start the classifier near zero, so that the first gradients come from the data."""
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.norm.bias.requires_grad_(False)
        self.classifier = nn.Linear(width, identities, bias=False)
        nn.init.normal_(self.classifier.weight, std=0.001)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return identity logits (B, identities) for features (B, width)."""
        return self.classifier(self.norm(features))


class ClipidModel(nn.Module):
    """Image encoder plus heads on ``f`` and, where there is one, ``f_proj``, as CLIP-ReID and CLIP-HandID train them.

    Args:
        backbone: its image tower becomes trainable here; its text tower stays frozen.
        identities: number of people to tell apart.
    """

    def __init__(self, backbone: Backbone, identities: int) -> None:
        """Measure the feature widths with one blank image and build the heads."""
        super().__init__()
        self.backbone = backbone
        backbone.clip.visual.requires_grad_(True)
        with torch.no_grad():
            blank = torch.zeros(1, 3, *backbone.image_size, device=backbone.device)
            features = backbone.image_features(blank)
        self.head = BNNeck(features.f.shape[1], identities)
        shared = features.f_proj
        self.head_proj = None if shared is None else BNNeck(shared.shape[1], identities)
        self.composer: nn.Module | None = None
        self.head_composed: BNNeck | None = None

    def add_composer(self, composer: nn.Module) -> None:
        """Compose features with a :class:`~clipreid_lib.method.promptsg.Composer`, and draw a third head for them."""
        self.composer = composer.to(self.backbone.device)
        head = BNNeck(cast(int, composer.width), self.head.classifier.out_features)
        self.head_composed = head.to(self.backbone.device)

    def forward(
        self, images: torch.Tensor, side: torch.Tensor | None = None, number: torch.dtype = torch.float32
    ) -> ModelOutput:
        """Run images through the encoder, and its features in float32 through the heads.

        Args:
            images: (B, 3, H, W), normalised.
            side: (B,) rows of side information; None adds none.
            number: format of the encoder's products; the losses need all the digits of what follows.
        """
        features, text = see_images(self.backbone, images, side, self.composer, number)
        projected = None if self.head_proj is None else self.head_proj(features.f_proj)
        composed = None if self.head_composed is None else self.head_composed(features.composed)
        return ModelOutput(features, self.head(features.f), projected, composed, text)

    def train(self, mode: bool = True) -> "ClipidModel":
        """Switch image encoder and heads; the frozen text tower and frozen batch norms stay in evaluation mode.

        A batch norm's running statistics are as much a part of what is frozen as its weights are.
        """
        super().train(mode)
        self.backbone.clip.eval()
        self.backbone.clip.visual.train(mode)
        for part in self.backbone.clip.visual.modules():
            if isinstance(part, _BatchNorm) and (part.weight is None or not part.weight.requires_grad):
                part.eval()
        return self

    @property
    def heads(self) -> dict[str, BNNeck]:
        """The heads by the names that checkpoints give them, in the order in which features stand side by side."""
        return {name: head for name in HEADS if (head := getattr(self, name)) is not None}

    def parameter_groups(self, encoder_lr: float, head_lr: float, bias_factor: float = 1.0) -> list[dict]:
        """Split the trainable parameters into encoder and heads, weights and biases, each with its peak rate.

        Args:
            encoder_lr: of the image encoder.
            head_lr: of the classifier heads and the composer.
            bias_factor: how much faster biases learn, in both.

        Returns:
            Groups for an optimiser, each with ``params`` and, equal at first, ``lr`` and ``peak``; empty ones are left
            out.
        """
        groups = []
        added = [] if self.composer is None else [self.composer]
        for parts, rate in (([self.backbone], encoder_lr), ([*self.heads.values(), *added], head_lr)):
            learning = [(n, p) for part in parts for n, p in part.named_parameters() if p.requires_grad]
            for peak, biased in ((rate, False), (rate * bias_factor, True)):
                chosen = [p for name, p in learning if ("bias" in name) == biased]
                if chosen:
                    groups.append({"params": chosen, "lr": peak, "peak": peak})
        return groups
