"""PromptSG: the sentence made of an image, what it asks the image, and its way through training and test."""

import numpy as np
import pandas as pd
import pytest
import small_models
import torch
from small_runs import TINY, finetune, run
from torch import nn
from torch.nn import functional

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.clip.encode import encode
from clipreid_lib.clip.sentences import Sentences
from clipreid_lib.method.clipid_model import ClipidModel, ModelOutput
from clipreid_lib.method.loss_terms import IdentityLoss, TripletLoss
from clipreid_lib.method.promptsg import Composer, Interaction, SentenceLoss
from clipreid_lib.params import check, run_params, schema
from clipreid_lib.runs import embeddings, export, loading
from clipreid_lib.runs.recognizer import Recognizer

MODELS = {
    "sg-vit": {"image_size": 48, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
    "sg-rn": {"image_size": 64, "patch_size": None, "width": 8, "layers": [1, 1, 1, 1], "head_width": 16},
}


@pytest.fixture(scope="module", autouse=True)
def _tiny_models(tmp_path_factory):
    small_models.register(tmp_path_factory.mktemp("models"), MODELS)


@pytest.fixture(params=MODELS)
def clip(request):
    torch.manual_seed(5)
    return backbone.load(request.param, "random")


def make_model(clip, sentence="word", people=3) -> ClipidModel:
    torch.manual_seed(0)
    model = ClipidModel(clip, people)
    model.add_composer(Composer(clip, sentence))
    return model


def noise(clip, number: int) -> torch.Tensor:
    return torch.randn(number, 3, *clip.image_size)


@torch.no_grad()
@pytest.mark.parametrize(("name", "size"), [("sg-vit", "64x32"), ("sg-rn", "128x64")])
def test_places_stand_row_by_row_and_the_features_beside_them_are_the_same(name, size):
    clip = backbone.load(name, "random", size)
    images, visual = noise(clip, 2), clip.clip.visual
    features, tokens = clip.image_tokens(images)
    for kind, value in vars(clip.image_features(images)).items():
        assert value is None or torch.equal(getattr(features, kind), value)
    # open_clip's own maps are the oracle: (B, width, H, W)
    more = {"normalize_intermediates": True} if clip.is_vit else {}
    maps = visual.forward_intermediates(images, indices=1, **more)["image_intermediates"][-1]
    height, width = maps.shape[2:]
    assert height > width > 1 and tokens.shape == (2, height * width, maps.shape[1])
    for row in range(height):
        for column in range(width):
            torch.testing.assert_close(tokens[:, row * width + column], maps[:, :, row, column])


def attend(mha: nn.MultiheadAttention, asks: torch.Tensor, answers: torch.Tensor) -> torch.Tensor:
    """Attention head by head in NumPy's manner, without torch's attention."""
    query, key, value = (
        given @ weight.T + bias
        for given, weight, bias in zip(
            (asks, answers, answers), mha.in_proj_weight.chunk(3), mha.in_proj_bias.chunk(3), strict=True
        )
    )
    width = query.shape[2] // mha.num_heads
    heads = []
    for start in range(0, query.shape[2], width):
        part = slice(start, start + width)
        share = (torch.einsum("bqd,bkd->bqk", query[..., part], key[..., part]) / width**0.5).softmax(dim=2)
        heads.append(torch.einsum("bqk,bkd->bqd", share, value[..., part]))
    return torch.cat(heads, dim=2) @ mha.out_proj.weight.T + mha.out_proj.bias


@torch.no_grad()
def test_the_interaction_is_what_its_formulas_say():
    torch.manual_seed(3)
    module, text, tokens = Interaction(torch.randn(128, 40)).eval(), torch.randn(2, 128), torch.randn(2, 6, 40)
    for parameter in module.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))  # no norm or bias is left at one or zero
    assert module.ask.num_heads == 2 and len(module.blocks) == 2
    places = module.norm_places(tokens @ module.project.weight.T)
    x = torch.cat([attend(module.ask, module.norm_text(text)[:, None], places), places], dim=1)
    for block in module.blocks:
        seen = block.ln_1(x)
        x = x + attend(block.attn, seen, seen)
        x = x + block.mlp.c_proj(functional.gelu(block.mlp.c_fc(block.ln_2(x))))
    torch.testing.assert_close(module(text, tokens), module.norm_out(x[:, 0]), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_places_are_first_projected_as_clip_projects(clip):
    clip.double()
    _, tokens = clip.image_tokens(noise(clip, 2).double())
    start = Composer(clip).double().interaction.project(tokens)  # (B, L, embed_dim)
    visual = clip.clip.visual
    if clip.is_vit:
        wanted = tokens @ visual.proj
    else:  # a place that the attention pool would attend to alone, its biases apart
        pool = visual.attnpool
        bias = pool.c_proj.weight @ pool.v_proj.bias + pool.c_proj.bias
        wanted = pool.c_proj(pool.v_proj(tokens)) - bias
    torch.testing.assert_close(start, wanted, atol=1e-6, rtol=1e-5)


def test_shapes_and_the_losses_that_see_the_composed_feature(clip):
    model, rows = make_model(clip), torch.tensor([0, 0, 1, 1])
    out = model(noise(clip, 4))
    assert out.features.composed.shape == out.text.shape == (4, 16) and out.logits_composed.shape == (4, 3)
    width = out.features.f.shape[1]
    assert torch.equal(out.features.embedding[:, :16], out.features.composed)
    assert out.features.embedding.shape == (4, 16 + width + 16)
    three = functional.cross_entropy(out.logits_composed, rows, label_smoothing=0.1)
    two = IdentityLoss()(ModelOutput(out.features, out.logits, out.logits_proj), rows)
    torch.testing.assert_close(IdentityLoss()(out, rows), two + three)
    TripletLoss()(out, rows).backward()
    assert model.composer.interaction.ask.in_proj_weight.grad.abs().sum() > 0


def test_the_identity_loss_of_the_composed_feature_teaches_the_network_through_the_text_tower_alone(clip, monkeypatch):
    model, rows, images = make_model(clip), torch.tensor([0, 0, 1, 2]), noise(clip, 4)
    network = list(model.composer.reader.network.parameters())

    def teach() -> tuple[torch.Tensor | None, ...]:
        loss = functional.cross_entropy(model(images).logits_composed, rows)
        return torch.autograd.grad(loss, network, allow_unused=True)

    assert all(each is not None and each.abs().sum() > 0 for each in teach())
    assert not any(p.requires_grad for p in clip.text.transformer.parameters())
    read = Sentences.features
    monkeypatch.setattr(Sentences, "features", lambda *given: read(*given).detach())
    assert all(each is None for each in teach())


@torch.no_grad()
def test_another_word_is_another_composed_feature(clip):
    composer = make_model(clip).eval().composer
    features, tokens = clip.image_tokens(noise(clip, 1).expand(2, -1, -1, -1))
    features.f_proj[1] *= -1  # the same places, another word
    composed, text = composer(clip, features, tokens)
    assert (text[0] - text[1]).norm() > 1e-3 * text[0].norm() and not torch.allclose(*composed, atol=1e-5)


def test_the_control_has_the_same_module_and_start_and_no_network(clip):
    ours, control = (make_model(clip, sentence).eval() for sentence in ("word", "fixed"))
    mine, its = (dict(model.named_parameters()) for model in (ours, control))
    words = {name for name in mine if name.startswith("composer.reader.")}
    assert words and mine.keys() - its.keys() == words and not its.keys() - mine.keys()
    assert all(torch.equal(mine[name], its[name]) for name in its)
    images = noise(clip, 3)
    out = control(images)
    assert (out.text == out.text[0]).all() and out.features.composed.std(dim=0).min() > 0
    torch.testing.assert_close(out.text[:1], clip.encode_texts(["a photo of a hand."]))
    assert not torch.equal(*ours(images).text[:2])


def test_heads_start_alike_with_and_without_composer(clip):
    torch.manual_seed(0)
    plain, composing = ClipidModel(clip, 3), make_model(clip)
    for name, value in plain.named_parameters():
        assert torch.equal(value, composing.get_parameter(name))


@torch.no_grad()
def test_an_image_alone_gives_what_it_gives_among_others(clip):
    composer = make_model(clip).composer
    pixels = torch.randint(0, 256, (6, 3, *clip.image_size), dtype=torch.uint8)
    together = encode(clip, pixels, composer=composer)
    alone = torch.cat([encode(clip, each[None], composer=composer).composed for each in pixels])
    torch.testing.assert_close(alone, together.composed, atol=1e-5, rtol=1e-4)
    assert torch.pdist(alone).min() > 1e-2


def test_the_encoder_computes_in_half_and_the_rest_in_float32(clip, monkeypatch):
    model, seen = make_model(clip).eval(), {}
    tower = clip.image_tokens

    def note(*given):
        seen["tokens"] = tower(*given)
        return seen["tokens"]

    monkeypatch.setattr(clip, "image_tokens", note)
    out = model(noise(clip, 2), None, torch.bfloat16)
    features, tokens = seen["tokens"]
    assert features.f_proj.dtype == torch.bfloat16
    again, _ = model.composer(clip, features.to_float32(), tokens.float())
    assert out.features.composed.dtype == torch.float32 and torch.equal(out.features.composed, again)


@pytest.mark.parametrize("form", ["learned", "fixed"])
def test_a_saved_run_gives_the_embedding_of_the_model_in_memory_and_asks_for_no_label(open_run, tmp_path, form):
    opened = open_run(fresh=tmp_path, variant="promptsg", prompt_form=form, flip_test=True)
    clip = loading.load_backbone(opened)
    before = {name: value.clone() for name, value in clip.clip.state_dict().items()}
    clip, model, log = finetune(opened, clip)
    moved = {name for name, value in clip.clip.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("visual.") for name in moved)
    contrast = {"image_to_text", "text_to_image"}
    assert {"identity", "triplet"} <= set(log) and contrast & set(log) == (contrast if form == "learned" else set())
    encoder, images = loading.load_trained_encoder(opened), opened.manifest.test.drop_duplicates("path").head(6)
    pixels = torch.from_numpy(opened.photographs.load(images, clip.image_size))
    wanted = encode(clip, pixels, composer=model.composer).embedding
    found = encoder.embed(images)
    assert torch.equal(found.values, wanted)
    others = images.assign(identity=images["identity"].to_numpy()[::-1])
    assert torch.equal(encoder.encode(others).values, wanted)
    photographs = [opened.data_root / path for path in images["path"]]
    asked = Recognizer.load(opened.folder).embed(photographs)
    torch.testing.assert_close(asked, functional.normalize(wanted, dim=1), atol=1e-5, rtol=1e-4)

    made = embeddings.embed(opened, encoder, images)
    width = model.composer.width
    assert list(made) == ["image", "composed", "uncomposed", "mirrored", "stage 0"]
    assert torch.equal(made["composed"].values, wanted[:, :width])
    assert torch.equal(made["uncomposed"].values, wanted[:, width:])
    both = wanted + encode(clip, pixels.flip(3), composer=model.composer).embedding
    torch.testing.assert_close(made["mirrored"].values, both, atol=1e-4, rtol=1e-4)
    assert made["stage 0"].values.shape[1] == wanted.shape[1] - width


def test_after_the_neck_the_composed_feature_passes_its_own(open_run, tmp_path):
    opened = open_run(fresh=tmp_path, variant="promptsg", test_features="after_neck", encoder_epochs=1)
    clip, model, _ = finetune(opened)
    images = opened.manifest.test.head(4)
    seen = encode(clip, torch.from_numpy(opened.photographs.load(images, clip.image_size)), composer=model.composer)
    necks = ((model.head_composed, seen.composed), (model.head, seen.f), (model.head_proj, seen.f_proj))
    with torch.no_grad():
        wanted = torch.cat([head.eval().norm(each) for head, each in necks], dim=1)
    found = loading.load_trained_encoder(opened).embed(images).values
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


class Killed(BaseException):
    """What a kill looks like from inside."""


def test_a_killed_training_goes_on_and_ends_with_the_same_weights(open_run, tmp_path, monkeypatch):
    opened = open_run(fresh=tmp_path / "whole", variant="promptsg")
    finetune(opened)
    whole, _ = checkpoints.load(opened.models / "encoder.safetensors", "encoder")
    opened = open_run(fresh=tmp_path / "killed", variant="promptsg")
    step, steps = torch.optim.Adam.step, []

    def die(self, *given, **more):
        steps.append(1)
        if (opened.logs / "encoder.csv").exists():
            raise Killed  # in the second epoch
        return step(self, *given, **more)

    monkeypatch.setattr(torch.optim.Adam, "step", die)
    with pytest.raises(Killed):
        finetune(opened)
    monkeypatch.undo()
    assert len(steps) > 1
    finetune(opened)
    again, _ = checkpoints.load(opened.models / "encoder.safetensors", "encoder")
    assert whole.keys() == again.keys() and any(name.startswith("composer.reader") for name in whole)
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_what_does_not_go_with_it_is_refused_in_one_line(open_run, tmp_path):
    with pytest.raises(UserError, match="prompt_form: promptsg takes learned .* or fixed .*its control"):
        check.validate_params({"variant": "promptsg", "prompt_form": "shared"})
    clip = backbone.load("sg-vit", "random")
    clip.mute = "pretrained: a.pth holds an image encoder alone, which reads no sentences"
    for sentence in ("word", "fixed"):
        with pytest.raises(UserError, match="holds an image encoder alone, which reads no sentences"):
            Composer(clip, sentence)
    with pytest.raises(UserError, match="promptsg needs CLIP's own ViT or ResNet, which PE-Core-T-16-384 is"):
        Composer(backbone.load("PE-Core-T-16-384", "random"))
    nothing = ModelOutput(clip.image_features(noise(clip, 2)), torch.zeros(2, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match="compose='word'"):
        SentenceLoss(100.0)(nothing, torch.tensor([0, 1]))


def test_the_control_is_a_run_of_its_own():
    ours, control = (run_params.Params(variant="promptsg", prompt_form=form) for form in ("learned", "fixed"))
    assert ours.run_id != control.run_id and (ours.composes, control.composes) == ("word", "fixed")
    assert {run_params.Params(variant=each).composes for each in ("frozen", "clipid", "inversion")} == {"none"}
    assert ours.notebooks == ("03_encoder_finetune", "04_evaluation", "05_retrieval_visualisation")


@pytest.mark.long
def test_the_notebooks_run_to_the_end_and_what_cannot_be_exported_is_told(tmp_path):
    outputs = tmp_path / "outputs"
    more = TINY | {"variant": "promptsg", "encoder_epochs": 1, "outputs_root": outputs}
    file = schema.ROOT / "params" / "demo.yaml"
    made = run(tmp_path, str(file), *(part for key, value in more.items() for part in ("--set", f"{key}={value}")))
    assert made.returncode == 0, made.stdout + made.stderr
    (folder,) = (outputs / "runs").iterdir()
    table = pd.read_csv(outputs / "leaderboard.csv")
    assert table["variant"].tolist() == ["promptsg"] * len(table) and np.isfinite(table["rank1"]).all()
    assert (folder / "gallery.html").is_file()
    with pytest.raises(UserError, match="composes features, which open_clip cannot"):
        export.export(str(folder), str(tmp_path / "exported"))
