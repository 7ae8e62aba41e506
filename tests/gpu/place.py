"""Where a section runs: the GPU, or the CPU in a rehearsal; and what all sections need there.

This module is imported once for all sections, so it imports what takes long and starts nothing on a GPU.
"""

import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn import functional
from verdicts import GPU_ONLY, Row

from clipreid_lib.base.files import replacing, write_json
from clipreid_lib.clip import backbone
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.method import encoder_finetune, prompt_learning, sampler  # noqa: F401  imported for all
from clipreid_lib.method.encoder_finetune import EncoderSettings
from clipreid_lib.method.inversion import InversionLoss
from clipreid_lib.method.loss_terms import AnchorLoss, IdentityLoss, Term, TripletLoss
from clipreid_lib.method.prompt_bank import PromptBank
from clipreid_lib.pages import attention  # noqa: F401  imported for all
from clipreid_lib.params.recipes import ALIASES, EMBEDDED

import open_clip  # isort: skip

_Any = TypeVar("_Any")
SMALL_VIT = "rehearsal-vit"
SMALL_VIT_SHAPE = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 64, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 16, "width": 32, "heads": 2, "layers": 1},
}


@dataclass(frozen=True)
class Place:
    """A device and its sizes.

    Attributes:
        rehearse: on the CPU, as small as can be: a ViT of two narrow blocks for every ViT, the embedded model for any
            other.
        scratch: folder of hands, weights and states, deleted at the end.
    """

    rehearse: bool
    scratch: Path

    @property
    def device(self) -> torch.device:
        """Where the sections compute."""
        return torch.device("cpu" if self.rehearse else "cuda")

    def pick(self, full: _Any, small: _Any) -> _Any:
        """Return the one that is meant for a GPU, or the one for a rehearsal."""
        return small if self.rehearse else full

    def has(self, precision: str) -> str:
        """Return a number format, or float32 in its place where a CPU has not got it."""
        return "float32" if self.rehearse and precision in ("fp16", "tf32") else precision

    def on_gpu(self, row: Row) -> Row:
        """Take back the verdict of a rehearsal on what only a GPU can do."""
        return replace(row, verdict=GPU_ONLY) if self.rehearse else row

    def load(self, model: str, image_size: str | None = None, on_cpu: bool = False) -> Backbone:
        """Load a model with the random weights of seed 0, by way of a file, as a user's weights come.

        Args:
            model: ``embedded``, which has weights of its own, or an alias.
            image_size: as in params; None is the model's own.
            on_cpu: leave it there.
        """
        if self.rehearse:
            model, image_size = self._stand_in(model), None if image_size is None else "64x32"
        if model == EMBEDDED:
            clip = backbone.load(EMBEDDED, image_size=image_size)
        else:
            weights = self.scratch / f"{model}.pt"
            if not weights.exists():
                torch.manual_seed(0)
                made = open_clip.create_model(ALIASES.get(model, model), pretrained=None)
                with replacing(weights) as part:
                    torch.save(made.state_dict(), part)
            clip = backbone.load(model, str(weights), image_size, last_stride=1 if model == "rn50" else None)
        return clip if on_cpu else clip.to(self.device)

    def _stand_in(self, model: str) -> str:
        """Return what stands for a model in a rehearsal; the small ViT is made known to open_clip on the way."""
        if not model.startswith("vit"):
            return EMBEDDED
        if SMALL_VIT not in open_clip.list_models():
            path = self.scratch / f"{SMALL_VIT}.json"
            write_json(path, SMALL_VIT_SHAPE)
            open_clip.add_model_config(path)
        return SMALL_VIT

    def hands(self, clip: Backbone, part: str = "train", most: int | None = None) -> tuple[torch.Tensor, list[int]]:
        """Return hands as a model takes them, and whose they are.

        Args:
            clip: whose input size they get.
            part: ``train`` or ``test``: other people.
            most: images at most, the first people's; None takes all.

        Returns:
            (N, 3, H, W) uint8 on the CPU, and N identities.
        """
        drawn = np.load(self.scratch / "hands.npz")[part]  # (people, each, H, W, 3)
        labels = np.repeat(np.arange(len(drawn)), drawn.shape[1])[:most].tolist()
        pixels = torch.from_numpy(drawn).flatten(0, 1)[:most].permute(0, 3, 1, 2)
        sized = functional.interpolate(pixels, size=clip.image_size, mode="bilinear", antialias=True)
        return sized.contiguous(), labels

    def wait(self) -> None:
        """Let the GPU finish what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def seconds(self, task: Callable[[], object]) -> float:
        """Time one call to its very end."""
        self.wait()
        began = time.perf_counter()
        task()
        self.wait()
        return time.perf_counter() - began

    def median_seconds(self, task: Callable[[], object], times: int) -> float:
        """Time a call several times after one that warms up."""
        task()
        return statistics.median(self.seconds(task) for _ in range(times))

    def memory_gib(self) -> float:
        """Return the most memory that tensors have taken on the GPU since it was reset; 0 on a CPU."""
        return torch.cuda.max_memory_allocated() / 2**30 if self.device.type == "cuda" else 0.0


def make_terms(clip: Backbone, variant: str, labels: list[int]) -> dict[str, Term]:
    """Return the losses of a rung. Its anchors are those of prompts that have learnt nothing.

    Args:
        clip: on its device.
        variant: ``classifier``, ``clipid`` or ``inversion``.
        labels: (N,) identities.
    """
    terms: dict[str, Any] = {"identity": IdentityLoss()}
    if variant == "clipid":
        torch.manual_seed(0)
        bank = PromptBank(clip, sorted(set(labels))).to(clip.device)
        terms |= {"triplet": TripletLoss(), "image_to_text": AnchorLoss(bank.anchors(clip), clip.logit_scale)}
    if variant == "inversion":
        terms["inversion"] = InversionLoss()
    return {name: Term(0.25 if name == "identity" else 1.0, loss) for name, loss in terms.items()}


def count_steps(labels: list[int], settings: EncoderSettings) -> int:
    """Return how many batches the first epoch has."""
    draw = sampler.SAMPLERS[settings.sampler]
    return len(draw(np.array(labels), settings.batch_size, settings.images_per_identity, 0, settings.seed))


def epoch_of(told: str) -> int:
    """Return the epoch that a training's line tells of, from 1; 0 for any other line."""
    found = re.search(r": epoch (\d+)/", told)
    return int(found.group(1)) if found else 0


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the length of the difference, relative to the expected vector's."""
    found, expected = found.detach().cpu().double(), expected.detach().cpu().double()
    return float((found - expected).norm() / expected.norm().clamp(min=1e-30))
