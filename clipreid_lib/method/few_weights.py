"""Few weights to train: which parameters of an image tower learn, and low-rank changes of those that do not."""

import re
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip.timm_towers import is_timm
from clipreid_lib.clip.tower_shapes import Tower, is_vit

WORDS = re.compile(r"all|norms|(last|lora)-([1-9]\d*)")
ALLOWED = "all, norms, last-N or lora-R with whole numbers from 1, such as last-2 or lora-4"
STAGES = ("layer1", "layer2", "layer3", "layer4")  # of a ResNet: each is several blocks that share one resolution
AFTER = ("ln_post", "proj", "attn_pool", "attnpool")  # what a ViT or ResNet does with its last block's output
NEW = "side_embedding"  # starts from noise, so that freezing it would add noise to every image
ALPHA = 4.0  # lora-4 adds B A as it is; ALPHA / R keeps Adam's first step as long at every R (arXiv 2106.09685, 4.1)


class Chosen(NamedTuple):
    """Names of the parameters that learn themselves, and of those that low-rank changes are added to."""

    whole: set[str]
    changed: set[str]


def choose(visual: Tower, train: str) -> Chosen:
    """Say which parameters of an image tower train, by the word ``train``.

    ``all`` are all. ``last-N`` are the last N blocks of a ViT's transformer, or stages (layer4, layer3, ...) of a
    ResNet, and what follows them: final norm and projection, or attention pool; of a network of timm, of the blocks or
    stages that it lists. ``norms`` are weights and biases of all normalisation layers and nothing else (Frankle et al.
    2020, arXiv 2003.00152). ``lora-R`` are changes of rank R (Hu et al. 2021, arXiv 2106.09685) of a ViT's attention
    and MLP matrices, or of all convolutions and the pool's matrices of a convolutional network. Vectors of side
    information are new and train always.

    Raises:
        UserError: another word, or more blocks than the tower has.
    """
    if not (said := WORDS.fullmatch(train)):
        raise UserError(f"train: {train!r} is not allowed; use {ALLOWED}")
    names = {name for name, _ in visual.named_parameters()}
    new, kind = names & {NEW}, said[1] or train
    if kind == "all":
        return Chosen(names, set())
    if kind == "norms":
        if not (norms := _list_norms(visual)):
            raise UserError("train: norms, but the image tower has no normalisation layers; use all, last-N or lora-R")
        return Chosen(new | norms, set())
    if kind == "lora":
        return Chosen(new, _list_matrices(visual))
    blocks, after = _list_blocks(visual)
    if (wanted := int(said[2])) > len(blocks):
        first, *_, last = blocks
        most = f"use last-1 to last-{len(blocks)}"
        raise UserError(f"train: {train}, but the image tower has {len(blocks)} blocks ({first} to {last}); {most}")
    parts = [part for block in [*blocks.values()][-wanted:] for part in block] + [*after]
    return Chosen(new | {name for name in names if any(f"{name}.".startswith(f"{part}.") for part in parts)}, set())


def prepare(visual: Tower, train: str, seed: int) -> tuple[int, int]:
    """Freeze the rest of an image tower, and add low-rank changes to it where ``train`` says so, in place.

    A change starts at zero: the tower computes what it did, digit for digit. :func:`merge` ends it. ``seed`` draws the
    changes' random halves.

    Returns:
        How many numbers train, and how many weights the tower has.

    Raises:
        UserError: as :func:`choose`.
    """
    chosen, weights = choose(visual, train), dict(visual.named_parameters())
    for name, weight in weights.items():
        weight.requires_grad_(name in chosen.whole)
    draw = torch.Generator().manual_seed(seed)
    for name in filter(chosen.changed.__contains__, weights):
        owner, _, own = name.rpartition(".")
        parts = 3 if own == "in_proj_weight" or owner.endswith(".qkv") else 1  # queries, keys and values
        change = LowRank(weights[name], int(train.rpartition("-")[2]), parts, draw)
        parametrize.register_parametrization(visual.get_submodule(owner), own, change)
    learning = sum(weight.numel() for weight in visual.parameters() if weight.requires_grad)
    return learning, sum(weight.numel() for weight in weights.values())


def merge(visual: Tower) -> None:
    """Add the low-rank changes to the weights for good, in place. The weights have their usual names again."""
    for part in list(visual.modules()):
        for own in list(getattr(part, "parametrizations", ())):
            parametrize.remove_parametrizations(part, own, leave_parametrized=True)


class LowRank(nn.Module):
    """LoRA as a parametrisation of a weight W: W + ALPHA / R * B A, where B starts at zero.

    Args:
        weight: (out, ...); what follows is one axis to it, so that a convolution's kernels are rows.
        rank: R; a matrix with fewer rows or columns gets as many.
        parts: matrices that lie on one another in W: three in a joint weight of queries, keys and values, which each
            get a change of their own, as in the paper.
        draw: gives A its normal numbers, of a size that keeps A x as large as x.
    """

    def __init__(self, weight: torch.Tensor, rank: int, parts: int, draw: torch.Generator) -> None:
        """Draw A on the CPU, so that it is the same on every device."""
        super().__init__()
        rows, columns = weight.shape[0] // parts, weight[0].numel()
        rank = min(rank, rows, columns)
        self.scale = ALPHA / rank
        a = torch.randn(parts, rank, columns, generator=draw) / columns**0.5
        self.a = nn.Parameter(a.to(weight.device))
        self.b = nn.Parameter(torch.zeros(parts, rows, rank, device=weight.device))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        """Return the changed weight, in float32 whatever the network computes in: so it is merged, too."""
        with torch.autocast(weight.device.type, enabled=False):
            return weight + self.scale * (self.b @ self.a).reshape(weight.shape)  # keeps the weight's memory format


def _list_blocks(visual: Tower) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """Return by name what a tower's blocks or stages are made of, in their order, and what follows the last."""
    if is_vit(visual):
        rows = range(len(visual.transformer.resblocks))
        return {f"block {row + 1}": (f"transformer.resblocks.{row}",) for row in rows}, AFTER
    if not is_timm(visual):
        return {stage: (stage,) for stage in STAGES}, AFTER
    weights = [name for name, _ in visual.named_parameters()]  # in the order in which the network was built
    blocks: dict[str, tuple[str, ...]] = {}
    begin = 0
    for block in (each["module"] for each in visual.trunk.feature_info):
        mine = [row for row, name in enumerate(weights) if name.startswith(f"trunk.{block}.")]
        if mine:  # a stem may be listed by its activation alone
            begin = begin if blocks else mine[0]
            blocks[block] = tuple(weights[begin : mine[-1] + 1])  # what stands between two belongs to the later one
            begin = mine[-1] + 1
    return blocks, tuple(weights[begin:])


def _list_norms(visual: Tower) -> set[str]:
    # Told by the names of their classes: torch's, open_clip's and timm's have no common base.
    found = [(path, part) for path, part in visual.named_modules() if "norm" in type(part).__name__.lower()]
    return {f"{path}.{own}" for path, part in found for own, _ in part.named_parameters(recurse=False)}


def _list_matrices(visual: Tower) -> set[str]:
    # Not a ViT's first convolution, which turns pixels into tokens and is neither attention nor MLP. A network of timm
    # whose weights are mostly matrices is taken for a transformer.
    matrices = sum(part.weight.numel() for part in visual.modules() if isinstance(part, nn.Linear))
    plain = 2 * matrices > sum(weight.numel() for weight in visual.parameters()) if is_timm(visual) else is_vit(visual)
    kinds = (nn.Linear,) if plain else (nn.Linear, nn.Conv2d)
    found = {f"{path}.weight" for path, part in visual.named_modules() if isinstance(part, kinds)}
    joint = [path for path, part in visual.named_modules() if isinstance(part, nn.MultiheadAttention)]
    names = {name for name, _ in visual.named_parameters()}
    apart = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")  # joint, or where widths differ
    return found | {each for path in joint for own in apart if (each := f"{path}.{own}") in names}
