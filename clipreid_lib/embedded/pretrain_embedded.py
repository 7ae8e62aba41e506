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
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from clipreid_lib.base import files
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.embedded import captions
from clipreid_lib.embedded.spoiled_pictures import draw_people, spoil
from clipreid_lib.embedded.unseen_people import measure, zero_shot

import open_clip  # isort: skip

NAME, WEIGHTS, REPORT = "embedded_clip", "embedded_clip.safetensors", "report.json"
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


def save(model: torch.nn.Module, folder: Path) -> None:
    """Store the weights in half precision: open_clip loads them into a float32 model."""
    state = {name: value.detach().half().contiguous() for name, value in model.state_dict().items()}
    with files.replacing(folder / WEIGHTS) as temporary:
        save_file(state, temporary)


def draw_batch(
    recipe: Recipe, pictures: torch.Tensor, facts: np.ndarray, weights: np.ndarray, size: int, step: int, share: float
) -> tuple[torch.Tensor, list[str], torch.Tensor]:
    """Draw one step's batch, a ``share`` of it spoiled; the same for the same arguments.

    The pictures (N, 3, S, S) uint8 have facts (N, 7), and each its chance (N,) to be drawn.

    Returns:
        Normalised pictures (B, 3, size, size); sentences (C); what holds of what (B, C) bool.
    """
    rng = np.random.default_rng([recipe.seed, step, 0])
    chosen = np.sort(rng.choice(len(facts), size=recipe.batch, replace=False, p=weights))
    generator = torch.Generator().manual_seed(int(rng.integers(2**63)))
    images, mirrored = spoil(pictures[chosen], size, generator, share)
    seen = np.where(mirrored.numpy()[:, None], captions.mirror(facts[chosen]), facts[chosen])
    speakers = rng.choice(seen, size=min(recipe.described, len(seen)), replace=False)
    sentences, stated = captions.write_captions(speakers, rng)
    return (images - MEAN) / STD, sentences, torch.from_numpy(captions.check_truth(seen, stated))


def caption_loss(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Compute CLIP's symmetric loss where a picture may have several true sentences and a sentence several pictures.

    Each true pair competes with the false ones of its row (and of its column), never with other true ones;
    with exactly one true entry per row and column this is CLIP's own cross-entropy. 0 is perfect.

    Args:
        logits: (B, C) scaled cosines of pictures and sentences.
        truth: (B, C) bool; rows and columns without any true entry are left out.

    Returns:
        () the mean of both directions.
    """
    total = torch.zeros(())
    for scores, true in ((logits, truth), (logits.T, truth.T)):
        scores, true = scores[true.any(dim=1)], true[true.any(dim=1)]
        rivals = scores.masked_fill(true, -1e4).logsumexp(dim=1, keepdim=True)
        per_pair = F.softplus(rivals - scores) * true
        total = total + (per_pair.sum(dim=1) / true.sum(dim=1)).mean()
    return total / 2


def schedule_rate(progress: float, peak: float, warm_up: float) -> float:
    """Give the learning rate at a share of the schedule in [0, 1]: linear rise to ``peak``, cosine to 1 % of it."""
    if progress < warm_up:
        return peak * max(progress, 1e-3) / warm_up
    fraction = min(1.0, (progress - warm_up) / (1 - warm_up))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))


def share_spoiled(progress: float) -> float:
    """Give the share of spoiled pictures: few at first, so that thumbs are found, 0.9 from a quarter on."""
    return min(0.9, 0.3 + 2.4 * progress)


def weigh_samples(facts: np.ndarray, rare: float) -> np.ndarray:
    """Give the chance (N,) of each picture to be drawn, by its facts (N, 7): what is rare comes more often.

    ``rare`` = 0 draws all pictures alike, 1 all values of each of skin, polish and ring.
    """
    weights = np.ones(len(facts))
    for fact in (captions.SKIN, captions.POLISH, captions.RING):
        _, value, counts = np.unique(facts[:, fact], return_inverse=True, return_counts=True)
        weights *= (counts**-rare)[value]
    return weights / weights.sum()


def learn_to_read(backbone: Backbone, facts: np.ndarray, steps: int, seed: int) -> list[float]:
    """Prepare the text tower alone: a sentence's feature becomes the sum of random codes of the facts it states.

    An untrained tower answers "left hand" and "right hand" with much the same vector (cosine about 0.9).
    What the text hardly expresses the images hardly learn: contrastive training from scratch found the skin and
    the view and then stood still. Two values of a fact get opposite codes, four get orthogonal ones.

    Returns:
        The loss, 1 - cosine, of every step of 64 sentences, about the facts (N, 7) of the training pictures.
    """
    rng = np.random.default_rng([seed, 1])
    values = sum(len(options) for options in captions.FACTS.values())
    orthogonal, _ = np.linalg.qr(rng.standard_normal((backbone.clip.visual.output_dim, values)))
    unused, codes = iter(orthogonal.T), []  # of each fact, one code per value
    for options in captions.FACTS.values():
        first = next(unused)
        codes.append([first, -first] if len(options) == 2 else [first, *(next(unused) for _ in options[1:])])
    tower = [p for name, p in backbone.clip.named_parameters() if not name.startswith(("visual", "logit"))]
    optimiser, losses = torch.optim.AdamW(tower, lr=2e-3, weight_decay=0.0), []
    for step in range(steps):
        about = facts[rng.integers(len(facts), size=32)]
        sentences, stated = captions.write_captions(about, rng)
        sums = [sum(codes[fact][said[fact]] for fact in np.flatnonzero(said >= 0)) for said in stated]
        aims = F.normalize(torch.tensor(np.stack(sums), dtype=torch.float32), dim=1)
        loss = (1 - (F.normalize(backbone.encode_texts(sentences), dim=1) * aims).sum(1)).mean()
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            group["lr"] = schedule_rate(step / steps, 2e-3, 0.1)
        optimiser.step()
        losses.append(loss.item())
    return losses


def train(recipe: Recipe, folder: Path, start: Path | None) -> None:
    """Run the pretraining into ``folder``, in one thread: two gain next to nothing.

    ``start`` is the folder of an earlier run whose weights to go on from; None begins anew.
    """
    pictures, rows = draw_people(recipe.people, recipe.shots, recipe.seed)
    facts = np.stack([captions.read_facts(row) for row in rows.to_dict("records")])
    watched = draw_people(WATCHED, 1, VALIDATION)
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    backbone = build(folder)
    model = backbone.clip.train()
    batch = partial(draw_batch, recipe, pictures, facts, weigh_samples(facts, recipe.rare), backbone.image_size[0])
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]  # norms, biases and the logit scale do not decay
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), eps=1e-6)
    if start is not None:
        open_clip.load_checkpoint(model, str(start / WEIGHTS))
    else:
        with torch.no_grad():  # start with image features that differ: take their mean off the last bias
            model.visual.attnpool.c_proj.bias -= backbone.image_features(batch(0, share_spoiled(1.0))[0]).f_proj.mean(0)
        reading = learn_to_read(backbone, facts, recipe.reading_steps, recipe.seed)
        print("reading: loss", np.round(reading[:: max(1, len(reading) // 8)], 3).tolist(), flush=True)
    average = copy.deepcopy(backbone)
    curve: list[list[float]] = []
    recent: list[float] = []
    begun, shown, step, progress = time.monotonic(), 0.0, 0, 0.0
    while progress < 1.0:
        images, sentences, truth = batch(step, share_spoiled(progress if start is None else 1.0))
        image_features = model.encode_image(images, normalize=True)
        text_features = F.normalize(backbone.encode_texts(sentences), dim=1)
        loss = caption_loss(model.logit_scale.exp() * image_features @ text_features.T, truth)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimiser.param_groups:
            group["lr"] = schedule_rate(progress, recipe.lr, recipe.warm_up)
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
    """Measure the weights in ``folder`` on people no choice was made on; write and print report.json.

    ``earlier`` has recipe, minutes and pictures of the run this one went on from; None if it began anew.
    """
    with tempfile.TemporaryDirectory() as scratch:
        torch.manual_seed(recipe.seed + 1)
        trained, untrained = build(Path(scratch)), build(Path(scratch))
    open_clip.load_checkpoint(trained.clip, str(folder / WEIGHTS))
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
