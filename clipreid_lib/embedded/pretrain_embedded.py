"""Pretrain the small CLIP that ships with the library: ``python -m clipreid_lib.embedded.pretrain_embedded --help``.

An open_clip model learns, contrastively, which sentences are true of which pictures of synthetic people's hands, and
whose hands they are by name, after its text tower alone has learnt to tell the sentences apart. As in SLIP
(arXiv 2112.12750), a second loss tells pictures apart: by the features shared with text those of one hand from those of
others, by the features before them those of one burst from those of other hands. All people are drawn for this purpose
and never appear in the demo data set. The weights, the curve and the figures on unseen people land in one folder. A
stopped run goes on when its command is repeated.
"""

import argparse
import copy
import json
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader

from clipreid_lib.base import files
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.encode import encode, normalise
from clipreid_lib.embedded import captions
from clipreid_lib.embedded.training_batches import Batch, Batches
from clipreid_lib.embedded.training_losses import coarse_loss, contrast_loss, pair_loss
from clipreid_lib.embedded.training_people import draw_people
from clipreid_lib.embedded.unseen_people import find_names, measure, watch

import open_clip  # isort: skip

NAME, WEIGHTS, REPORT, STATE, CURVE = (
    "embedded_clip",
    "embedded_clip.safetensors",
    "report.json",
    "state.pt",
    "loss_curve.csv",
)
VISION = {"image_size": 96, "patch_size": None, "width": 16, "layers": [1, 1, 1, 1], "head_width": 64}
TEXT = {"context_length": 40, "width": 128, "heads": 4, "layers": 2}  # our sentences take up to 35 tokens


@dataclass(frozen=True)
class Recipe:
    """Everything the result depends on, up to rounding."""

    seed: int = 20261127  # of the training people, the weights and the order; the demo uses seeds below 100
    people: int = 8192
    steps: int = 5000
    hands: int = 40  # per step, all pictures of each; each hand gets a true and a false sentence
    reading_steps: int = 600  # of the text tower alone, before any picture
    rare: float = 0.5  # how far rare skins, polish and rings are favoured
    contrast: float = 1.0  # weight of the loss between pictures, beside that of the sentences
    coarse: float = 0.5  # weight of the loss that keeps the likeness of coarse pictures
    lr: float = 1.5e-3
    weight_decay: float = 0.1
    warm_up: int = 500  # steps
    cool_down: float = 0.2  # share of the steps in which the rate falls to 0
    ema: float = 0.99  # of the weights that are evaluated and shipped


def build(folder: Path) -> Backbone:
    """Write config and vocabulary into ``folder`` and build the untrained model from them."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = captions.write_merges(folder / "merges.txt.gz")
    config = {"embed_dim": 128, "vision_cfg": VISION, "text_cfg": {"vocab_size": vocabulary, **TEXT}}
    files.write_json(folder / f"{NAME}.json", config)
    open_clip.add_model_config(folder / f"{NAME}.json")
    model = open_clip.create_model(NAME, pretrained=None)
    tokenizer = open_clip.get_tokenizer(NAME, bpe_path=str(folder / "merges.txt.gz"))
    return Backbone(model, tokenizer, "embedded", "random")


def schedule_rate(step: int, steps: int, peak: float, warm_up: int, cool_down: float) -> float:
    """Give a step's learning rate: linear rise, constant ``peak``, linear fall to 0 in the last share of the steps.

    A constant rate lets a run be made longer or shorter while it runs (arXiv 2405.18392): the end alone depends on it.
    """
    left = (steps - step) / max(1.0, cool_down * steps)
    return peak * min((step + 1) / warm_up, left, 1.0)


def learn_to_read(backbone: Backbone, facts: np.ndarray, steps: int, seed: int) -> list[float]:
    """Prepare the text tower alone: a sentence's feature becomes the sum of random codes of the facts it states.

    An untrained tower answers "left hand" and "right hand" with much the same vector (cosine about 0.9).
    What the text hardly expresses the images hardly learn: contrastive training from scratch found the skin and
    the view and then stood still. Two values of a fact get opposite codes, four get orthogonal ones; names, too many
    for that, get the sums of random codes of their two words.

    Returns:
        The loss, 1 - cosine, of every step of 64 sentences, about the facts (N, F) of the training pictures.
    """
    rng = np.random.default_rng([seed, 1])
    width = backbone.clip.visual.output_dim
    unused = iter(np.linalg.qr(rng.standard_normal((width, width)))[0].T)
    codes: list[Any] = []  # of each fact, one code per value
    for options in list(captions.FACTS.values())[: captions.NAME]:
        first = next(unused)
        codes.append([first, -first] if len(options) == 2 else [first, *(next(unused) for _ in options[1:])])
    words = sorted({word for name in captions.FACTS["name"] for word in name.split()})
    by_word = dict(zip(words, rng.standard_normal((len(words), width)) / math.sqrt(2 * width), strict=True))
    codes.append([sum(by_word[word] for word in name.split()) for name in captions.FACTS["name"]])
    tower = [p for name, p in backbone.clip.named_parameters() if not name.startswith(("visual", "logit"))]
    optimiser, losses = torch.optim.AdamW(tower, lr=2e-3, weight_decay=0.0), []
    for step in range(steps):
        about = facts[rng.integers(len(facts), size=32)]
        sentences, stated = captions.write_captions(about, rng)
        sums = [sum(codes[fact][said[fact]] for fact in np.flatnonzero(said >= 0)) for said in stated]
        aims = F.normalize(torch.tensor(np.stack(sums), dtype=torch.float32), dim=1).to(backbone.device)
        loss = (1 - (F.normalize(backbone.encode_texts(sentences), dim=1) * aims).sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = schedule_rate(step, steps, 2e-3, max(1, steps // 10), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


class Run:
    """A pretraining under way: the model, the average of its weights, its optimiser, and its curve."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        """Build the untrained model, and take an earlier call's state over if ``folder`` holds one."""
        torch.manual_seed(recipe.seed)
        self.recipe, self.folder, self.step = recipe, folder, 0
        self.backbone = build(folder).to("cuda" if torch.cuda.is_available() else "cpu")
        self.backbone.clip.visual.to(memory_format=torch.channels_last)  # faster
        model = self.backbone.clip.train()
        matrices = [p for p in model.parameters() if p.ndim >= 2]
        others = [p for p in model.parameters() if p.ndim < 2]  # norms, biases and the logit scale do not decay
        groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), eps=1e-6)
        self.average = copy.deepcopy(self.backbone)
        self.curve: list[dict] = []
        if (folder / STATE).exists():
            state = torch.load(folder / STATE, map_location=self.backbone.device, weights_only=True)
            self.step, self.curve = state["step"], state["curve"]
            for name, part in self._parts():
                part.load_state_dict(state[name])

    def _parts(self) -> Iterator[tuple[str, Any]]:
        yield from (("model", self.backbone.clip), ("average", self.average.clip), ("optimiser", self.optimiser))

    def save(self, shipped: Backbone) -> None:
        """Store everything the run needs to go on, the weights so far, and the curve."""
        state = {name: part.state_dict() for name, part in self._parts()} | {"step": self.step, "curve": self.curve}
        with files.replacing(self.folder / STATE) as temporary:
            torch.save(state, temporary)
        weights = {name: value.half().contiguous() for name, value in shipped.clip.state_dict().items()}
        with files.replacing(self.folder / WEIGHTS) as temporary:
            save_file(weights, temporary)  # in half precision, which open_clip loads into a float32 model
        files.write_csv(self.folder / CURVE, pd.DataFrame(self.curve).round(4))

    def take_step(self, batch: Batch) -> tuple[float, float]:
        """Train both towers on one batch; returns the losses of the sentences and between pictures."""
        recipe, model, device = self.recipe, self.backbone.clip, self.backbone.device
        images = normalise(batch.images.to(device), *self.backbone.normalisation)
        with torch.autocast(device.type, torch.bfloat16):  # twice as fast on processors that compute in it
            seen = self.backbone.image_features(images.contiguous(memory_format=torch.channels_last)).to_float32()
        with sdpa_kernel(SDPBackend.MATH):  # a CPU's fused kernel takes far longer for sentences as short as ours
            text = F.normalize(self.backbone.encode_texts(batch.sentences), dim=1)
        logits = model.logit_scale.exp() * F.normalize(seen.in_text_space, dim=1) @ text.T
        sentences = pair_loss(logits, batch.truth.to(device))
        hand, burst = (each.to(device)[:, None] == each.to(device) for each in (batch.hands, batch.bursts))
        pictures = (contrast_loss(seen.f, burst, ~hand) + contrast_loss(seen.in_text_space, hand, ~hand)) / 2
        loss = sentences + recipe.contrast * pictures + recipe.coarse * coarse_loss(seen.f, images)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = schedule_rate(self.step, recipe.steps, recipe.lr, recipe.warm_up, recipe.cool_down)
        self.optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))  # as CLIP does
        self.step += 1
        _follow(self.average.clip, model, min(recipe.ema, self.step / (self.step + 9)))  # a short memory at first
        return sentences.item(), pictures.item()


@torch.no_grad()
def balance_features(backbone: Backbone, pixels: torch.Tensor) -> Backbone:
    """Copy a network, ``f_proj`` made half as long as ``f`` on average over pictures (B, 3, S, S) uint8.

    Retrieval compares the two side by side, and sentences leave the length of ``f_proj`` open. Photographs of training
    people were found best by ``f``.
    """
    even, seen = copy.deepcopy(backbone), encode(backbone, pixels)
    ratio = seen.f.norm(dim=1).mean() / seen.in_text_space.norm(dim=1).mean() / 2
    for value in even.clip.visual.attnpool.c_proj.parameters():
        value.mul_(ratio.to(value.device))
    return even


@torch.no_grad()
def _follow(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights a little towards the current ones; statistics of batch norms are copied."""
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for statistic, current in zip(average.buffers(), model.buffers(), strict=True):
        statistic.copy_(current)


def train(recipe: Recipe, folder: Path, drawn: Path, photographs: Path | None, workers: int, minutes: float) -> Run:
    """Run the pretraining into ``folder``, or go on with it there; options as ``--help`` explains them."""
    pictures, facts = draw_people(drawn, recipe.people, recipe.seed)
    run = Run(recipe, folder)
    batches = Batches(pictures, facts, recipe.hands, recipe.rare, run.backbone.image_size[0], recipe.seed)
    if not run.step:
        learn_to_read(run.backbone, facts.reshape(-1, facts.shape[-1]), recipe.reading_steps, recipe.seed)
        with torch.no_grad():  # start with image features that differ: take their mean off the last bias
            first = normalise(batches[0].images.to(run.backbone.device), *run.backbone.normalisation)
            run.backbone.clip.visual.attnpool.c_proj.bias -= run.backbone.image_features(first).in_text_space.mean(0)
        run.average.clip.load_state_dict(run.backbone.clip.state_dict())
    recent: list[tuple[float, float]] = []
    shown = time.monotonic()
    for batch in DataLoader(batches, None, sampler=range(run.step, recipe.steps), num_workers=workers):
        recent.append(run.take_step(batch))
        if time.monotonic() - shown > 60 * minutes or run.step == recipe.steps:
            sentences, contrast = np.mean(recent, axis=0)
            seen, speed = run.step * len(batch.images), len(recent) * len(batch.images) / (time.monotonic() - shown)
            row = {"step": run.step, "images": seen, "loss": float(sentences), "contrast": float(contrast)}
            row |= {"logit_scale": run.backbone.logit_scale, "images_per_second": speed}
            shipped = balance_features(run.average, batch.images)
            run.curve.append(row | watch(shipped, photographs))
            run.save(shipped)
            print({name: round(value, 3) for name, value in run.curve[-1].items()}, flush=True)
            recent, shown = [], time.monotonic()
    return run


def report(recipe: Recipe, folder: Path, drawn: Path, photographs: Path | None) -> None:
    """Measure the weights in ``folder`` on people no choice was made on; write and print report.json."""
    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(recipe.seed + 1)
        trained, untrained = build(Path(scratch)), build(Path(scratch))
    open_clip.load_checkpoint(trained.clip, str(folder / WEIGHTS))
    curve = pd.read_csv(folder / CURVE)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name not in (REPORT, STATE)}
    result = {
        "recipe": asdict(recipe),
        "pictures_seen": int(curve["images"].iloc[-1]),
        "parameters_m": round(sum(p.numel() for p in trained.clip.parameters()) / 1e6, 3),
        "bytes": sizes,
        "names_training_people": find_names(trained, *draw_people(drawn, recipe.people, recipe.seed)),
        **measure(trained, untrained, photographs),
    }
    files.write_json(folder / REPORT, result)
    print(json.dumps(result, indent=2))


def main(arguments: list[str] | None = None) -> None:
    """Command line: every field of ``Recipe`` is an option; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m clipreid_lib.embedded.pretrain_embedded", description=__doc__)
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results and of the state to go on from")
    parser.add_argument("--drawn", type=Path, required=True, help="folder of the drawn people, made if it is not there")
    parser.add_argument("--photographs", type=Path, help="folder of 11k Hands or a part of it, to measure on only")
    parser.add_argument("--workers", type=int, default=1, help="processes that spoil pictures")
    parser.add_argument("--minutes", type=float, default=4.0, help="from one saved state to the next")
    given = vars(parser.parse_args(arguments))
    places = {name: given.pop(name) for name in ("drawn", "photographs")}
    folder, how = given.pop("out"), {name: given.pop(name) for name in ("workers", "minutes")}
    recipe = Recipe(**given)
    train(recipe, folder, **places, **how)
    report(recipe, folder, **places)


if __name__ == "__main__":
    main()
