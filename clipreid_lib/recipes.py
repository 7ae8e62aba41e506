"""Training defaults per backbone family: what a ``null`` in a params file stands for."""

from dataclasses import dataclass
from pathlib import Path

# The user's short names, as open_clip spells the models OpenAI trained (they need QuickGELU).
ALIASES = {
    "vitb16": "ViT-B-16-quickgelu",
    "vitb32": "ViT-B-32-quickgelu",
    "vitl14": "ViT-L-14-quickgelu",
    "rn50": "RN50-quickgelu",
}
EMBEDDED = "embedded"  # the small CLIP shipped with this package
SHIPPED = Path(__file__).parent / "embedded"  # its config, vocabulary and weights


@dataclass(frozen=True)
class Recipe:
    """Numbers of one backbone family; rates are per optimiser step, lengths in epochs."""

    prompt_epochs: int
    prompt_lr: float
    encoder_epochs: int
    encoder_lr: float
    head_lr: float
    id_weight: float
    batch_size: int


# CLIP-ReID (arXiv 2211.13977), configs/person: the ViT is fine-tuned very gently, and its identity loss is
# scaled down because two heads and three triplet terms already pull on the same features. Its heads take
# CLIP-HandID's ten times larger rate: at 5e-6 a classifier trained on a few hundred hands would hardly move.
VIT = Recipe(
    prompt_epochs=120,
    prompt_lr=3.5e-4,
    encoder_epochs=60,
    encoder_lr=5e-6,
    head_lr=5e-5,
    id_weight=0.25,
    batch_size=64,
)
# CLIP-ReID's ResNet needs a seventy times larger rate and half as many prompt epochs. The schedule's shape
# and the weight decay are still the ViT's.
RESNET = Recipe(
    prompt_epochs=60,
    prompt_lr=3.5e-4,
    encoder_epochs=120,
    encoder_lr=3.5e-4,
    head_lr=3.5e-4,
    id_weight=1.0,
    batch_size=64,
)
# The embedded CLIP is a fiftieth of ViT-B-16's size and was trained on CPU, so it takes large steps and few
# epochs. Chosen on synthetic people of other seeds than the ones the demo trains and tests on.
SMALL = Recipe(
    prompt_epochs=40,
    prompt_lr=1e-2,
    encoder_epochs=30,
    encoder_lr=1e-3,
    head_lr=3e-3,
    id_weight=1.0,
    batch_size=32,
)


def recipe_of(model: str) -> Recipe:
    """Return the recipe of a model named as in params (alias, ``embedded`` or open_clip name)."""
    if model == EMBEDDED:
        return SMALL
    return RESNET if ALIASES.get(model, model).startswith("RN") else VIT
