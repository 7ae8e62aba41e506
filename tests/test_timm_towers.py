"""Networks of timm, alone and inside open_clip's models, and towers that pool all places."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from small_models import register
from small_runs import TINY, finetune
from timm.data import resolve_model_data_config

from clipreid_lib.__main__ import main
from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone, timm_towers
from clipreid_lib.clip.encode import encode, normalise
from clipreid_lib.pages import attention, correspondence, model_card
from clipreid_lib.params import schema
from clipreid_lib.params.check import validate_params
from clipreid_lib.params.recipes import CONVNET, CONVNEXT, LARGE_VIT, RESNET, VIT, recipe_of
from clipreid_lib.runs import preflight
from clipreid_lib.runs.embeddings import embed_own
from clipreid_lib.runs.loading import load_network, load_trained_encoder
from clipreid_lib.runs.recognizer import Recognizer
from clipreid_lib.runs.run import Run

ALONE = ("test_resnet", "test_vit", "test_vit2", "test_convnext", "test_efficientnet", "swin_tiny_patch4_window7_224")
TRUNK = {"image_size": 64, "timm_model_name": "test_vit", "timm_model_pretrained": False}
SMALL = {"image_size": 64, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
INSIDE = {
    "trunk-map": {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
    "trunk-token": {**TRUNK, "image_size": 160, "timm_pool": "token", "timm_proj": None},
    "trunk-linear": {"image_size": 160, "timm_model_name": "test_convnext", "timm_pool": "", "timm_proj": "linear"},
    "pools-mean": {**SMALL, "pool_type": "avg", "final_ln_after_pool": True},
    "pools-attention": {**SMALL, "attentional_pool": True, "attn_pooler_heads": 2},
}


@pytest.fixture(scope="module", autouse=True)
def known(tmp_path_factory):
    """Small models of open_clip that pool, or have a network of timm inside."""
    register(tmp_path_factory.mktemp("models"), INSIDE)


@torch.no_grad()
@pytest.mark.parametrize("name", ALONE)
def test_features_are_those_of_timms_own_forward(name):
    clip = backbone.load(f"timm/{name}", "random")
    torch.manual_seed(0)
    own = timm.create_model(name, num_classes=0).eval()
    state = clip.clip.visual.trunk.state_dict()
    own.load_state_dict(state)
    config = resolve_model_data_config(own)
    assert clip.image_size == config["input_size"][1:] and clip.normalisation == (config["mean"], config["std"])
    pixels = (torch.rand(3, 3, *clip.image_size) * 255).byte()
    features = encode(clip, pixels)
    expected = own(normalise(pixels, config["mean"], config["std"]))
    torch.testing.assert_close(features.f, expected, atol=1e-5, rtol=1e-5)
    assert (
        features.f_proj is None
        and torch.equal(features.embedding, features.f)
        and clip.embed_dim == features.f.shape[1]
    )


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "layer", "take"),
    [
        ("test_resnet", "layer3", lambda out: out.mean(dim=(2, 3))),
        ("test_vit", "blocks.4", lambda out: out[:, 0]),  # the class token, of six blocks
        ("test_vit2", "blocks.6", lambda out: out[:, 1:].mean(dim=1)),  # of eight; it pools the places
        ("test_convnext", "stages.2", lambda out: out.mean(dim=(2, 3))),
        ("swin_tiny_patch4_window7_224", "layers.2", lambda out: out.mean(dim=(1, 2))),  # it keeps channels last
    ],
)
def test_f_last_is_what_the_layer_before_the_last_gives(name, layer, take):
    clip = backbone.load(f"timm/{name}", "random")
    seen, trunk = [], clip.clip.visual.trunk
    hook = trunk.get_submodule(layer).register_forward_hook(lambda module, given, out: seen.append(out))
    features = clip.image_features(torch.randn(2, 3, *clip.image_size))
    hook.remove()
    torch.testing.assert_close(features.f_last, take(seen[0]), atol=1e-6, rtol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("name", INSIDE)
def test_models_of_open_clip_give_what_open_clip_gives(name):
    clip = backbone.load(name, "random")
    images = torch.randn(2, 3, *clip.image_size)
    own = clip.clip.visual(images)
    own = own[0] if isinstance(own, tuple) else own
    features = clip.image_features(images)
    torch.testing.assert_close(features.in_text_space, own, atol=1e-5, rtol=1e-5)
    assert (
        (features.f_proj is None) == (name == "trunk-map")
        and clip.embed_dim == own.shape[1] == 16
        or name == "trunk-map"
    )
    texts = ["a photo of a hand.", "the palm of a left hand."]
    ours = clip.encode_texts(texts)
    torch.testing.assert_close(ours, clip.clip.encode_text(clip.tokenizer(texts)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["timm/test_resnet", "timm/test_vit", "timm/test_convnext", "trunk-map", *INSIDE])
def test_pictures_of_any_tower(name):
    clip = backbone.load(name, "random")
    pair = (torch.rand(2, 3, *clip.image_size) * 255).byte()
    heat = attention.map_heat(clip, pair)
    assert heat.method == "Grad-CAM" and heat.maps.amax(dim=(1, 2)).tolist() == [1, 1]
    places = correspondence.map_features(clip, pair)
    assert places.shape[2:] == heat.maps.shape[1:] and places.std() > 0
    down, across = attention.find_centres(clip, tuple(heat.maps.shape[1:]))
    assert down[0] + down[-1] == pytest.approx(1) and across[0] + across[-1] == pytest.approx(1)


def test_other_sizes_and_what_cannot_be():
    clip = backbone.load("timm/test_vit", "random", image_size="96x64")
    assert clip.image_size == (96, 64) and clip.image_features(torch.randn(1, 3, 96, 64)).f.shape == (1, 64)
    assert backbone.load("timm/test_resnet", "random", image_size=97).image_size == (97, 97)
    for settings, told in {
        ("image_size", 100): "image_size: 100 is no multiple of 16, the patches of timm/test_vit",
        ("patch_stride", 8): "patch_stride: timm/test_vit is a network of timm, whose strides are its own",
        ("last_stride", 1): "last_stride: timm/test_vit is a network of timm",
        ("activation", "gelu"): "activation: timm/test_vit has its own",
        ("pretrained", "nobody"): "pretrained: timm has no weights 'nobody' of test_vit; it has r160_in1k",
        ("normalisation", "odd"): "normalisation: 'odd' is unknown; use clip, imagenet, inception",
    }.items():
        with pytest.raises(UserError, match=told):
            backbone.load("timm/test_vit", **{"pretrained": "random", settings[0]: settings[1]})
    with pytest.raises(UserError, match="model: timm has no 'resnet5'; nearest: timm/resnet50"):
        backbone.load("timm/resnet5", "random")
    with pytest.raises(UserError, match="image_size: timm/hiera_tiny_224 cannot take 128, its own is 224"):
        backbone.load("timm/hiera_tiny_224", "random", image_size=128)


def test_a_file_of_weights_with_or_without_its_classifier(tmp_path):
    torch.manual_seed(3)
    whole = timm.create_model("test_vit")
    save_file(whole.state_dict(), tmp_path / "whole.safetensors")
    torch.save({"state_dict": whole.state_dict()}, tmp_path / "whole.pth")
    for file in ("whole.safetensors", "whole.pth"):
        clip = backbone.load("timm/test_vit", str(tmp_path / file), normalisation="imagenet")
        state = clip.clip.visual.trunk.state_dict()
        assert all(torch.equal(tensor, whole.state_dict()[key]) for key, tensor in state.items())
        assert "mean 0.485" in clip.assumed and "as params say" in clip.assumed
    with pytest.raises(UserError, match="the weights of timm/test_resnet cannot be loaded .*Missing key"):
        backbone.load("timm/test_resnet", str(tmp_path / "whole.pth"))


def test_licences_are_those_that_timm_states():
    assert timm_towers.licence_of("timm/vit_small_patch16_dinov3", "lvd1689m") == "dinov3-license"
    assert timm_towers.licence_of("timm/convnextv2_atto") == "cc-by-nc-4.0"
    assert timm_towers.licence_of("timm/resnet50.a1_in1k") == "apache-2.0"
    assert timm_towers.licence_of("timm/convnext_tiny.dinov3_lvd1689m", "random") == "dinov3-license"


@pytest.mark.parametrize(
    ("model", "recipe"),
    [
        ("timm/resnet50", CONVNET), ("timm/efficientnet_b0", CONVNET), ("timm/convnext_large", CONVNEXT),
        ("convnext_base_w", CONVNEXT), ("timm/vit_base_patch16_dinov3", VIT),
        ("timm/eva02_large_patch14_448", LARGE_VIT),
        ("vitl14", LARGE_VIT), ("ViT-L-14-336", LARGE_VIT), ("EVA02-L-14", LARGE_VIT), ("EVA02-B-16", VIT),
        ("ViT-SO400M-14-SigLIP", LARGE_VIT), ("ViT-B-16-SigLIP", VIT), ("vitb16", VIT), ("rn50", RESNET),
        ("ViTamin-L2-256", LARGE_VIT), ("ViTamin-B-LTT", VIT), ("MobileCLIP2-L-14", LARGE_VIT),
        ("PE-Core-bigG-14-448", LARGE_VIT),
    ],
)  # fmt: skip
def test_a_name_tells_its_recipe(model, recipe):
    assert recipe_of(model) is recipe


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"model": "timm/resnet5"}, "model: timm has no 'resnet5'; nearest: timm/resnet50"),
        (
            {"model": "ViT-B-16-SigLIP", "pretrained": "webli", "variant": "clipid"},
            "variant: ViT-B-16-SigLIP has another",
        ),
        (
            {"model": "coca_ViT-B-32", "pretrained": "laion2b_s13b_b90k", "variant": "inversion"},
            "reads a token of its own",
        ),
    ],
)
def test_a_grid_is_told_before_it_starts(values, told):
    with pytest.raises(UserError, match=told):
        preflight.check([validate_params({"variant": "frozen", **values})])


def test_sentences_need_a_text_tower():
    for variant in schema.SPEAK:
        with pytest.raises(UserError, match="variant: timm/resnet50 has no text tower for .*; use frozen, tip_adapter"):
            validate_params({"model": "timm/resnet50", "variant": variant})
    with pytest.raises(UserError, match="model: timm/test_vit has no text tower with CLIP's vocabulary"):
        backbone.load("timm/test_vit", "random").encode_texts(["a hand"])


@pytest.mark.parametrize("model", ["timm/test_resnet", "timm/test_vit", "trunk-map"])
def test_training_moves_two_features_and_is_found_again(model, tmp_path, shared_outputs):
    mine = {"model": model, "pretrained": "random", "variant": "clipid_no_text", "outputs_root": str(shared_outputs)}
    size = {} if model == "trunk-map" else {"image_size": 64}
    run = Run.open(validate_params({**TINY, **mine, **size, "experiment": f"timm{len(model)}"}))
    clip, trained, log = finetune(run)
    assert trained.head_proj is None and log["identity"].iloc[-1] != log["identity"].iloc[0]
    again = load_network(run).backbone
    pixels = (torch.rand(4, 3, *clip.image_size) * 255).byte()
    torch.testing.assert_close(encode(clip, pixels).embedding, encode(again, pixels).embedding, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(encode(clip, pixels).f, encode(backbone.load(model, "random", **size), pixels).f)
    assert Recognizer.load(run.folder).embed([pixels[0]]).shape == (1, clip.embed_dim)


@pytest.mark.heavy
def test_a_network_without_text_from_the_shell(tmp_path, shared_outputs, capsys):
    settings = TINY | {"model": "timm/test_resnet", "pretrained": "random", "image_size": "64", "encoder_epochs": 1}
    settings |= {"outputs_root": str(shared_outputs), "experiment": "shell", "variant": "frozen"}
    arguments = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    assert main(["run", "params/base.yaml", *arguments]) == 0
    said = capsys.readouterr().out
    assert "timm_test_resnet" in said or "shell-" in said
    (made,) = shared_outputs.glob("runs/shell-*")
    assert (made / "figures" / "who_is_it.png").exists()
    assert "random numbers; nothing was pretrained" in (made / "report.html").read_text()
    assert main(["export", str(made), "--out", str(tmp_path / "out")]) == 2
    assert "open_clip alone does not give the features" in capsys.readouterr().err


def test_tip_adapter_votes_by_the_features_there_are(open_run, tmp_path):
    network = {"model": "timm/test_resnet", "pretrained": "random", "image_size": "64"}
    run = open_run(fresh=tmp_path, variant="tip_adapter", **network)
    votes = embed_own(run, load_trained_encoder(run), run.manifest.test).values
    assert votes.shape == (len(run.manifest.test), run.manifest.train["identity"].nunique())
    assert votes.isfinite().all() and votes.std() > 0


@pytest.mark.parametrize("name", ["convnext_tiny", "convnext_base", "resnet50", "vit_small_patch16_224", "test_vit"])
def test_null_means_the_tag_that_timm_itself_would_load(name):
    own = timm.create_model(name).pretrained_cfg["tag"]
    assert timm_towers.choose_weights(f"timm/{name}", None) == (f"{name}.{own}", own)
    assert timm_towers.choose_weights(f"timm/{name}.{own}", own) == (f"{name}.{own}", own)
    assert timm_towers.choose_weights(f"timm/{name}", "random") == (f"{name}.{own}", "random")
    licence = timm.get_pretrained_cfg(f"{name}.{own}").license
    params = validate_params({"model": f"timm/{name}.{own}", "pretrained": own, "variant": "frozen"})
    start, said = model_card.describe_weights(params)
    assert start.endswith(f"{name}.{own}") and said.startswith(f"{licence}, as timm states it")


def test_untrained_weights_take_size_and_statistics_of_the_tag_that_is_named():
    clip = backbone.load("timm/mobilenetv4_conv_small.e3600_r256_in1k", "random")
    assert clip.image_size == (256, 256) and clip.normalisation == ((0.5,) * 3, (0.5,) * 3)


def test_a_tag_changes_no_recipe_and_transformers_take_the_gentle_rate():
    for full in timm.list_pretrained():
        assert recipe_of(f"timm/{full}") is recipe_of(f"timm/{full.partition('.')[0]}"), full
    for name in ("aimv2_large_patch14_224", "flexivit_base", "convit_base", "pit_s_224", "mixer_b16_224", "test_vit"):
        assert recipe_of(f"timm/{name}").encoder_lr <= VIT.encoder_lr
    assert recipe_of("ViT-gopt-16-SigLIP2-256") is LARGE_VIT


def test_what_a_network_cannot_is_told():
    clip = backbone.load("timm/convit_tiny", "random")
    with pytest.raises(UserError, match="checkpointing: timm's ConVit cannot recompute activations; use false"):
        clip.set_checkpointing(True)
    clip.set_checkpointing(False)
    for model, pretrained, told in (
        ("timm/resnet50.nobody", None, "timm has no weights 'nobody' of resnet50; it has a1_in1k"),
        ("timm/resnet50.a1_in1k", "a2_in1k", "'a2_in1k' and timm/resnet50.a1_in1k name two tags"),
    ):
        with pytest.raises(UserError, match=told):
            preflight.check([validate_params({"model": model, "pretrained": pretrained, "variant": "frozen"})])
