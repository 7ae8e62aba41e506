"""`train`: which weights of an image tower move, low-rank changes against numpy, kills, and messages."""

import copy
import re

import numpy as np
import pytest
import small_models
import timm.layers
import torch
from small_runs import finetune as finetune_run
from torch import nn

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.clip.encode import encode
from clipreid_lib.method import few_weights
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.method.encoder_finetune import EncoderSettings, finetune
from clipreid_lib.method.loss_terms import IdentityLoss, Term
from clipreid_lib.method.resume import Keep
from clipreid_lib.params import check, run_ids
from clipreid_lib.runs import loading

VIT = {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8}
RN = {"image_size": 64, "layers": [1, 2, 1, 1], "width": 8, "patch_size": None, "head_width": 32}
LABELS = [person for person in range(4) for _ in range(4)]
TERMS = {"identity": Term(1.0, IdentityLoss())}
SETTINGS = EncoderSettings(epochs=2, lr=1e-3, head_lr=1e-3, batch_size=8, images_per_identity=2, bias_factor=1.0)


@pytest.fixture(scope="module", autouse=True)
def _tiny_models(tmp_path_factory):
    small_models.register(tmp_path_factory.mktemp("models"), {"few-vit": VIT, "few-rn": RN})


def load(model):
    clip = backbone.load(model, "random")
    for name, weight in clip.clip.visual.named_parameters():
        if name.endswith("bn3.weight"):  # zero in an untrained ResNet: nothing before it would learn
            nn.init.ones_(weight)
    return clip


def draw_images(clip):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 255, (16, 3, *clip.image_size), dtype=torch.uint8, generator=generator)


def train(clip, how, **more):
    settings = EncoderSettings(**{**vars(SETTINGS), "train": how})
    return finetune(clip, draw_images(clip), LABELS, TERMS, settings, **{"watch": lambda line: None, **more})


def state(clip):
    return copy.deepcopy(clip.clip.state_dict())


def moved(before, after):
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


STATISTICS = r"running_mean|running_var|num_batches_tracked"


@pytest.mark.parametrize(
    ("model", "how", "names"),
    [
        ("few-vit", "all", r".*"),
        ("few-vit", "last-1", r"transformer\.resblocks\.2\..*|ln_post\..*|proj"),
        ("few-vit", "last-2", r"transformer\.resblocks\.[12]\..*|ln_post\..*|proj"),
        ("few-vit", "last-3", r"transformer\.resblocks\.[012]\..*|ln_post\..*|proj"),
        ("few-vit", "norms", r"(ln_pre|ln_post|.*\.ln_[12])\.(weight|bias)"),
        ("few-vit", "lora-2", r".*\.(attn\.in_proj_weight|(attn\.out_proj|mlp\.c_fc|mlp\.c_proj)\.weight)"),
        ("timm/test_vit", "last-1", r"trunk\.(blocks\.5|norm)\..*"),
        ("timm/test_vit", "lora-2", r"trunk\.blocks\.\d\.(attn|mlp)\.\w+\.weight"),
        ("timm/test_resnet", "last-1", r"trunk\.layer4\..*"),
        ("timm/test_resnet", "norms", rf"trunk\.(.*\.)?(bn\d|downsample\.2|conv1\.[14])\.(weight|bias|{STATISTICS})"),
        ("timm/test_efficientnet", "last-1", r"trunk\.(blocks\.4|conv_head|bn2)\..*"),
        ("timm/test_convnext", "last-2", r"trunk\.(stages\.[23]|head)\..*"),
        ("few-rn", "all", r".*"),
        ("few-rn", "last-1", r"(layer4|attnpool)\..*"),
        ("few-rn", "last-3", r"(layer[234]|attnpool)\..*"),
        ("few-rn", "norms", rf"(.*\.)?(bn\d|downsample\.1)\.(weight|bias|{STATISTICS})"),
        ("few-rn", "lora-2", r"((.*\.)?conv\d|.*\.downsample\.0|attnpool\.[qkvc]_proj)\.weight"),
    ],
)
def test_what_is_named_moves_and_the_rest_stays_bit_for_bit(model, how, names):
    clip = load(model)
    before = state(clip)
    train(clip, how)
    expected = {name for name in before if re.fullmatch(rf"visual\.({names})", name)}
    assert expected and moved(before, state(clip)) == expected
    assert not any("parametrizations" in name for name, _ in clip.named_parameters())


@pytest.mark.parametrize("model", ["few-vit", "few-rn"])
def test_low_rank_changes_start_as_the_pretrained_network_digit_for_digit(model):
    clip = load(model)
    pixels = torch.randn(3, 3, *clip.image_size)
    before = clip.image_features(pixels)
    learner = ClipidModel(clip, 4)
    few_weights.prepare(clip.clip.visual, "lora-3", 0)
    learner.train()  # as in training, where a frozen batch norm must not look at the batch
    after = clip.image_features(pixels)
    for name in ("f_last", "f", "f_proj"):
        assert torch.equal(getattr(before, name), getattr(after, name))
    learner.backbone.clip.visual.requires_grad_(True)
    learner.train()
    assert torch.equal(clip.image_features(pixels).f, before.f) == (model == "few-vit")  # and else it would


def product(b, a, weight, scale):
    """W + scale B A in numpy, one matrix after another."""
    parts = np.split(weight.reshape(weight.shape[0], -1).astype(np.float64), len(a))
    changed = [part + scale * (left @ right) for part, left, right in zip(parts, b, a, strict=True)]
    return np.concatenate(changed).reshape(weight.shape)


@pytest.mark.parametrize(("model", "joint"), [("few-vit", 3), ("few-rn", 0)])
def test_merged_weights_are_w_plus_b_a(model, joint):
    clip = load(model)
    visual, rank, before = clip.clip.visual, 3, state(clip)
    few_weights.prepare(visual, f"lora-{rank}", 0)
    changes = {name: part for name, part in visual.named_modules() if isinstance(part, few_weights.LowRank)}
    generator = torch.Generator().manual_seed(0)
    expected = {}
    for path, change in changes.items():
        change.b.data.normal_(generator=generator)
        name = "visual." + path.replace("parametrizations.", "").removesuffix(".0")
        a, b = change.a.detach().numpy().astype(np.float64), change.b.detach().numpy().astype(np.float64)
        assert len(a) == (3 if name.endswith("in_proj_weight") else 1)
        expected[name] = product(b, a, before[name].numpy(), few_weights.ALPHA / rank)
    assert sum(name.endswith("in_proj_weight") for name in expected) == joint
    changing = encode(clip, draw_images(clip)).embedding
    few_weights.merge(visual)
    after = state(clip)
    assert moved(before, after) == set(expected)
    for name, weight in expected.items():
        np.testing.assert_allclose(after[name].numpy(), weight, rtol=1e-5, atol=1e-5)
        change = after[name].double() - before[name].double()
        for part in change.flatten(1).chunk(3 if name.endswith("in_proj_weight") else 1):
            assert np.linalg.matrix_rank(part.numpy(), tol=1e-4) == rank
    assert torch.equal(encode(clip, draw_images(clip)).embedding, changing)


def test_a_change_is_computed_in_float32_whatever_the_network_computes_in():
    layer = load("few-vit").clip.visual.transformer.resblocks[0]
    few_weights.parametrize.register_parametrization(
        layer.mlp.c_fc, "weight", few_weights.LowRank(layer.mlp.c_fc.weight, 2, 1, torch.Generator())
    )
    layer.mlp.c_fc.parametrizations.weight[0].b.data.fill_(0.1)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = layer.mlp.c_fc.weight
    assert coarse.dtype is torch.float32 and torch.equal(coarse, layer.mlp.c_fc.weight)


class Killed(BaseException):
    """What a kill looks like from inside."""


@pytest.mark.parametrize("how", ["lora-2", "norms", "last-1"])
@pytest.mark.parametrize("model", ["few-vit", "few-rn"])
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path, model, how):
    whole, steps = load(model), []
    train(whole, how)

    def dies(learner):
        steps.append(1)
        if len(steps) == 2:  # after the second epoch, before its state is written
            raise Killed
        return {}

    keep, killed, said = Keep(tmp_path / "log.csv", tmp_path / "resume.pt", every=0), load(model), []
    with pytest.raises(Killed):
        train(killed, how, keep=keep, validate=dies)
    assert moved(state(whole), state(load(model)))
    kept = (tmp_path / "resume.pt").read_bytes()
    # in a new process, and, as JupyterLab does it, in the one where the cell was interrupted or has finished
    again = load(model)
    for clip in (again, killed, whole):
        (tmp_path / "resume.pt").write_bytes(kept)
        after = state(whole)
        train(clip, how, keep=keep, watch=said.append)
        assert moved(state(clip), after) == set()
    assert sum("going on after epoch 1 of 2" in line for line in said) == 3


@pytest.mark.training
@pytest.mark.parametrize(("how", "rate"), [("lora-2", 3e-3), ("last-1", 1e-3)])
def test_a_saved_encoder_is_loaded_as_any_other(open_run, how, rate):
    run = open_run(variant="classifier", train=how, encoder_epochs=1)
    clip, _, _ = finetune_run(run)
    assert run.params.encoder_lr == rate
    trained = loading.load_trained_encoder(run).backbone
    assert moved(state(clip), state(trained)) == set()
    assert moved(state(loading.load_backbone(run)), state(trained))
    images = draw_images(clip)
    assert torch.equal(encode(trained, images).embedding, encode(clip, images).embedding)
    tensors, _ = checkpoints.load(run.models / "encoder.safetensors", "encoder")
    usual = {f"visual.{name}" for name in loading.load_backbone(run).clip.visual.state_dict()}
    assert {name for name in tensors if name.startswith("visual.")} == usual


def test_how_many_weights_are_trained_is_said():
    clip, said = load("few-vit"), []
    total = sum(weight.numel() for weight in clip.clip.visual.parameters())
    train(clip, "lora-2", watch=said.append)
    # a block of width w has q, k, v and out (w to w), and two MLP matrices (w to 4 w): R (8 w + 10 w)
    learned = 3 * 2 * 18 * 32
    assert f"encoder: {learned:,} of {total:,} weights of the image tower are trained (lora-2)" in said


def test_a_rank_is_no_larger_than_a_matrix():
    few_weights.prepare(visual := load("few-rn").clip.visual, "lora-1000", 0)
    first = visual.conv1.parametrizations.weight[0]  # (4, 3, 3, 3)
    assert first.a.shape == (1, 4, 27) and first.b.shape == (1, 4, 4)


def test_norms_of_timm_count_and_new_vectors_train_always():
    tower = nn.Sequential(
        timm.layers.LayerNorm2d(4), timm.layers.BatchNormAct2d(4), timm.layers.RmsNorm(4), nn.Linear(4, 4)
    )
    assert few_weights.choose(tower, "norms").whole == {"0.weight", "0.bias", "1.weight", "1.bias", "2.weight"}
    clip = load("few-vit")
    clip.add_side_information("camera", [1, 2])
    for how in ("all", "last-1", "norms", "lora-2"):
        assert "side_embedding" in few_weights.choose(clip.clip.visual, how).whole


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"train": "last-0"}, "train: write all, norms, last-N or lora-R .* such as last-2 or lora-4, got 'last-0'"),
        ({"train": "lora-x"}, "train: write all, norms, last-N or lora-R .*, got 'lora-x'"),
        ({"train": "lora"}, "train: write all, norms"),
        ({"train": "last-2 "}, "train: write all, norms"),
        ({"train": "norms", "variant": "frozen"}, "train: frozen, mode full, trains no image encoder; use all"),
        ({"train": "norms", "mode": "prompt_learn"}, "train: clipid, mode prompt_learn, trains no image encoder"),
    ],
)
def test_mistakes_in_params_are_one_line(values, message):
    with pytest.raises(UserError, match=message) as error:
        check.validate_params(values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("model", "how", "message"),
    [
        (
            "few-vit",
            "last-4",
            r"train: last-4, but the image tower has 3 blocks \(block 1 to block 3\); use last-1 to last-3",
        ),
        (
            "few-rn",
            "last-5",
            r"train: last-5, but the image tower has 4 blocks \(layer1 to layer4\); use last-1 to last-4",
        ),
        ("few-vit", "lora-0", "train: 'lora-0' is not allowed; use all, norms, last-N or lora-R"),
    ],
)
def test_mistakes_in_plain_python_are_one_line_and_change_nothing(model, how, message):
    clip = load(model)
    before = state(clip)
    with pytest.raises(UserError, match=message):
        train(clip, how)
    assert moved(before, state(clip)) == set()


def test_more_blocks_than_there_are_is_told_before_any_stage(open_run):
    with pytest.raises(UserError, match="train: last-5, but the image tower has 4 blocks"):
        loading.load_backbone(open_run(variant="clipid", train="last-5"))


@pytest.mark.parametrize(
    ("values", "rate"),
    [
        ({}, 1e-3),
        ({"train": "last-2"}, 1e-3),
        ({"train": "norms"}, 3e-3),
        ({"train": "lora-4"}, 3e-3),
        ({"train": "lora-4", "model": "vitb16"}, 5e-5),
        ({"train": "lora-4", "head_lr": 0.5}, 0.5),
        ({"train": "norms", "encoder_lr": 0.25, "head_lr": 0.5}, 0.25),
    ],
)
def test_few_weights_take_the_heads_rate_where_none_is_written(values, rate):
    params = check.validate_params(values)
    assert params.resolved().encoder_lr == rate
    told = check.validate_params(params.changed() | {"encoder_epochs": 3})
    assert told.resolved().encoder_lr == rate  # by what a notebook is told


def test_ids_of_runs_that_train_all_stay():
    plain = check.validate_params({})
    ids = {check.validate_params({"train": how}).run_id for how in ("last-1", "norms", "lora-1", "lora-2")}
    assert check.validate_params({"train": "all"}).run_id == plain.run_id and len(ids | {plain.run_id}) == 5
    kept = {key: value for key, value in plain.resolved().model_dump().items() if key != "train"}
    assert "train" not in kept and run_ids.digest(plain.resolved(), set(kept)) == run_ids.digest(
        plain.resolved(), set(kept) | {"train"}
    )


def test_frozen_batch_norms_of_any_kind_keep_their_statistics():
    clip = backbone.load("timm/levit_128s", "random")  # its norms are over tokens, BatchNorm1d
    learner = ClipidModel(clip, 4)
    few_weights.prepare(clip.clip.visual, "lora-2", 0)
    learner.train()
    kinds = {type(part).__name__ for part in clip.clip.visual.modules() if hasattr(part, "running_mean")}
    assert "BatchNorm1d" in kinds
    assert not any(part.training for part in clip.clip.visual.modules() if hasattr(part, "running_mean"))


def test_pools_that_attend_follow_the_last_block_and_take_low_rank_changes():
    visual = backbone.load("coca_ViT-B-32", "random").clip.visual
    pool = {name for name, _ in visual.named_parameters() if name.startswith("attn_pool")}
    assert pool and pool <= few_weights.choose(visual, "last-1").whole
    changed = few_weights.choose(visual, "lora-1").changed
    assert {f"attn_pool.attn.{each}_proj_weight" for each in "qkv"} <= changed


def test_joint_queries_keys_and_values_of_timm_have_a_change_each():
    visual = backbone.load("timm/test_vit", "random").clip.visual
    few_weights.prepare(visual, "lora-2", 0)
    change = visual.trunk.blocks[0].attn.qkv.parametrizations.weight[0]
    assert change.a.shape == (3, 2, 64) and change.b.shape == (3, 64, 2)


def test_a_network_without_norms_is_told():
    with pytest.raises(UserError, match="train: norms, but the image tower has no normalisation layers"):
        few_weights.choose(backbone.load("timm/test_nfnet", "random").clip.visual, "norms")


def test_a_notebook_is_told_the_rate_that_the_heads_rate_would_hide():
    given = {"model": "vitb16", "variant": "classifier", "train": "lora-4", "head_lr": 5e-4, "encoder_lr": 5e-5}
    run = check.validate_params(given).resolved()
    assert check.validate_params(run.changed()).resolved() == run
