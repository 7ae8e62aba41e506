"""Pretrain the small CLIP that ships with the library: ``python -m clipreid_lib.embedded.pretrain_embedded``.

An open_clip model learns, contrastively, which sentences are true of which pictures of synthetic people's
hands, after its text tower alone has learnt to tell the sentences apart. No identity label reaches any loss.
All people are drawn for this purpose and never appear in the demo data set. The weights, the loss curve and
the figures on unseen people land in one folder; ``report.json`` tells which runs made the shipped ones.
"""

import argparse
import copy
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from clipreid_lib.base import files
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.embedded import captions, pretrain_steps
from clipreid_lib.embedded.spoiled_pictures import draw_people, spoil
from clipreid_lib.embedded.unseen_people import measure, zero_shot

import open_clip  # isort: skip

NAME, REPORT = "embedded_clip", "report.json"
MEAN, STD = (torch.tensor(v).view(1, 3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
VISION = {"image_size": 96, "patch_size": None, "width": 16, "layers": [1, 1, 1, 1], "head_width": 64}
TEXT = {"context_length": 40, "width": 128, "heads": 4, "layers": 2}  # our sentences take up to 35 tokens
VALIDATION, WATCHED = 20261124, 60  # seed and number of the people watched while training


@dataclass(frozen=True)
class Recipe:
    """Everything the result depends on, apart from the machine's speed where ``minutes`` cuts it short."""

    seed: int = 20261123  # of the training people, the weights and the order; the demo uses seeds below 100
    people: int = 1600
    shots: int = 2  # pictures per hand side and person
    steps: int = 6000
    minutes: float = 16.0  # the schedule is compressed to end here if ``steps`` would take longer
    batch: int = 48  # pictures per step
    described: int = 20  # of them get a true and a false sentence; every sentence is judged on all pictures
    reading_steps: int = 400  # of the text tower alone, before any picture
    rare: float = 0.5  # how far rare values are favoured; polish needs more, but only once the thumb is found
    lr: float = 1.5e-3  # 1.0e-3 for going on from an earlier run
    weight_decay: float = 0.1
    warm_up: float = 0.04  # share of the schedule
    ema: float = 0.998  # of the weights that are evaluated and shipped


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


def load_weights(backbone: Backbone, folder: Path) -> None:
    """Fill a model with the weights that ``save`` left in a folder."""
    open_clip.load_checkpoint(backbone.clip, str(folder / f"{NAME}.safetensors"))


def save(model: torch.nn.Module, folder: Path) -> None:
    """Store the weights in half precision: open_clip loads them into a float32 model."""
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    with files.replacing(folder / f"{NAME}.safetensors") as temporary:
        save_file(state, temporary)


@dataclass
class Material:
    """What is learnt from: pictures (N, 3, S, S) uint8, facts (N, 7), chance of each to be drawn (N,)."""

    pictures: torch.Tensor
    facts: np.ndarray
    weights: np.ndarray

    def batch(self, recipe: Recipe, step: int, share: float, size: int) -> tuple[torch.Tensor, list[str], torch.Tensor]:
        """Prepare one step's batch, a ``share`` of it spoiled; the same for the same arguments.

        Returns:
            Normalised pictures (B, 3, size, size); sentences (C); what holds of what (B, C) bool.
        """
        rng = np.random.default_rng([recipe.seed, step, 0])
        chosen = np.sort(rng.choice(len(self.facts), size=recipe.batch, replace=False, p=self.weights))
        generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
        images, mirrored = spoil(self.pictures[chosen], size, generator, share)
        facts = np.where(mirrored.numpy()[:, None], captions.mirror(self.facts[chosen]), self.facts[chosen])
        speakers = rng.choice(facts, size=min(recipe.described, len(facts)), replace=False)
        sentences, stated = captions.write_captions(speakers, rng)
        return (images - MEAN) / STD, sentences, torch.from_numpy(captions.check_truth(facts, stated))


def train(recipe: Recipe, folder: Path, start: Path | None) -> None:
    """Run the pretraining into ``folder``, in one thread: two gain next to nothing.

    ``start`` is the folder of an earlier run whose weights to go on from; None begins anew.
    """
    pictures, rows = draw_people(recipe.people, recipe.shots, recipe.seed)
    facts = np.stack([captions.read_facts(row) for row in rows.to_dict("records")])
    material = Material(pictures, facts, pretrain_steps.weigh_samples(facts, recipe.rare))
    watched = draw_people(WATCHED, 1, VALIDATION)
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    backbone = build(folder)
    model, size = backbone.clip.train(), backbone.image_size[0]
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]  # norms, biases and the logit scale do not decay
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), eps=1e-6)
    if start is not None:
        load_weights(backbone, start)
    else:
        pretrain_steps.centre(backbone, material.batch(recipe, 0, pretrain_steps.share_spoiled(1.0), size)[0])
        reading = pretrain_steps.learn_to_read(backbone, facts, recipe.reading_steps, recipe.seed)
        print("reading: loss", np.round(reading[:: max(1, len(reading) // 8)], 3).tolist(), flush=True)
    average = copy.deepcopy(backbone)
    curve: list[list[float]] = []
    recent: list[float] = []
    begun, shown, step, progress = time.monotonic(), 0.0, 0, 0.0
    while progress < 1.0:
        share = pretrain_steps.share_spoiled(progress if start is None else 1.0)
        images, sentences, truth = material.batch(recipe, step, share, size)
        image_features = model.encode_image(images, normalize=True)
        text_features = F.normalize(backbone.encode_texts(sentences), dim=1)
        loss = pretrain_steps.caption_loss(model.logit_scale.exp() * image_features @ text_features.T, truth)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = pretrain_steps.schedule_rate(progress, recipe.lr, recipe.warm_up)
        optimiser.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))  # as CLIP does
        _follow(average.clip, model, min(recipe.ema, (step + 1) / (step + 10)))  # a short memory at first
        recent.append(loss.item())
        step, minutes = step + 1, (time.monotonic() - begun) / 60
        progress = max(step / recipe.steps, minutes / recipe.minutes)
        if step % 50 == 0 or progress >= 1:
            scale = math.exp(model.logit_scale.item())
            curve.append([step, step * recipe.batch, minutes, float(np.mean(recent)), scale])
            print("step {} images {} minutes {:.2f} loss {:.3f} scale {:.1f}".format(*curve[-1]), flush=True)
            recent = []
            if progress - shown >= 0.05 or progress >= 1:
                shown = progress
                save(average.clip, folder)
                _write_curve(curve, folder, start)
                accuracies = zero_shot(average, *watched).items()
                print({fact: round(accuracy, 3) for fact, accuracy in accuracies}, flush=True)


@torch.no_grad()
def _follow(average: torch.nn.Module, model: torch.nn.Module, decay: float) -> None:
    """Move the averaged weights a little towards the current ones; statistics of batch norms are copied."""
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for statistic, current in zip(average.buffers(), model.buffers(), strict=True):
        statistic.copy_(current)


def _write_curve(curve: list[list[float]], folder: Path, start: Path | None) -> None:
    table = pd.DataFrame(curve, columns=["step", "images", "minutes", "loss", "logit_scale"])
    table.insert(0, "run", 1)
    if start is not None:  # counts begin anew with every run
        past = pd.read_csv(start / "loss_curve.csv")
        table = pd.concat([past, table.assign(run=past["run"].max() + 1)])
    files.write_csv(folder / "loss_curve.csv", table.round({"minutes": 2, "loss": 4, "logit_scale": 2}))


def report(recipe: Recipe, folder: Path, earlier: dict | None) -> None:
    """Measure the stored weights on people no choice was made on; write and print report.json.

    Args:
        recipe: of the run.
        folder: of its results.
        earlier: recipe, minutes and pictures of the run this one went on from, or None.
    """
    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(recipe.seed + 1)
        trained, untrained = build(Path(scratch)), build(Path(scratch))
    load_weights(trained, folder)
    curve = pd.read_csv(folder / "loss_curve.csv")
    result = {
        "recipe": asdict(recipe),
        "minutes": float(curve["minutes"].iloc[-1]),
        "pictures_seen": int(curve["images"].iloc[-1]),
        "went_on_from": earlier,
        "parameters_m": round(sum(p.numel() for p in trained.clip.parameters()) / 1e6, 3),
        "bytes": {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.name != REPORT},
        **measure(trained, untrained),
    }
    files.write_json(folder / REPORT, result)
    print(json.dumps(result, indent=2))


def main(arguments: list[str] | None = None) -> None:
    """Command line: every field of ``Recipe`` is an option; see ``--help``."""
    parser = argparse.ArgumentParser(prog="python -m clipreid_lib.embedded.pretrain_embedded", description=__doc__)
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--start", type=Path, help="folder of an earlier run of the same network to go on from")
    given = vars(parser.parse_args(arguments))
    folder, start = given.pop("out"), given.pop("start")
    recipe, earlier = Recipe(**given), None
    if start:
        past = json.loads((start / REPORT).read_text())
        earlier = {key: past[key] for key in ("recipe", "minutes", "pictures_seen", "went_on_from")}
    train(recipe, folder, start)
    report(recipe, folder, earlier)


if __name__ == "__main__":
    main()
