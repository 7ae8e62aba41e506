"""Backbone: the image tower with CLIP-ReID's features; :mod:`clipreid_lib.clip.text_tower` has the text side."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import timm_towers, tower_shapes
from clipreid_lib.clip.image_features import ImageFeatures
from clipreid_lib.clip.text_tower import TextSide

import open_clip  # isort: skip
from open_clip.transformer import QuickGELU  # isort: skip


def _recompute(layer: nn.Module, maps: torch.Tensor) -> torch.Tensor:
    """Return a ResNet's ``layer(maps)``, keeping nothing of what lies in between until its gradient is wanted.

    This is activation checkpointing (Chen et al. 2016, arXiv 1604.06174), which open_clip offers for transformers
    alone. Values, gradients and statistics are the same.
    """
    context = contextlib.nullcontext(), _keep_statistics(layer)
    return checkpoint(layer, maps, use_reentrant=False, context_fn=lambda: context)


@contextlib.contextmanager
def _keep_statistics(layer: nn.Module) -> Iterator[None]:
    # The second pass updates copies of the batch norms' running statistics, so that each batch counts only once.
    owners = [(part, name, kept) for part in layer.modules() for name, kept in part.named_buffers(recurse=False)]
    try:
        for part, name, kept in owners:
            setattr(part, name, kept.clone())
        yield
    finally:
        for part, name, kept in owners:
            setattr(part, name, kept)


class Backbone(TextSide):
    """An open_clip model with the views of it that re-identification needs.

    Make one with :func:`clipreid_lib.clip.backbone.load`. It also has what :class:`TextSide` has.

    Attributes:
        clip: open_clip's model; ``clip.visual`` is its image tower.
        pretrained: its weights as params name them: a tag, a file or ``random``.
        assumed: its activation and normalisation in words, and where each was found.
        own_activation: the activation that the model's name implies; :attr:`activation` is the one in use.
        is_vit: whether the image tower is a ViT of open_clip.
        is_timm: whether the image tower is a network of timm.
        has_class_token: whether the image feature is read from a class token.
        checkpointing: whether activations are recomputed in the backward pass; see :meth:`set_checkpointing`.
        positions: how the table of positions was resized: ``bicubic`` or ``bilinear``.
        side_info: the column of the image table given to :meth:`add_side_information`; None without.
        side_values: (values,) that column's values, in the order of their vectors; None without.
    """

    clip: Any  # open_clip's model, whose parts differ from family to family

    def __init__(self, clip: nn.Module, tokenizer: Any, name: str, pretrained: str) -> None:
        """Wrap a model and its tokenizer, with the params' name of it and of its weights.

        Raises:
            UserError: its image tower is of a kind that CLIP-ReID's features are not defined for.
        """
        super().__init__(clip, tokenizer, name)
        self.pretrained = pretrained
        self.own_activation = self.activation  # that of the model's name
        self.assumed = ""  # its activation and normalisation in words, and who says so
        visual = self.clip.visual
        self.is_timm = timm_towers.is_timm(visual)
        self.is_vit = not self.is_timm and tower_shapes.is_vit(visual)  # open_clip's own
        self.has_class_token = self.is_vit and visual.attn_pool is None and visual.pool_type == "tok"
        self.checkpointing = False
        self.positions = "bicubic"  # how their table was resized
        self.side_info: str | None = None  # column of the image table that `add_side_information` was told
        self.side_values: list | None = None  # that column's values, in the order of the vectors
        if not (self.is_timm or self.is_vit or hasattr(visual, "attnpool")):
            raise UserError(f"model: {name} has an image tower of no known kind; use a ViT, CLIP's ResNet or timm's")

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return tower_shapes.image_size_of(self.clip.visual)

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Channel means and deviations the weights were trained with."""
        config = open_clip.get_model_preprocess_cfg(self.clip)
        return tuple(config["mean"]), tuple(config["std"])

    @property
    def activation(self) -> str:
        """The non-linearity of its transformers: ``gelu``, or ``quick_gelu`` as in OpenAI's CLIP."""
        return "quick_gelu" if any(isinstance(part, QuickGELU) for part in self.clip.modules()) else "gelu"

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return next(self.clip.parameters()).device

    @property
    def embed_dim(self) -> int:
        """Width of the space shared with text; of ``f`` where there is no projection."""
        visual = self.clip.visual
        return timm_towers.embed_dim_of(visual) if self.is_timm else visual.output_dim

    @property
    def logit_scale(self) -> float:
        """CLIP's learned inverse temperature for normalised features."""
        return float(self.clip.logit_scale.exp())

    def set_checkpointing(self, on: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them: less memory, same gradients."""
        self.clip.set_grad_checkpointing(on)  # open_clip's, for the transformers of both towers
        self.checkpointing = on  # ours, for a ResNet's layers

    def add_side_information(self, column: str, values: list) -> None:
        """Give the image tower a trainable vector for each of a table column's values, to add to its class token.

        The vectors belong to ``clip.visual``, are trained and saved with it, and start from the same truncated
        normal draw (deviation 0.02) every time. CLIP-ReID (arXiv 2211.13977, after TransReID, arXiv 2102.04378)
        adds them with coefficient 1. Any other value gets no vector.

        Raises:
            UserError: the image tower reads out no class token, or there are no values.
        """
        if not self.has_class_token:
            raise UserError(f"side_info: {self.name} is no ViT of CLIP with a class token to add to; use none")
        if not values:
            raise UserError(f"side_info: the training images have no {column}; use none")
        self.side_info = column
        self.side_values = [value.item() if hasattr(value, "item") else value for value in values]
        width = self.clip.visual.class_embedding.shape[0]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            vectors = nn.init.trunc_normal_(torch.empty(len(values), width), std=0.02)  # (values, width)
        self.clip.visual.side_embedding = nn.Parameter(vectors.to(self.device))

    def side_rows(self, table: pd.DataFrame) -> torch.Tensor | None:
        """Return which vector each row of an image table gets, (rows,); -1 is none. None without side information."""
        if self.side_values is None:
            return None
        place = {value: row for row, value in enumerate(self.side_values)}
        return torch.tensor([place.get(value, -1) for value in table[self.side_info]], dtype=torch.long)

    def image_features(self, images: torch.Tensor, side: torch.Tensor | None = None) -> ImageFeatures:
        """Return the features of normalised images (B, 3, H, W), in the precision that the tower computes in.

        ``side`` (B,) is as :meth:`side_rows` gives it; None adds no vectors.

        Raises:
            ValueError: ``side`` is given, but :meth:`add_side_information` was not called.
        """
        return self._run_image_tower(images, side)[0]

    def image_tokens(
        self, images: torch.Tensor, side: torch.Tensor | None = None
    ) -> tuple[ImageFeatures, torch.Tensor]:
        """Run CLIP's own image tower once for what :meth:`image_features` returns, and for every place of the images.

        Returns:
            The features, and (B, L, width), row by row of the picture: a ViT's patches after the last block and its
            final norm, without the class token; a ResNet's places after layer 4, before the attention pool.

        Raises:
            ValueError: as :meth:`image_features`.
        """
        features, last = self._run_image_tower(images, side)
        return features, self.clip.visual.ln_post(last) if self.is_vit else last.flatten(2).transpose(1, 2)

    def _run_image_tower(self, images: torch.Tensor, side: torch.Tensor | None) -> tuple[ImageFeatures, torch.Tensor]:
        """Return the features, and the places after the last block: a ViT's (B, L, width), a ResNet's (B, C, H, W)."""
        visual = self.clip.visual
        if side is not None and self.side_values is None:
            raise ValueError("rows of side information, but add_side_information was not called")
        if self.is_timm:
            f_last, f, f_proj, places = timm_towers.take_features(visual, images)
            return ImageFeatures(f_last, f, f_proj), places
        if self.is_vit:
            # NLC: as maps, open_clip could not return the tokens of overlapping patches
            how = {"indices": 2, "output_fmt": "NLC", "output_extra_tokens": True}
            with self._side_vectors(side):
                out = visual.forward_intermediates(images, **how, intermediates_only=not self.has_class_token)
            before, last = (tokens[:, 0] for tokens in out["image_intermediates_prefix"])  # class tokens (B, width)
            early, late = out["image_intermediates"]  # patches (B, places, width)
            if self.has_class_token:
                return ImageFeatures(before, visual.ln_post(last), out["image_features"]), late
            pooled, _ = visual._pool(torch.cat([last[:, None], late], dim=1))  # as open_clip's own forward does
            projected = None if visual.proj is None else pooled @ visual.proj
            return ImageFeatures(early.mean(dim=1), pooled, projected), late
        maps = visual.stem(images)  # (B, C, H/4, W/4)
        seen = []
        for layer in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            maps = _recompute(layer, maps) if self.checkpointing else layer(maps)
            seen.append(maps)
        layer3, layer4 = (each.mean(dim=(2, 3)) for each in seen[-2:])
        return ImageFeatures(layer3, layer4, visual.attnpool(maps)), maps

    @contextlib.contextmanager
    def _side_vectors(self, side: torch.Tensor | None) -> Iterator[None]:
        # open_clip's tower takes images alone, so the vectors join on the way: what ln_pre is given are the tokens
        # (B, 1 + places, width) with their positions, the class token first.
        if side is None:
            yield
            return
        side, vectors = side.to(self.device), self.clip.visual.side_embedding
        chosen = vectors[side.clamp(min=0)] * (side >= 0)[:, None]  # (B, width)

        def add(_: nn.Module, given: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            (tokens,) = given
            return (torch.cat([tokens[:, :1] + chosen[:, None].to(tokens.dtype), tokens[:, 1:]], dim=1),)

        handle = self.clip.visual.ln_pre.register_forward_pre_hook(add)
        try:
            yield
        finally:
            handle.remove()
