import numpy as np
import pytest
import small_models
import torch
from torch.nn import functional

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.pages import attention

VIT = {"image_size": 48, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}
RESNET = {"image_size": 64, "patch_size": None, "width": 8, "layers": [1, 2, 1, 1], "head_width": 16}
MODELS = {"heat-vit": VIT, "heat-rn": RESNET, "heat-custom": {**VIT, "block_type": "custom", "qk_norm": True}}


@pytest.fixture(scope="module", autouse=True)
def _tiny_models(tmp_path_factory):
    small_models.register(tmp_path_factory.mktemp("models"), MODELS)


@pytest.fixture
def vit():
    return backbone.load("heat-vit", "random")


@pytest.fixture
def resnet():
    return backbone.load("heat-rn", "random")


def noise(clip, count=2, seed=0):
    return torch.rand(count, 3, *clip.image_size, generator=torch.Generator().manual_seed(seed)) - 0.5


def hooks(clip):
    return [hook for m in clip.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]


# --- rollout -----------------------------------------------------------------------------------------------


def test_rollout_of_two_layers_worked_by_hand():
    first = torch.tensor([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    second = torch.tensor([[0.0, 0.6, 0.4], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    # Halved with the identity, the second layer's class row is [0.5, 0.3, 0.2]; of the first layer only token 1 mixes,
    # [0.25, 0.75, 0]. The class row of the product is [0.5 + 0.075, 0.225, 0.2]; without itself, over 0.425:
    expected = torch.tensor([[0.225, 0.2]]) / 0.425
    torch.testing.assert_close(attention.multiply_layers([first[None], second[None]]), expected)
    assert not torch.allclose(attention.multiply_layers([second[None], first[None]]), expected)  # the order counts


def test_rollout_of_a_class_token_that_looks_at_itself_alone_is_zero_and_no_nan():
    assert attention.multiply_layers([torch.eye(4)[None]]).tolist() == [[0, 0, 0]]


@pytest.mark.parametrize(
    "shape, grid",
    [({}, (6, 6)), ({"image_size": "64x32"}, (8, 4)), ({"image_size": "45x30", "patch_stride": 6}, (7, 4))],
)
def test_a_vits_map_has_its_grid_and_sums_to_one(shape, grid):
    clip = backbone.load("heat-vit", "random", **shape)
    maps = attention.roll_out_attention(clip, noise(clip, 3))
    assert maps.shape == (3, *grid) and (maps > 0).all()
    torch.testing.assert_close(maps.sum(dim=(1, 2)), torch.ones(3))


@torch.no_grad()
def test_watching_changes_no_feature_and_leaves_nothing_behind(vit):
    images = noise(vit)
    before, modes = vit.image_features(images), [m.training for m in vit.modules()]
    seen = attention.collect_attention(vit, images)
    assert [tuple(each.shape) for each in seen] == [(2, 37, 37)] * 3
    torch.testing.assert_close(seen[0].sum(dim=-1), torch.ones(2, 37))
    attention.roll_out_attention(vit, images)
    assert torch.equal(vit.image_features(images).f, before.f)  # bit by bit, once the hooks are gone
    assert not hooks(vit) and [m.training for m in vit.modules()] == modes


def test_hooks_go_even_when_the_tower_fails(vit, resnet):
    for look, clip in ((attention.roll_out_attention, vit), (attention.grad_cam, resnet)):
        with pytest.raises((RuntimeError, ValueError, TypeError, AssertionError)):
            look(clip, *[torch.zeros(1, 3, 7, 7)] * (2 if clip is resnet else 1))
        assert not hooks(clip)


def test_train_mode_is_not_used(vit, resnet):
    for clip in (vit, resnet):
        clip.train()
        statistics = {name: value.clone() for name, value in clip.named_buffers()}
        attention.map_heat(clip, torch.randint(0, 255, (2, 3, *clip.image_size), dtype=torch.uint8))
        assert not any(m.training for m in clip.modules())
        assert all(torch.equal(value, statistics[name]) for name, value in clip.named_buffers())


def test_attention_forced_on_one_patch_peaks_there(vit):
    # The queries and keys of all layers are made constant but for one patch's key, which its position carries.
    visual, width, target = vit.clip.visual, 32, 1 + 2 * 6 + 4  # row 2, column 4
    visual.conv1.weight.data.zero_()
    visual.class_embedding.data.zero_()
    visual.positional_embedding.data.zero_()
    visual.positional_embedding.data[:, 0] = -1.0
    visual.positional_embedding.data[target, :2] = torch.tensor([-1.0, 8.0])
    for block in visual.transformer.resblocks:
        block.attn.in_proj_weight.data.zero_()
        block.attn.in_proj_bias.data.zero_()
        block.attn.in_proj_bias.data[[0, 16]] = 4.0  # every query asks both heads for the same
        block.attn.in_proj_weight.data[width, 1] = block.attn.in_proj_weight.data[width + 16, 1] = 4.0  # the keys
    (map_,) = attention.roll_out_attention(vit, noise(vit, 1))
    assert divmod(int(map_.argmax()), 6) == (2, 4) and map_.max() > 0.9


def test_a_tower_without_visible_attention_is_told():
    custom = backbone.load("heat-custom", "random")
    with pytest.raises(UserError, match="attention rollout: heat-custom keeps its attention to itself; use a ViT"):
        attention.roll_out_attention(custom, noise(custom))


# --- Grad-CAM ----------------------------------------------------------------------------------------------


def test_grad_cam_is_the_gradient_worked_by_hand(resnet):
    images, visual = noise(resnet), resnet.clip.visual
    towards = torch.rand(2, 256 + 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = visual.layer4(visual.layer3(visual.layer2(visual.layer1(visual.stem(images)))))  # (2, 256, 2, 2)

    def embedded(maps):
        return torch.cat([maps.mean(dim=(2, 3)), visual.attnpool(maps)], dim=1)

    with torch.no_grad():
        length = embedded(maps).norm(dim=1)

    def score(maps):
        return ((embedded(maps) * towards).sum(dim=1) / (length * towards.norm(dim=1))).sum()

    expected = (torch.autograd.functional.jacobian(score, maps) * maps).sum(dim=1).clamp(min=0)
    expected = expected / expected.amax(dim=(1, 2), keepdim=True)
    found = attention.grad_cam(resnet, images, towards)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert expected.isfinite().all() and expected.min() < 0.99  # a map worth comparing


def test_the_map_agrees_with_what_taking_each_place_away_costs(resnet):
    # Finite differences: shrink one place's response a little, and see what the cosine loses at fixed length.
    resnet.double()
    images, visual = noise(resnet, 1).double(), resnet.clip.visual
    towards = resnet.image_features(noise(resnet, 1, seed=3).double()).embedding
    seen = []
    hook = visual.layer4.register_forward_hook(lambda _, given, out: seen.append(out))
    length = resnet.image_features(images).embedding.norm()
    hook.remove()

    def score(maps):
        embedding = torch.cat([maps.mean(dim=(2, 3)), visual.attnpool(maps)], dim=1)
        return float((embedding * towards).sum() / length / towards.norm())

    cost = torch.zeros(2, 2)
    for row, column in np.ndindex(2, 2):
        less, more = seen[0].clone(), seen[0].clone()
        less[:, :, row, column] *= 1 - 1e-4
        more[:, :, row, column] *= 1 + 1e-4
        cost[row, column] = (score(more) - score(less)) / 2e-4
    expected = cost.clamp(min=0) / cost.max()
    resnet.float()
    found = attention.grad_cam(resnet, images.float(), towards.float())
    torch.testing.assert_close(found[0], expected, atol=1e-3, rtol=1e-3)


def test_where_one_place_alone_responds_the_map_is_that_place(resnet):
    def only(_, given, out):
        kept = torch.zeros_like(out)
        kept[:, :, 1, 0] = out[:, :, 1, 0] + 1
        return kept

    hook = resnet.clip.visual.layer4.register_forward_hook(only)
    towards = torch.zeros(1, 272)
    towards[:, :128] = 1  # of f alone, half the channels
    found = attention.grad_cam(resnet, noise(resnet, 1), towards)
    hook.remove()
    assert found.tolist() == [[[0, 0], [1, 0]]]


def test_no_gradient_gives_zeros_and_no_nan(resnet):
    images = noise(resnet)
    embedding = resnet.image_features(images).embedding
    assert not attention.grad_cam(resnet, images, torch.zeros_like(embedding)).any()
    assert attention.grad_cam(resnet, images, embedding).amax(dim=(1, 2)).tolist() == [1, 1]


@pytest.mark.parametrize("frozen", [True, False])
def test_grad_cam_needs_no_trainable_parameter_and_leaves_no_gradient(resnet, frozen):
    resnet.requires_grad_(not frozen)
    with torch.no_grad():  # as a notebook may have it
        found = attention.grad_cam(resnet, noise(resnet), torch.randn(2, 272))
    assert found.shape == (2, 2, 2) and not found.requires_grad
    assert all(p.grad is None and p.requires_grad != frozen for p in resnet.parameters())
    assert not hooks(resnet)


# --- the one verb ------------------------------------------------------------------------------------------


def test_heat_chooses_by_tower(vit, resnet):
    for clip, method in ((vit, "attention rollout"), (resnet, "Grad-CAM")):
        pixels = torch.randint(0, 255, (2, 3, *clip.image_size), dtype=torch.uint8)
        heat, turned = attention.map_heat(clip, pixels), attention.map_heat(clip, pixels.flip(0))
        assert heat.method == method and " not " in heat.legend
        assert f"{heat.maps.shape[1]} × {heat.maps.shape[2]}" in heat.legend
        torch.testing.assert_close(heat.maps, turned.maps.flip(0), atol=1e-4, rtol=1e-4)
        embeddings = clip.image_features(attention.prepare(clip, pixels)).embedding
        assert heat.cosine == pytest.approx(functional.cosine_similarity(*embeddings, dim=0).item(), abs=1e-5)


def test_grad_cam_depends_on_the_match_and_rollout_does_not(vit, resnet):
    for clip in (vit, resnet):
        pixels = torch.randint(0, 255, (3, 3, *clip.image_size), dtype=torch.uint8)
        pixels[2] = pixels[2] // 8  # a dark one
        one, other = (attention.map_heat(clip, pixels[[0, place]]).maps[0] for place in (1, 2))
        assert torch.allclose(one, other, atol=1e-6) == clip.is_vit


def test_side_information_reaches_the_tower(vit):
    vit.add_side_information("camera", [1, 2])
    vit.clip.visual.side_embedding.data *= 200
    pixels = torch.randint(0, 255, (1, 3, 48, 48), dtype=torch.uint8).repeat(2, 1, 1, 1)
    plain = attention.map_heat(vit, pixels)
    sided = attention.map_heat(vit, pixels, torch.tensor([0, 1]))
    assert not torch.allclose(plain.maps[0], sided.maps[0]) and not torch.allclose(*sided.maps)


# --- where places lie --------------------------------------------------------------------------------------


def test_centres_of_overlapping_patches_that_do_not_fill_the_image():
    clip = backbone.load("heat-vit", "random", image_size="47x30", patch_stride=6)
    down, across = attention.find_centres(clip, (7, 4))
    np.testing.assert_allclose(down * 47, [4, 10, 16, 22, 28, 34, 40])
    np.testing.assert_allclose(across * 30, [4, 10, 16, 22])


@pytest.mark.parametrize("stride", [1, 2])
def test_centres_of_a_resnets_layers_are_where_a_spot_lights_them(stride):
    clip = backbone.load("heat-rn", "random", image_size=(160, 96), last_stride=stride)
    grid = (10, 6)  # of layer 3
    down, across = attention.find_centres(clip, grid)
    seen, last = [], (10 // stride, 6 // stride)
    hook = clip.clip.visual.layer3.register_forward_hook(lambda _, given, out: seen.append(out[0]))
    spot = torch.zeros(2, 3, 160, 96)
    row, column = int(down[6] * 160), int(across[2] * 96)
    spot[1, :, row - 2 : row + 2, column - 2 : column + 2] = 10
    with torch.no_grad():
        clip.image_features(spot[:1]), clip.image_features(spot[1:])
    hook.remove()
    changed = (seen[1] - seen[0]).norm(dim=0)  # (10, 6)
    assert divmod(int(changed.argmax()), 6) == (6, 2)
    np.testing.assert_allclose(
        attention.find_centres(clip, last)[0] * 160, np.arange(last[0]) * 16 * stride + 8 * stride
    )
