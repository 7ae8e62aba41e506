"""The CLIP backbone: any open_clip ViT or ModifiedResNet, and the features CLIP-ReID takes from it."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from clipreid_lib import _compat  # noqa: F401  torchvision must come in through the repaired door
from clipreid_lib.errors import UserError
from clipreid_lib.files import file_sha
from clipreid_lib.recipes import ALIASES, EMBEDDED, SHIPPED

import open_clip  # isort: skip
from open_clip.transformer import text_global_pool  # isort: skip


@dataclass(frozen=True)
class ImageFeatures:
    """CLIP-ReID's three features of an image batch (arXiv 2211.13977, supplementary material).

    Attributes:
        f_last: one block before the end: class token (ViT) or pooled layer 3 (ResNet), (B, width or width/2).
        f: after the last block and final norm, or pooled layer 4, (B, width).
        f_proj: in the space shared with text, un-normalised, (B, embed_dim).
    """

    f_last: torch.Tensor
    f: torch.Tensor
    f_proj: torch.Tensor

    @property
    def embedding(self) -> torch.Tensor:
        """What retrieval compares: ``f`` and ``f_proj`` side by side, (B, width + embed_dim)."""
        return torch.cat([self.f, self.f_proj], dim=1)


class Backbone(nn.Module):
    """An open_clip model with the views of it that re-identification needs.

    Args:
        clip: a model made by ``open_clip.create_model``.
        tokenizer: its tokenizer.
        name: how the params named it.
        pretrained: which weights it carries, in words.
    """

    def __init__(self, clip: nn.Module, tokenizer, name: str, pretrained: str):
        """Wrap a model whose image tower has class token or layers as CLIP-ReID needs them."""
        super().__init__()
        self.clip = clip
        self.tokenizer = tokenizer
        self.name = name
        self.pretrained = pretrained
        self.text = clip.text if hasattr(clip, "text") else clip  # CustomTextCLIP keeps its text tower apart
        self.is_vit = hasattr(clip.visual, "ln_post")
        known = (self.is_vit and clip.visual.attn_pool is None) or hasattr(clip.visual, "layer4")
        if not known or not hasattr(self.text, "token_embedding"):
            raise UserError(f"model: {name} is neither an open_clip ViT nor a ModifiedResNet with CLIP's text tower")

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        size = self.clip.visual.image_size
        return size[0] if isinstance(size, (tuple, list)) else size

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Channel means and deviations the weights were trained with."""
        config = open_clip.get_model_preprocess_cfg(self.clip)
        return tuple(config["mean"]), tuple(config["std"])

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self.text.positional_embedding.device

    @property
    def text_width(self) -> int:
        """Width of a token's embedding."""
        return self.text.token_embedding.weight.shape[1]

    @property
    def logit_scale(self) -> float:
        """CLIP's learned inverse temperature for normalised features."""
        return float(self.clip.logit_scale.exp())

    def image_features(self, images: torch.Tensor) -> ImageFeatures:
        """Run the image tower on normalised images (B, 3, H, W)."""
        visual = self.clip.visual
        if self.is_vit:
            out = visual.forward_intermediates(images, indices=2, output_extra_tokens=True)
            before, last = (tokens[:, 0] for tokens in out["image_intermediates_prefix"])  # class tokens (B, width)
            return ImageFeatures(before, visual.ln_post(last), out["image_features"])
        out = visual.forward_intermediates(images, indices=2)
        layer3, layer4 = (maps.mean(dim=(2, 3)) for maps in out["image_intermediates"])
        return ImageFeatures(layer3, layer4, out["image_features"])

    def embed_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """Look up token embeddings: ids (B, L) to (B, L, text_width)."""
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
        x = tower.ln_final(x)  # (B, L, text_width)
        pool = getattr(tower, "text_pool_type", None) or tower.pool_type
        eos = getattr(tower, "text_eos_id", None) or getattr(tower, "eos_id", None)
        x = text_global_pool(x, tokens, pool, eos_token_id=eos)  # (B, text_width) at the end-of-text token
        projection = tower.text_projection
        if projection is None:
            return x
        return projection(x) if isinstance(projection, nn.Linear) else x @ projection

    def tokenize(self, texts: list[str]) -> torch.Tensor:
        """Turn texts into ids (B, L), cut after the longest text's end-of-text token where the mask allows."""
        tokens = self.tokenizer(texts)
        if self.text.attn_mask is None:  # without a causal mask the padding counts too
            return tokens
        return tokens[:, : int((tokens != 0).sum(dim=1).max())]

    def encode_texts(self, texts: list[str]) -> torch.Tensor:
        """Return the features of plain texts, (B, embed_dim), un-normalised."""
        tokens = self.tokenize(texts).to(self.device)
        return self.text_features(self.embed_tokens(tokens), tokens)


def load(model: str, pretrained: str | None = None, image_size: int | None = None) -> Backbone:
    """Load a backbone on the CPU, in float32 and evaluation mode, all parameters frozen.

    Args:
        model: ``embedded``, an alias such as ``vitb16``, or any open_clip model name.
        pretrained: an open_clip tag, a local weights file (then no network is touched), or ``random`` for an
            untrained network. None takes the shipped file for ``embedded`` and OpenAI's weights for an alias.
        image_size: side in pixels; None keeps the model's own.

    Raises:
        UserError: unknown model, unknown or unfitting weights, no weights to be had.
    """
    name, tokenizer_options = ALIASES.get(model, model), {}
    if model == EMBEDDED:
        name = "embedded_clip"
        open_clip.add_model_config(SHIPPED / f"{name}.json")
        tokenizer_options["bpe_path"] = str(SHIPPED / "merges.txt.gz")
        pretrained = pretrained or str(SHIPPED / f"{name}.safetensors")
    elif pretrained is None:
        if model not in ALIASES:
            raise UserError(
                f"pretrained: the open_clip model {model!r} needs a weights tag or file; "
                f"known tags: {', '.join(open_clip.list_pretrained_tags_by_model(model)) or 'none'}"
            )
        pretrained = "openai"
    if name not in open_clip.list_models():
        known = ", ".join([EMBEDDED, *ALIASES])
        raise UserError(f"model: {model!r} is unknown; use {known} or an open_clip model name such as ViT-B-16")
    logging.getLogger("root").setLevel(logging.ERROR)  # open_clip narrates its loading on the root logger
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # so that `random` is the same untrained network in every notebook of a run
            clip = open_clip.create_model(
                name,
                pretrained=None if pretrained == "random" else pretrained,
                force_image_size=image_size,
            )
        tokenizer = open_clip.get_tokenizer(name, **tokenizer_options)
    except Exception as error:  # open_clip raises whatever its loaders raise: all of it means "these weights won't do"
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        raise UserError(
            f"pretrained: {pretrained!r} cannot be loaded into {model} ({reason}); "
            "give an open_clip tag, or a safetensors or state-dict file of this very model"
        ) from None
    clip.eval().requires_grad_(False)
    return Backbone(clip, tokenizer, model, pretrained)


def describe(backbone: Backbone) -> dict:
    """Return the facts a checkpoint must state so that it is never loaded into something else."""
    mean, std = backbone.normalisation
    weights = Path(backbone.pretrained)
    return {
        "model": backbone.name,
        "pretrained": f"file {file_sha(weights)[:12]}" if weights.is_file() else backbone.pretrained,
        "image_size": backbone.image_size,
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "embed_dim": backbone.clip.visual.output_dim,
        "text_width": backbone.text_width,
    }
