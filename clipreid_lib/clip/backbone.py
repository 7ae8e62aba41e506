"""The backbone: any model of open_clip, or timm network, loaded by name and given the shape that params ask for.

What it computes is :mod:`clipreid_lib.clip.clip_towers`, how its shape changes :mod:`clipreid_lib.clip.tower_shapes`,
which files of weights it takes :mod:`clipreid_lib.clip.weights`.
"""

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import file_sha
from clipreid_lib.clip import timm_towers, tower_shapes, weights
from clipreid_lib.clip.clip_towers import Backbone
from clipreid_lib.clip.self_attention import fuse_attention
from clipreid_lib.params.image_sizes import spell
from clipreid_lib.params.recipes import (
    ALIASES,
    EMBEDDED,
    MERGES,
    OTHER_VOCABULARY,
    SHIPPED,
    TIMM,
    explain_unknown_model,
)

import open_clip  # isort: skip
from open_clip.pretrained import get_pretrained_cfg  # isort: skip

__all__ = ["Backbone", "describe", "load"]


def load(
    model: str,
    pretrained: str | None = None,
    image_size: int | str | tuple[int, int] | None = None,
    patch_stride: int | None = None,
    last_stride: int | None = None,
    normalisation: str | None = None,
    activation: str | None = None,
    positions: str = "bicubic",
) -> Backbone:
    """Load a backbone on the CPU, in float32 and evaluation mode, all parameters frozen.

    The weights are loaded at the model's own size, then the image tower is adapted. Where a file's position embeddings
    are not of that size, the tower is adapted first: the file may have been trained in this very shape.

    Args:
        model: ``embedded``, an alias such as ``vitb16``, any open_clip model name, or ``timm/NAME``.
        pretrained: an open_clip or timm tag, a local weights file (then no network is touched), or ``random`` for an
            untrained network. None takes the shipped file for ``embedded``, OpenAI's weights for an alias, and timm's
            default tag for its networks.
        image_size: of the input: pixels of a square's side, ``"HEIGHTxWIDTH"`` or (height, width); None keeps the
            model's own.
        patch_stride: ViT: pixels from patch to patch; None keeps them side by side.
        last_stride: ResNet: stride of layer 4, 1 or 2; None keeps the model's own.
        normalisation: channel means and deviations: ``clip``, ``imagenet`` or ``inception``. None takes what a file or
            the ``open_clip_config.json`` beside it says, else the model's own.
        activation: likewise, as the weights were trained with: ``gelu`` or ``quick_gelu``.
        positions: how the table of positions gets to another size: ``bicubic``, or CLIP-ReID's ``bilinear``.

    Raises:
        UserError: unknown model, unknown or unfitting weights, no weights to be had, a shape it cannot take.
    """
    shape = image_size, patch_stride, last_stride, positions
    if model.startswith(TIMM):
        return _load_timm(model, pretrained, normalisation, activation, *shape)
    name, vocabulary = name_in_open_clip(model), {}
    if model == EMBEDDED:
        vocabulary = {"bpe_path": str(SHIPPED / MERGES)}
        open_clip.add_model_config(SHIPPED / f"{name}.json")
        pretrained = pretrained or str(SHIPPED / f"{name}.safetensors")
    if name not in open_clip.list_models():
        raise UserError(explain_unknown_model(model, open_clip.list_models()))
    if pretrained is None:
        if model not in ALIASES:
            raise UserError(
                f"pretrained: the open_clip model {model!r} needs a weights tag or file; "
                f"known tags: {', '.join(open_clip.list_pretrained_tags_by_model(model)) or 'none'}"
            )
        pretrained = "openai"
    logging.getLogger("root").setLevel(logging.ERROR)  # open_clip narrates its loading on the root logger
    try:
        tag = get_pretrained_cfg(name, pretrained)
        file = weights.read(pretrained, name) if Path(pretrained).is_file() and not tag else None
        settings, said = weights.settle(file, tag, activation, normalisation)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            # OpenAI's weights in a network with another activation give slightly wrong features everywhere.
            warnings.filterwarnings("error", message=".*QuickGELU")
            torch.manual_seed(0)  # so that `random` is the same untrained network in every notebook of a run
            found = None if file or pretrained == "random" else pretrained
            clip = open_clip.create_model(name, pretrained=found, **settings)
        others = OTHER_VOCABULARY & open_clip.get_model_config(name)["text_cfg"].keys()
        # Another vocabulary than CLIP's would be fetched from a hub, and has no place for a learnt token.
        tokenizer = None if others else open_clip.get_tokenizer(name, **vocabulary)
        backbone = Backbone(clip, tokenizer, model, pretrained)
        if file:
            if not backbone.is_timm and weights.count_places(file.tensors) != weights.count_places(clip.state_dict()):
                tower_shapes.adapt(clip.visual, model, *shape)
            weights.fill(clip, file, model)
            if file.image_only:
                backbone.mute = f"pretrained: {pretrained} holds an image encoder alone, which reads no sentences"
    except UserError:
        raise
    except Exception as error:  # open_clip raises whatever its loaders raise; the traceback stays with what is raised
        reason = " ".join(str(error).split()).split(". ")[0][:200]
        raise UserError(
            f"pretrained: {pretrained!r} cannot be loaded into {model} ({reason}); "
            "give an open_clip tag, or a safetensors or state-dict file of this very model (OpenAI's weights go with "
            "an alias such as vitb16, or with a name that ends in -quickgelu)"
        ) from error
    backbone.own_activation = weights.name_activation(open_clip.get_model_config(name))
    mean, std = (" ".join(f"{number:.4g}" for number in each) for each in backbone.normalisation)
    backbone.assumed = f"activation {backbone.activation} ({said['activation']}), mean {mean} and deviation {std} "
    backbone.assumed += f"({said['normalisation']})"
    if file and (its := weights.count_places(file.tensors)) != (here := weights.count_places(clip.state_dict())):
        backbone.assumed += f", position embeddings of {its} places interpolated to {here}"
    fuse_attention(clip.visual)
    tower_shapes.adapt(clip.visual, model, *shape)
    backbone.positions = positions
    if not backbone.is_vit:
        clip.visual.to(memory_format=torch.channels_last)  # a ResNet's step takes two thirds of the time on a CPU
    clip.eval().requires_grad_(False)
    return backbone


def _load_timm(
    model: str, pretrained: str | None, normalisation: str | None, activation: str | None, *shape: Any
) -> Backbone:
    if activation:
        raise UserError(f"activation: {model} has its own, in timm's code; leave it null")
    try:
        clip, tag, said = timm_towers.load(model, pretrained, normalisation)
    except UserError:
        raise
    except Exception as error:  # timm raises whatever its loaders raise, as open_clip does
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"pretrained: the weights of {model} cannot be loaded ({reason})") from error
    backbone = Backbone(clip, None, model, tag)
    backbone.assumed = said
    tower_shapes.adapt(clip.visual, model, *shape)
    backbone.clip.visual.to(memory_format=torch.channels_last)  # as CLIP's ResNet
    clip.eval().requires_grad_(False)
    return backbone


def name_in_open_clip(model: str) -> str:
    """Return what open_clip calls a model of the params."""
    return "embedded_clip" if model == EMBEDDED else ALIASES.get(model, model)


def check_tag(model: str, tag: str) -> None:
    """Refuse a tag of weights that open_clip does not know for a model.

    Raises:
        UserError: naming the tags that it knows.
    """
    name = ALIASES.get(model, model)
    if not get_pretrained_cfg(name, tag):
        known = ", ".join(open_clip.list_pretrained_tags_by_model(name)) or "none"
        raise UserError(f"pretrained: open_clip has no weights {tag!r} of {model}; known tags: {known}")


def describe(backbone: Backbone) -> dict:
    """Return the facts a checkpoint must state so that it is never loaded into something else."""
    visual, (mean, std) = backbone.clip.visual, backbone.normalisation
    file = Path(backbone.pretrained)
    # Named where it is not the model's own, so that checkpoints and features without this fact still fit.
    activation = "" if backbone.activation == backbone.own_activation else f" with {backbone.activation}"
    facts = {
        "model": backbone.name + activation,
        "pretrained": f"file {file_sha(file)[:12]}" if file.is_file() else backbone.pretrained,
        "image_size": spell(backbone.image_size),
        "patch_stride": visual.conv1.stride[0] if backbone.is_vit else None,
        "last_stride": visual.layer4[0].stride if hasattr(visual, "layer4") else None,
        "side_info": backbone.side_info or "none",
        "side_values": backbone.side_values,
        "mean": json.dumps(mean),
        "std": json.dumps(std),
        "embed_dim": backbone.embed_dim,
        "text_width": backbone.text_width if hasattr(backbone.text, "token_embedding") else None,
    }
    # Likewise.
    return facts if backbone.positions == "bicubic" else facts | {"positions": backbone.positions}
