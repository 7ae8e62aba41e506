"""A step of stages 2a and 2b against plain formulas."""

import copy

import pytest
import torch
from torch.nn import functional

from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.clip import backbone
from clipreid_lib.clip.encode import encode, normalise
from clipreid_lib.method import augment
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.method.loss_terms import AnchorLoss, IdentityLoss, Term, TripletLoss
from clipreid_lib.method.prompt_learning import PromptSettings, learn_prompts

PEOPLE, EACH = 4, 3


@pytest.fixture
def steps(monkeypatch):
    """What each optimiser step was given: every parameter's gradient and rate."""
    seen = []
    real = torch.optim.Adam.step

    def step(self, *args, **kwargs):
        groups = [([p.grad.clone() for p in g["params"]], g["lr"], g["weight_decay"]) for g in self.param_groups]
        seen.append(groups)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    return seen


@pytest.fixture
def photographs():
    torch.manual_seed(0)
    images = torch.randint(0, 255, (PEOPLE * EACH, 3, 96, 96), dtype=torch.uint8)
    return images, [f"person {number % PEOPLE}" for number in range(len(images))]


def smoothed(logits, row, smoothing=0.1):
    shares = (logits - logits.exp().sum().log()).neg()
    return (1 - smoothing) * shares[row] + smoothing * shares.mean()


def test_a_step_of_stage_2b_has_the_plain_formulas_gradients(photographs, steps, monkeypatch):
    monkeypatch.setattr(augment.Augment, "__call__", lambda self, pixels: normalise(pixels, self.mean, self.std))
    images, labels = photographs
    rows = [number % PEOPLE for number in range(len(images))]
    clip = backbone.load("embedded")
    anchors = torch.randn(PEOPLE, clip.clip.visual.output_dim)
    plain = copy.deepcopy(clip)
    settings = EncoderSettings(epochs=1, lr=1e-3, head_lr=1e-2, batch_size=PEOPLE * EACH, images_per_identity=EACH)
    terms = {
        "identity": Term(0.25, IdentityLoss(0.1)),
        "triplet": Term(2.0, TripletLoss(0.3)),
        "image_to_text": Term(0.5, AnchorLoss(anchors, clip.logit_scale, smoothing=0.1)),
    }
    model, log = finetune(clip, images, labels, terms, settings)
    ((encoder, lr, decay), (encoder_biases, bias_lr, _), (heads, head_lr, _)) = steps[0]

    torch.manual_seed(stable_seed("heads", 0))
    ours = ClipidModel(plain, PEOPLE).train()
    out = ours(normalise(images, *plain.normalisation))
    loss = torch.zeros(())
    for i, row in enumerate(rows):
        loss = loss + 0.25 * (smoothed(out.logits[i], row) + smoothed(out.logits_proj[i], row)) / len(rows)
        likeness = functional.cosine_similarity(out.features.f_proj[i][None], anchors) * plain.logit_scale
        loss = loss + 0.5 * smoothed(likeness, row) / len(rows)
        for features in (out.features.f_last, out.features.f, out.features.f_proj):
            apart = [(features[i] - other).norm() for other in features]
            far = max(apart[j] for j in range(len(rows)) if rows[j] == row and j != i)
            near = min(apart[j] for j in range(len(rows)) if rows[j] != row)
            loss = loss + 2.0 * (0.3 + far - near).clamp(min=0) / len(rows)
    loss.backward()
    assert log["loss"].iloc[0] == pytest.approx(float(loss.detach()), rel=1e-4)
    named = dict(ours.named_parameters())
    learning = {name: p for name, p in named.items() if p.requires_grad}
    body = [p.grad for name, p in learning.items() if "head" not in name and "bias" not in name]
    biases = [p.grad for name, p in learning.items() if "head" not in name and "bias" in name]
    tops = [p.grad for name, p in learning.items() if "head" in name]
    for found, expected in ((encoder, body), (encoder_biases, biases), (heads, tops)):
        assert len(found) == len(expected)
        one, other = (torch.cat([each.flatten() for each in side]) for side in (found, expected))
        assert float((one - other).norm()) <= 1e-2 * float(other.norm())  # a rectifier at its kink may tip over
    # One epoch of one: no rate is stepped down, warm-up is over.
    assert (lr, bias_lr, head_lr, decay) == (1e-3, 2e-3, 1e-2, 1e-4)


def test_a_step_of_stage_2a_has_the_plain_formulas_gradients(photographs, steps):
    images, labels = photographs
    clip = backbone.load("embedded")
    bank, log = learn_prompts(clip, images, labels, PromptSettings(epochs=1, batch_size=len(images)))
    (((codes,), _, decay),) = steps[0]

    torch.manual_seed(stable_seed("prompt bank", 0))
    learnt = (torch.randn(PEOPLE, 4, clip.text_width) * 0.02).requires_grad_()
    (tokens,) = clip.tokenize(["a photo of a x x x x hand."])
    words = clip.embed_tokens(tokens)  # (L, width)
    first = int((tokens == clip.tokenizer.encode("x")[0]).nonzero()[0])
    sentences = [torch.cat([words[:first], own, words[first + 4 :]]) for own in learnt]
    text = clip.text_features(torch.stack(sentences), tokens.expand(PEOPLE, -1))  # (PEOPLE, D)
    image = functional.normalize(encode(clip, images).f_proj, dim=1) * clip.logit_scale
    text = functional.normalize(text, dim=1)[[number % PEOPLE for number in range(len(images))]]
    loss = torch.zeros(())
    for one, other in ((image, text), (text, image)):
        for i in range(len(images)):
            likeness = one[i] @ other.T
            shares = likeness - likeness.exp().sum().log()
            mine = [shares[j] for j in range(len(images)) if j % PEOPLE == i % PEOPLE]
            loss = loss - sum(mine) / len(mine) / len(images)
    loss.backward()
    assert log["loss"].iloc[0] == pytest.approx(float(loss.detach()), rel=1e-4)
    torch.testing.assert_close(codes, learnt.grad, rtol=1e-3, atol=1e-4 * float(learnt.grad.abs().max()))
    assert decay == 1e-4 and bank.identities == [f"person {number}" for number in range(PEOPLE)]
