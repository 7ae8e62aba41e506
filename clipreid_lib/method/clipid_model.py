"""The model that learns to identify: CLIP's image encoder with BNNeck classifiers on two of its features."""

import contextlib
from dataclasses import dataclass

import torch
from torch import nn

from clipreid_lib.clip.backbone import Backbone, ImageFeatures


@dataclass(frozen=True)
class ModelOutput:
    """What one batch gives: the features, and identity logits of each head, (B, identities)."""

    features: ImageFeatures
    logits: torch.Tensor
    logits_proj: torch.Tensor | None  # None where the tower has no projection


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

    def forward(
        self, images: torch.Tensor, side: torch.Tensor | None = None, number: torch.dtype = torch.float32
    ) -> ModelOutput:
        """Run images through the encoder, and its features in float32 through the heads.

        Args:
            images: (B, 3, H, W), normalised.
            side: (B,) rows of side information; None adds none.
            number: format of the encoder's products; the losses need all the digits of what follows.
        """
        half = torch.autocast(images.device.type, number) if number is not torch.float32 else contextlib.nullcontext()
        with half:
            features = self.backbone.image_features(images, side).to_float32()
        projected = None if self.head_proj is None else self.head_proj(features.f_proj)
        return ModelOutput(features, self.head(features.f), projected)

    def train(self, mode: bool = True) -> "ClipidModel":
        """Switch image encoder and heads; the frozen text tower and frozen batch norms stay in evaluation mode.

        A batch norm's running statistics are as much a part of what is frozen as its weights are.
        """
        super().train(mode)
        self.backbone.clip.eval()
        self.backbone.clip.visual.train(mode)
        for part in self.backbone.clip.visual.modules():
            if isinstance(part, nn.BatchNorm2d) and not part.weight.requires_grad:
                part.eval()
        return self

    @property
    def heads(self) -> dict[str, BNNeck]:
        """The heads by the names that checkpoints give them."""
        each = {"head": self.head, "head_proj": self.head_proj}
        return {name: head for name, head in each.items() if head is not None}

    def parameter_groups(self, encoder_lr: float, head_lr: float, bias_factor: float = 1.0) -> list[dict]:
        """Split the trainable parameters into encoder and heads, weights and biases, each with its peak rate.

        Args:
            encoder_lr: of the image encoder.
            head_lr: of the classifier heads.
            bias_factor: how much faster biases learn, in both.

        Returns:
            Groups for an optimiser, each with ``params`` and, equal at first, ``lr`` and ``peak``; empty ones are left
            out.
        """
        groups = []
        for parts, rate in (((self.backbone,), encoder_lr), (self.heads.values(), head_lr)):
            learning = [(n, p) for part in parts for n, p in part.named_parameters() if p.requires_grad]
            for peak, biased in ((rate, False), (rate * bias_factor, True)):
                chosen = [p for name, p in learning if ("bias" in name) == biased]
                if chosen:
                    groups.append({"params": chosen, "lr": peak, "peak": peak})
        return groups
