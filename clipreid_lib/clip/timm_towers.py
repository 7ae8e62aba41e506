"""Image towers of timm: alone (``timm/NAME``, no text tower), or as the trunk of an open_clip model.

timm's own functions give what CLIP-ReID calls its features, so that every network that lists its blocks can be used.
"""

import difflib
import inspect
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import resolve_model_data_config
from torch import nn

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import weights
from clipreid_lib.params.image_sizes import parse_size, spell
from clipreid_lib.params.recipes import TIMM

Tower = Any  # a TimmTower, or open_clip's TimmModel, which has the same parts


class TimmTower(nn.Module):
    """A timm network without its classifier, in the form of open_clip's ``TimmModel``: a trunk, and no head."""

    def __init__(self, trunk: Any) -> None:
        """Take a network that was made without a classifier."""
        super().__init__()
        self.trunk, self.head = trunk, nn.Sequential()
        self.preprocess_cfg = resolve_model_data_config(trunk)  # "mean", "std", "input_size": (3, H, W), ...
        self.image_size = tuple(self.preprocess_cfg["input_size"][1:])


class ImageOnly(nn.Module):
    """What stands for an open_clip model where there is no text tower."""

    def __init__(self, visual: TimmTower) -> None:
        """Hold the image tower under open_clip's name for it."""
        super().__init__()
        self.visual = visual

    def set_grad_checkpointing(self, on: bool) -> None:
        """Recompute activations in the backward pass instead of keeping them.

        Raises:
            UserError: the network cannot.
        """
        try:
            self.visual.trunk.set_grad_checkpointing(on)
        except AssertionError:
            if on:
                kind = type(self.visual.trunk).__name__
                raise UserError(f"checkpointing: timm's {kind} cannot recompute activations; use false") from None


def is_timm(visual: nn.Module) -> bool:
    """Tell a tower with a timm trunk from open_clip's own."""
    return hasattr(visual, "trunk")


def load(model: str, pretrained: str | None, normalisation: str | None) -> tuple[ImageOnly, str, str]:
    """Load a timm network without its classifier, at its own input size.

    Args:
        model: ``timm/NAME`` or ``timm/NAME.TAG``.
        pretrained: a tag of timm's, a weights file of this very network, ``random``; None takes timm's default tag.
        normalisation: a key of :data:`clipreid_lib.clip.weights.NORMALISATIONS`; None takes the weights' own.

    Returns:
        The network, the name of its weights, and what is assumed of them in words, their licence with it.

    Raises:
        UserError: an unknown name, no weights to be had, a file of another network, or blocks that cannot be seen.
    """
    weights.check_words(normalisation=normalisation)
    named, chosen = choose_weights(model, pretrained)
    file = weights.read_tensors(chosen) if Path(chosen).is_file() else None
    fetched = file is None and chosen != "random"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # so that `random` is the same untrained network in every notebook of a run
        trunk: Any = timm.create_model(named, pretrained=fetched, num_classes=0)
    if not hasattr(trunk, "forward_intermediates"):
        raise UserError(f"model: {model} does not show its blocks, so CLIP-ReID's f_last cannot be had; use another")
    if file is not None:
        ends = trunk.default_cfg.get("classifier") or ()
        ends = tuple(f"{end}." for end in ([ends] if isinstance(ends, str) else ends))
        trunk.load_state_dict({key: value for key, value in file.items() if not key.startswith(ends)})
    visual = TimmTower(trunk)
    if normalisation:
        mean, std = weights.NORMALISATIONS[normalisation]
        visual.preprocess_cfg |= {"mean": mean, "std": std}
    numbers = (" ".join(f"{number:.4g}" for number in visual.preprocess_cfg[key]) for key in ("mean", "std"))
    said = f"mean {next(numbers)} and deviation {next(numbers)} ({'as params say' if normalisation else 'timm'})"
    said += f", licence {licence_of(model, pretrained)}" if fetched else ""
    return ImageOnly(visual), chosen, said


def licence_of(model: str, pretrained: str | None = None) -> str:
    """Return the licence that timm states of the weights which :func:`choose_weights` finds.

    Some are not free: of DINOv3, MobileCLIP and others.
    """
    config = timm.get_pretrained_cfg(choose_weights(model, pretrained)[0], allow_unregistered=True)
    return (config and config.license) or "not stated by timm"


def choose_weights(model: str, pretrained: str | None) -> tuple[str, str]:
    """Say which network of timm is meant, and which weights, by what :func:`load` takes; nothing is loaded.

    Returns:
        ``NAME.TAG``, or ``NAME`` where no tag is known; and the tag, the file, or ``random``.

    Raises:
        UserError: an unknown name (the nearest is offered) or tag, two tags, or no weights to be had.
    """
    name, _, tag = model.removeprefix(TIMM).partition(".")
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"nearest: {', '.join(TIMM + each for each in near)}" if near else "timm.list_models() lists what it has"
        raise UserError(f"model: timm has no {name!r}; {hint}")
    tags = [each.partition(".")[2] for each in timm.list_pretrained(f"{name}.*")]
    apart = pretrained == "random" or Path(pretrained or "").is_file()  # then the tag gives sizes and statistics alone
    if tag and pretrained and not apart and pretrained != tag:
        raise UserError(f"pretrained: {pretrained!r} and {model} name two tags of weights; leave one away")
    usual = timm.get_pretrained_cfg(name, allow_unregistered=True)
    own = tag or (None if apart else pretrained) or (usual.tag if usual and tags else None)
    if own and own not in tags:
        raise UserError(f"pretrained: timm has no weights {own!r} of {name}; it has {', '.join(tags) or 'none'}")
    chosen = pretrained if apart else own
    if chosen is None:
        raise UserError(f"pretrained: timm has no weights of {name}; give a file, or random for an untrained network")
    return f"{name}.{own}" if own else name, chosen


def resize(visual: Tower, name: str, own: tuple[int, int], size: tuple[int, int]) -> None:
    """Let a tower of one (height, width) in pixels take images of another, in place; timm interpolates positions.

    Raises:
        UserError: its patches do not divide the size, or the network has one size alone.
    """
    if size == own:
        return
    trunk = visual.trunk
    patches = getattr(trunk, "patch_embed", None)
    patch = getattr(patches, "patch_size", None)
    if patch is not None and any(n % p for n, p in zip(size, parse_size(patch, "patch"), strict=True)):
        told = f"{spell(size)} is no multiple of {spell(parse_size(patch))}, the patches of {name}"
        raise UserError(f"image_size: {told}")
    try:
        if hasattr(trunk, "set_input_size"):
            trunk.set_input_size(size)
        with torch.no_grad():
            trunk.eval()(torch.zeros(1, 3, *size))  # convolutional networks take any size; others fail at their tables
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UserError(f"image_size: {name} cannot take {spell(size)}, its own is {spell(own)} ({error})") from error
    visual.image_size = size


def embed_dim_of(visual: Tower) -> int:
    """Width of what the projection gives, or of what the trunk pools where there is none."""
    trunk = visual.trunk
    linear = [part for part in visual.head.modules() if isinstance(part, nn.Linear)]
    if linear:
        return linear[-1].out_features
    return trunk.num_classes or getattr(trunk, "head_hidden_size", None) or trunk.num_features


def take_features(
    visual: Tower, images: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Run a tower with a trunk of timm on normalised images (B, 3, H, W).

    Returns:
        ``f_last`` (B, C'), of the block or stage before the last: its class token where the network reads one out,
        else the mean of its places. ``f`` (B, C), what the network pools, after its last norm. ``f_proj`` (B, D), what
        open_clip's projection makes of it, or None without one. The last block's places (B, C'', rows, columns).
    """
    trunk = visual.trunk
    more = {}
    if "return_prefix_tokens" in inspect.signature(trunk.forward_intermediates).parameters:
        more["return_prefix_tokens"] = True
    last, seen = trunk.forward_intermediates(images, indices=2, output_fmt="NCHW", **more)
    (places, *tokens), (end, *_) = (each if isinstance(each, tuple) else (each,) for each in seen)
    reads_token = getattr(trunk, "global_pool", "") == "token" and tokens
    before = tokens[0][:, 0] if reads_token else places.mean(dim=(2, 3))
    pooled = trunk.forward_head(last, pre_logits=True)
    projects = len(visual.head) or trunk.num_classes
    return before, pooled, visual.head(trunk.forward_head(last)) if projects else None, end
