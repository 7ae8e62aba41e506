"""The compositions of params/published: a step of CLIP-ReID's stages against the papers' formulas, and what keys reach.

The model is a small ViT, the images are the demo's; every other number is the composition's.
"""

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import register
from small_runs import TINY
from torch.nn import functional

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.clip import backbone
from clipreid_lib.method import encoder_finetune, sampler
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.method.prompt_learning import learn_prompts
from clipreid_lib.params import check, read, run_params, schema
from clipreid_lib.runs import loading, training
from clipreid_lib.runs.run import Run
from clipreid_lib.scores.encoder import STATISTICS, Encoder

HIGH, WIDE, PATCH = 64, 32, 8
GROUPS, EACH = 16, 4  # people and images of each in a batch
DEMO = {"demo_people": 40, "demo_images": 6, "demo_sessions": 2}


@pytest.fixture(scope="module", autouse=True)
def small_vit(tmp_path_factory):
    vision = {"image_size": 48, "layers": 2, "width": 24, "head_width": 12, "patch_size": PATCH}
    register(tmp_path_factory.mktemp("configs"), {"published-vit": vision})


def read_file(name: str, **more) -> dict:
    """Return a composition's keys, with others on top."""
    values, _ = read.compose([schema.ROOT / "params" / "published" / name])
    return values | more


@pytest.fixture(scope="module")
def run(shared_outputs):
    small = {"model": "published-vit", "pretrained": "random", "image_size": f"{HIGH}x{WIDE}", "noun": "person."}
    more = {**TINY, **DEMO, "experiment": "published", "outputs_root": str(shared_outputs), "precision": "float32"}
    return Run.open(check.validate_params(more | read_file("clip_reid.yaml", **small)))


@pytest.fixture
def steps(monkeypatch):
    """What each optimiser step was given: every group's gradients and rate."""
    seen, real = [], torch.optim.Adam.step

    def step(self, *args, **kwargs):
        groups = self.param_groups
        seen.append([([p.grad.clone() for p in g["params"]], g["lr"], g["weight_decay"]) for g in groups])
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return seen


def smoothed(logits, row, smoothing=0.1):
    shares = (logits - logits.exp().sum().log()).neg()
    return (1 - smoothing) * shares[row] + smoothing * shares.mean()


def assert_close(found, expected):
    one, other = (torch.cat([each.flatten() for each in side]) for side in (found, expected))
    assert float((one - other).norm()) <= 1e-4 * float(other.norm())


def plain_features(clip, pixels):
    """Return the class token before the last block, after it and projected: (B, 24), (B, 24), (B, 16)."""
    visual = clip.clip.visual
    tokens = functional.conv2d(pixels, visual.conv1.weight, stride=PATCH).flatten(2).transpose(1, 2)
    first = visual.class_embedding.expand(len(pixels), 1, -1)
    x = visual.ln_pre(torch.cat([first, tokens], dim=1) + visual.positional_embedding)
    before = visual.transformer.resblocks[0](x)
    last = visual.ln_post(visual.transformer.resblocks[1](before)[:, 0])
    return before[:, 0], last, last @ visual.proj


@pytest.mark.training
@pytest.mark.heavy
def test_stage_2a_reads_bilinear_images_at_bilinear_positions_and_has_the_formulas_gradients(run, steps):
    clip = loading.load_backbone(run)
    data = training.load_training_set(run, clip, as_tested=True)
    for row in (0, 7):
        with Image.open(run.data_root / run.manifest.train["path"].iloc[row]) as image:
            wanted = image.convert("RGB").resize((WIDE, HIGH), Image.Resampling.BILINEAR)
        assert torch.equal(data.images[row], torch.from_numpy(np.asarray(wanted).transpose(2, 0, 1).copy()))
    square = backbone.load("published-vit", "random").clip.visual.positional_embedding.detach()
    grid = square[1:].T.reshape(1, -1, 6, 6)
    grid = functional.interpolate(grid, size=(HIGH // PATCH, WIDE // PATCH), mode="bilinear")
    assert torch.equal(clip.clip.visual.positional_embedding[0], square[0])
    torch.testing.assert_close(clip.clip.visual.positional_embedding[1:], grid[0].flatten(1).T)

    people = sorted(set(data.labels))
    rows = torch.tensor([people.index(label) for label in data.labels])
    settings = training.prompt_settings(run)
    bank, log = learn_prompts(clip, data.images, data.labels, settings)
    assert bank.texts == ["a photo of a x x x x person."]
    with torch.no_grad():
        image = plain_features(clip, (data.images / 255 - 0.5) / 0.5)[2]  # raw, as the texts
    torch.manual_seed(stable_seed("prompt bank", 0))
    learnt = (torch.randn(len(people), 4, clip.text_width) * 0.02).requires_grad_()
    torch.manual_seed(stable_seed("prompts", 0, 0))
    batch = torch.randperm(len(rows))[:64]
    (tokens,) = clip.tokenize(bank.texts)
    words = clip.embed_tokens(tokens)
    first = int((tokens == clip.tokenizer.encode("x")[0]).nonzero()[0])
    sentences = torch.stack([torch.cat([words[:first], own, words[first + 4 :]]) for own in learnt])
    text = clip.text_features(sentences, tokens.expand(len(people), -1))[rows[batch]]
    loss = torch.zeros(())
    for one, other in ((image[batch], text), (text, image[batch])):
        for i in range(len(batch)):
            likeness = one[i] @ other.T
            shares = likeness - likeness.exp().sum().log()
            loss = loss - shares[rows[batch] == rows[batch[i]]].mean() / len(batch)
    loss.backward()
    (((codes,), _, decay),) = steps[0]
    assert_close([codes], [learnt.grad])
    assert decay == 1e-4 and len(steps) == 120 * math.ceil(len(rows) / 64)
    cosine = [1e-6 + (3.5e-4 - 1e-6) / 2 * (1 + math.cos(math.pi * epoch / 120)) for epoch in range(1, 121)]
    cosine[:4] = [1e-5 + (3.5e-4 - 1e-5) * epoch / 5 for epoch in range(1, 5)]
    np.testing.assert_allclose(log["lr"], cosine, rtol=1e-9)
    training.save_prompts(run, clip, bank)


def augment(pixels):
    """Flip, pad with black, crop, normalise and erase with noise, image by image as CLIP-ReID's transforms do."""
    seen, holes = [], []
    for image in pixels:
        image = image.flip(2) if torch.rand(1) < 0.5 else image
        pad = 2  # CLIP-ReID's 10 of 256
        top, left = (int(torch.randint(0, 2 * pad + 1, ())) for _ in range(2))
        image = functional.pad(image, (pad, pad, pad, pad))[:, top : top + HIGH, left : left + WIDE]
        seen.append((image / 255 - 0.5) / 0.5)
        hole = torch.zeros(HIGH, WIDE, dtype=torch.bool)
        if torch.rand(1) < 0.5:
            for _ in range(10):
                area = HIGH * WIDE * torch.empty(1).uniform_(0.02, 1 / 3).item()
                bounds = torch.log(torch.tensor((0.3, 1 / 0.3)))
                ratio = torch.exp(torch.empty(1).uniform_(*bounds)).item()
                high, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
                if high < HIGH and wide < WIDE:
                    top = int(torch.randint(0, HIGH - high + 1, ()))
                    left = int(torch.randint(0, WIDE - wide + 1, ()))
                    hole[top : top + high, left : left + wide] = True
                    break
        holes.append(hole)
    seen = torch.stack(seen)
    return torch.where(torch.stack(holes)[:, None], torch.randn(seen.shape), seen)


@pytest.mark.training
@pytest.mark.heavy
def test_stage_2b_has_the_formulas_losses_gradients_rates_and_batches(run, steps, monkeypatch):
    clip = loading.load_backbone(run)
    if not run.prompts.exists():
        prompts = training.load_training_set(run, clip, as_tested=True)
        short = training.prompt_settings(run)
        bank, _ = learn_prompts(clip, prompts.images, prompts.labels, short)
        training.save_prompts(run, clip, bank)
        steps.clear()
    data, terms = training.load_training_set(run, clip), training.loss_terms(run, clip)
    anchors = training.load_prompts(run, clip).anchors(clip)
    settings = training.encoder_settings(run)
    people = sorted(set(data.labels))
    rows = torch.tensor([people.index(label) for label in data.labels])
    epochs, real = {}, sampler.SAMPLERS["published"]

    def draw(*given):
        return epochs.setdefault(given[3], real(*given))

    monkeypatch.setitem(sampler.SAMPLERS, "published", draw)
    plain = copy.deepcopy(clip)
    _, log = encoder_finetune.finetune(clip, data.images, data.labels, terms, settings)

    groups_of = {row: max(1, count // EACH) for row, count in Counter(rows.tolist()).items()}
    for batches in epochs.values():  # until fewer than 16 people have a group left
        left = dict(groups_of)
        for batch in batches:
            owners = Counter(rows[batch].tolist())
            assert len(owners) == GROUPS and set(owners.values()) == {EACH}
            left = {row: number - (row in owners) for row, number in left.items()}
        assert min(left.values()) >= 0 and sum(number > 0 for number in left.values()) < GROUPS
    assert len(epochs) == 60 and len(steps) == sum(map(len, epochs.values()))

    torch.manual_seed(stable_seed("heads", 0))
    ours = ClipidModel(plain, len(people)).train()
    torch.manual_seed(stable_seed("encoder", 0, 0))
    batch = epochs[0][0]
    row = rows[batch].tolist()
    three = plain_features(plain, augment(data.images[batch]))
    logits = []
    for head, features in ((ours.head, three[1]), (ours.head_proj, three[2])):
        normal = (features - features.mean(dim=0)) / (features.var(dim=0, unbiased=False) + 1e-5).sqrt()
        logits.append(normal * head.norm.weight @ head.classifier.weight.T)
    loss, apart = (
        torch.zeros(()),
        [torch.cdist(each, each, compute_mode="donot_use_mm_for_euclid_dist") for each in three],
    )
    for i in range(len(batch)):
        same = torch.tensor([other == row[i] for other in row])
        for each in logits:
            loss = loss + 0.25 * smoothed(each[i], row[i]) / len(batch)
        for distance in apart:
            far, near = distance[i][same].max(), distance[i][~same].min()
            loss = loss + (0.3 + far - near).clamp(min=0) / len(batch)
        loss = loss + smoothed(three[2][i] @ anchors.T, row[i]) / len(batch)
    loss.backward()
    named = {name: p.grad for name, p in ours.named_parameters() if p.requires_grad}
    body = {name: grad for name, grad in named.items() if not name.startswith("head")}
    expected = [
        [grad for name, grad in body.items() if "bias" not in name],
        [grad for name, grad in body.items() if "bias" in name],
        [grad for name, grad in named.items() if name not in body],
    ]
    for (found, rate, decay), wanted, factor in zip(steps[0], expected, (1, 2, 1), strict=True):
        assert_close(found, wanted)
        assert (rate, decay) == (pytest.approx(0.19 * 5e-6 * factor), 1e-4)
    one = [5e-6 * (0.1 + 0.9 * min(epoch, 10) / 10) for epoch in range(1, 61)]
    rates = [rate * 0.1 ** ((epoch >= 30) + (epoch >= 50)) for epoch, rate in enumerate(one, 1)]
    np.testing.assert_allclose(log["lr"], rates, rtol=1e-9)
    assert len(epochs[0]) == 1 and log["loss"].iloc[0] == pytest.approx(float(loss.detach()), rel=1e-4)


@pytest.mark.training
def test_clip_handid_shuffles_crops_and_compares_after_the_neck(shared_outputs, monkeypatch):
    more = TINY | {
        "model": "published-vit",
        "pretrained": "random",
        "image_size": "48",
        "outputs_root": str(shared_outputs),
    }
    values = read_file("clip_handid.yaml", variant="inversion") | more | {"batch_size": 12, "encoder_epochs": 1}
    run = Run.open(check.validate_params(values | {"experiment": "handid"}))
    clip = loading.load_backbone(run)
    data, terms = training.load_training_set(run, clip), training.loss_terms(run, clip)
    assert data.images.shape[2:] == (55, 55) and clip.normalisation[0] == (0.485, 0.456, 0.406)
    settings = training.encoder_settings(run)
    model, log = encoder_finetune.finetune(clip, data.images, data.labels, terms, settings)
    assert terms["inversion"].loss.reader.sentence.texts == ["a photo of a x hand"]
    assert log["lr"].iloc[0] == pytest.approx(5e-8)
    assert {"identity", "image_to_text", "text_to_image"} <= set(log) and "triplet" not in log
    training.save_encoder(run, clip, model, terms)

    encoder, images = loading.load_trained_encoder(run), run.manifest.test.head(6)
    photographs = torch.from_numpy(run.photographs.load(images, clip.image_size))
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in clip.normalisation)
    model.eval()
    both = []
    with torch.no_grad():
        for pixels in (photographs, photographs.flip(3)):
            features = model.backbone.image_features((pixels / 255 - mean) / std)
            both.append(torch.cat([model.head.norm(features.f), model.head_proj.norm(features.f_proj)], dim=1))
    torch.testing.assert_close(encoder.embed(images).values, both[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder.embed(images, mirrored=True).values, both[0] + both[1], rtol=1e-4, atol=1e-4)
    assert set(encoder.neck) == set(STATISTICS) and isinstance(encoder, Encoder)


def test_shuffled_batches_are_full_and_drop_the_rest():
    people = np.arange(45) // 3
    batches = sampler.shuffled_batches(people, 20, 4, 0, 0)
    assert [len(batch) for batch in batches] == [20, 20] and len(torch.cat(batches).unique()) == 40
    assert not torch.equal(batches[0], sampler.shuffled_batches(people, 20, 4, 1, 0)[0])


@pytest.mark.heavy
def test_too_few_people_for_the_published_batches_are_told(run):
    clip = loading.load_backbone(run)
    data, terms = training.load_training_set(run, clip), {"identity": encoder_finetune.Term(1.0, lambda out, _: out)}
    few = [number % 3 for number in range(len(data.images))]
    with pytest.raises(UserError, match="sampler: published cannot fill a batch .64 images of 16 people., there are"):
        encoder_finetune.finetune(clip, data.images, few, terms, training.encoder_settings(run))


def test_the_noun_follows_the_aspect_and_ids_hold_new_keys_only_where_they_differ():
    market = {"dataset": "market1501", "aspect": "body", "protocol": "given"}
    assert run_params.Params(**market).resolved().noun == "person." and run_params.Params().resolved().noun == "hand."
    usual = {"sampler": "every_image", "noun": "hand.", "bias_factor": 1.0, "rerank_k1": 50, "flip_train": False}
    assert run_params.Params(**usual).run_id == run_params.Params().run_id
    for key, value in {"sampler": "shuffled", "noun": "hand", "bias_factor": 2.0, "flip_train": True}.items():
        assert run_params.Params(**{key: value}).run_id != run_params.Params().run_id
    for values in ({"variant": "clipid"}, {"variant": "frozen"}, {"variant": "classifier", "mode": "prompt_learn"}):
        with pytest.raises(UserError, match="test_features|mode"):
            check.validate_params(values | {"test_features": "after_neck"})
    with pytest.raises(UserError, match=r"noun: write words, and a full stop or none, such as hand\."):
        check.validate_params({"noun": "hand!"})
