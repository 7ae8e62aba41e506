"""Training defaults per backbone family: what a ``null`` in a params file stands for.

``params/published/README.md`` lists every departure from the papers, and the files beside it undo them.
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

# The user's short names, as open_clip spells the models OpenAI trained (they need QuickGELU).
ALIASES = {
    "vitb16": "ViT-B-16-quickgelu",
    "vitb32": "ViT-B-32-quickgelu",
    "vitl14": "ViT-L-14-quickgelu",
    "rn50": "RN50-quickgelu",
}
TIMM = "timm/"  # how names of timm's networks begin: image towers without text
OTHER_VOCABULARY = {"hf_tokenizer_name", "hf_model_name"}  # of open_clip's text_cfg: a vocabulary that is not CLIP's
EMBEDDED = "embedded"  # the small CLIP shipped with this package
SHIPPED = Path(__file__).parent.parent / "embedded" / "weights"  # its config, vocabulary and weights
MERGES = "merges.txt.gz"  # its vocabulary: the byte pairs that its tokenizer merges
WEIGHTS_CONFIG = "open_clip_config.json"  # what open_clip puts beside a file of weights: network and normalisation


def explain_unknown_model(model: str, others: Iterable[str]) -> str:
    """Say that a model is unknown, and which is meant or known; ``others`` are the names that open_clip has."""
    ours = [EMBEDDED, *ALIASES]
    near = difflib.get_close_matches(model, [*ours, *others], n=1)
    hint = f"did you mean {near[0]}?" if near else f"use {', '.join(ours)} or an open_clip model name such as ViT-B-16"
    return f"model: {model!r} is unknown; {hint}"


@dataclass(frozen=True)
class Recipe:
    """Numbers of one backbone family; rates are per optimiser step, lengths in epochs."""

    prompt_epochs: int  # of stage 2a
    prompt_lr: float  # its peak rate
    prompt_warm_up: float  # share of it that warms up
    encoder_epochs: int  # of stages 1 and 2b
    encoder_lr: float  # their peak rate
    head_lr: float  # of the classifier heads
    id_weight: float  # of the two identity losses
    batch_size: int  # images per step
    last_stride: int | None  # of a ResNet's layer 4; ViTs have none
    weight_decay: float  # Adam's L2 term in stages 1 and 2b
    bias_factor: float  # how much faster biases learn than weights
    warm_start: float  # share of the peak rate that warm-up starts from
    steps: tuple[float, float]  # shares of the run after which the rate falls to a tenth


# CLIP-ReID (arXiv 2211.13977), configs/person: the ViT is fine-tuned very gently, and its identity loss is
# scaled down because two heads and three triplet terms already pull on the same features. Its heads take
# CLIP-HandID's ten times larger rate: at 5e-6 a classifier trained on a few hundred hands would hardly move.
VIT = Recipe(
    prompt_epochs=120,
    prompt_lr=3.5e-4,
    prompt_warm_up=5 / 120,
    encoder_epochs=60,
    encoder_lr=5e-6,
    head_lr=5e-5,
    id_weight=0.25,
    batch_size=64,
    last_stride=None,
    weight_decay=1e-4,
    bias_factor=2.0,  # every parameter whose name holds "bias", in both of CLIP-ReID's families
    warm_start=0.1,
    steps=(30 / 60, 50 / 60),
)
# CLIP-ReID's ResNet needs a seventy times larger rate, more weight decay, a gentler start and half as many prompt
# epochs; layer 4 keeps its input's resolution, which gives the attention pool four times as many places to look at.
RESNET = replace(
    VIT,
    prompt_epochs=60,
    prompt_warm_up=5 / 60,
    encoder_epochs=120,
    encoder_lr=3.5e-4,
    head_lr=3.5e-4,
    id_weight=1.0,
    last_stride=1,
    weight_decay=5e-4,
    warm_start=0.01,
    steps=(40 / 120, 70 / 120),
)
# The embedded CLIP is a fiftieth of ViT-B-16's size and was trained on CPU, so it takes large steps and few
# epochs. Chosen on synthetic people of other seeds than the ones the demo trains and tests on.
SMALL = replace(
    VIT,
    prompt_epochs=40,
    prompt_lr=1e-2,
    encoder_epochs=16,
    encoder_lr=1e-3,
    head_lr=3e-3,
    id_weight=1.0,
    batch_size=32,
    last_stride=2,  # as it was pretrained: at 96 pixels there is little resolution to keep
    bias_factor=1.0,
)

# At B/16's rates ViT-L/14 ended far below it (CLIP-ReID's issue 7: mAP 79.1 against 89.8). Twice as many blocks move
# twice as far per step of Adam, and fine-tuning recipes lower the rate of deep towers (arXiv 2212.06138). Not measured
# here: it takes weights that this project's machines had not.
LARGE_VIT = replace(VIT, encoder_lr=2e-6)
# As ConvNeXt's authors fine-tune it (arXiv 2201.03545, appendix A.2): a rate between the ViT's and the ResNet's. It has
# layer norms, so that a batch of few people does not shift its statistics. Not measured here.
CONVNEXT = replace(VIT, encoder_lr=5e-5, id_weight=1.0)
# timm's convolutional networks with batch norms: CLIP-ReID's rates; their last stride is their own.
CONVNET = replace(RESNET, last_stride=None)

# How names of networks, in small letters and without tag, tell their family: convolutional ones of timm with batch
# norms, and what is large. Whatever else there is takes the gentle rate of ViTs.
IS_CONVOLUTIONAL = re.compile(
    "resne|res2ne|regne|densenet|efficientnet|mobilene|mobileone|mnasnet|nasnet|ghostnet|hrnet|darknet|vovnet|senet|"
    "rexnet|gernet|mixnet|tinynet|lcnet|fbnet|fastvit|vgg|ception|^dla|^dpn"
)
IS_LARGE = re.compile(r"large|huge|giant|gopt|so\d+m|_\d+b(?![a-z])|[-_](l|xl|h|e|g|bigg)(?![a-z])")


def recipe_of(model: str) -> Recipe:
    """Return the recipe of a model named as in params: alias, ``embedded``, open_clip's name, or ``timm/NAME``."""
    if model == EMBEDDED:
        return SMALL
    name = ALIASES.get(model, model)
    if name.startswith("RN"):
        return RESNET
    small = name.removeprefix(TIMM).lower().partition(".")[0]
    if small.startswith("convnext"):
        return CONVNEXT
    if name.startswith(TIMM) and IS_CONVOLUTIONAL.search(small) and not small.startswith("vit"):
        return CONVNET
    return LARGE_VIT if IS_LARGE.search(small) else VIT
