"""Loss terms of the image encoder's training: each is a weight and a function of (model's output, labels)."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, is_dataclass
from typing import cast

import torch
from torch.nn import functional

from clipreid_lib.method.clipid_model import ModelOutput
from clipreid_lib.method.prompt_bank import text_logits
from clipreid_lib.method.settings_check import check_settings
from clipreid_lib.method.triplet_loss import batch_hard_triplet

# A loss takes what the model made of a batch and (B,) rows of the label map. It returns a scalar, or several by name.
# One that is a torch module learns along with the encoder, and is saved beside it.
Loss = Callable[[ModelOutput, torch.Tensor], torch.Tensor | dict[str, torch.Tensor]]


@dataclass(frozen=True)
class Term:
    """A loss and what it weighs in the sum."""

    weight: float
    loss: Loss


@dataclass(frozen=True)
class IdentityLoss:
    """Cross entropy of all heads, added: which training person is it?

    Attributes:
        smoothing: share of the target that goes to all people alike; 0.1 is CLIP-ReID's.
    """

    smoothing: float = 0.1

    def __call__(self, out: ModelOutput, rows: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss."""
        heads = (out.logits, out.logits_proj, out.logits_composed)
        return _add(cross_entropy(each, rows, self.smoothing) for each in heads if each is not None)


@dataclass(frozen=True)
class TripletLoss:
    """Batch-hard triplet loss on CLIP-ReID's three features and PromptSG's, whichever are there, added.

    Attributes:
        margin: in the features' own unit; 0.3 is CLIP-ReID's.
    """

    margin: float = 0.3

    def __call__(self, out: ModelOutput, rows: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss."""
        all_of_them = (out.features.f_last, out.features.f, out.features.f_proj, out.features.composed)
        return _add(batch_hard_triplet(each, rows, self.margin) for each in all_of_them if each is not None)


@dataclass(frozen=True, eq=False)
class AnchorLoss:
    """CLIP-ReID's image-to-text loss: cross entropy of an image's similarity to all identities' frozen anchors.

    An identity with several anchors, one per aspect, has the sum of their probabilities.

    Attributes:
        anchors: (identities, embed_dim) or (identities, each, embed_dim), in the order of the label map; from
            ``PromptBank.anchors``.
        scale: CLIP's learned inverse temperature, ``Backbone.logit_scale``.
        logits: ``cosine`` or ``dot``, as :func:`~clipreid_lib.method.prompt_bank.text_logits` takes them.
        smoothing: as for :class:`IdentityLoss`.

    Raises:
        UserError: ``logits`` is another word.
    """

    anchors: torch.Tensor = field(repr=False)
    scale: float
    logits: str = "cosine"
    smoothing: float = 0.1

    def __post_init__(self) -> None:
        """Refuse what is not allowed."""
        check_settings(self)

    def __call__(self, out: ModelOutput, rows: torch.Tensor) -> torch.Tensor:
        """Return the scalar loss."""
        likeness = text_logits(out.features.in_text_space, self.anchors.flatten(0, -2), self.logits, self.scale)
        if self.anchors.ndim == 3:
            likeness = likeness.unflatten(1, self.anchors.shape[:2]).logsumexp(dim=2)
        return cross_entropy(likeness, rows, self.smoothing)  # of (B, identities)


def weigh_terms(terms: dict[str, Term], out: ModelOutput, rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return every term's weighted loss by name, for what the model made of a batch and the batch's label rows (B,)."""
    found: dict[str, torch.Tensor] = {}
    for name, term in terms.items():
        value = term.loss(out, rows)
        several = value if isinstance(value, dict) else {name: value}
        found |= {each: term.weight * loss for each, loss in several.items()}
    return found


def describe_loss(loss: Loss) -> str:
    """Say what a loss is, in the same words in every process: its settings where it is a dataclass, else its name."""
    return repr(loss) if is_dataclass(loss) else getattr(loss, "__qualname__", type(loss).__qualname__)


def cross_entropy(logits: torch.Tensor, rows: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Cross entropy (B, identities) against rows (B,), with label smoothing (Szegedy et al. 2016, arXiv 1512.00567)."""
    return functional.cross_entropy(logits, rows, label_smoothing=smoothing)


def _add(losses: Iterable[torch.Tensor]) -> torch.Tensor:
    return cast(torch.Tensor, sum(losses))
