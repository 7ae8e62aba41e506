import open_clip
import pytest
import small_models
import torch

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone, tower_shapes

TINY = {
    "tiny-vit": {"image_size": 48, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16},
    "tiny-rn": {"image_size": 64, "patch_size": None, "width": 8, "layers": [1, 2, 1, 1], "head_width": 16},
}
SHAPES = [
    ("tiny-vit", {}),
    ("tiny-vit", {"image_size": "64x32"}),
    ("tiny-vit", {"image_size": "45x30", "patch_stride": 6}),
    ("tiny-rn", {}),
    ("tiny-rn", {"image_size": "128x64"}),
    ("tiny-rn", {"last_stride": 1}),
    ("tiny-rn", {"image_size": (100, 70), "last_stride": 1}),
    ("ViT-B-32", {"image_size": "128x64", "patch_stride": 24}),
    ("RN50", {"image_size": "128x64", "last_stride": 1}),
]


@pytest.fixture(scope="module", autouse=True)
def _tiny_models(tmp_path_factory):
    small_models.register(tmp_path_factory.mktemp("models"), TINY)


def seen(modules: dict, run) -> tuple[dict, dict]:
    """What each module was given and what it returned while ``run`` ran."""
    given, returned, hooks = {}, {}, []
    for name, module in modules.items():

        def note(_, inputs, out, name=name):
            given[name], returned[name] = inputs[0].clone(), out.clone()

        hooks.append(module.register_forward_hook(note))
    run()
    for hook in hooks:
        hook.remove()
    return given, returned


@torch.no_grad()
@pytest.mark.parametrize(("model", "shape"), SHAPES)
def test_the_three_features_are_open_clips_and_stand_where_the_paper_says(model, shape):
    clip = backbone.load(model, "random", **shape)
    visual, images = clip.clip.visual, torch.randn(2, 3, *clip.image_size)
    features = clip.image_features(images)
    close = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(features.f_proj, clip.clip.encode_image(images), **close)
    if clip.is_vit:
        given, returned = seen({"last": visual.transformer.resblocks[-1]}, lambda: visual(images))
        torch.testing.assert_close(features.f_last, given["last"][:, 0], **close)
        torch.testing.assert_close(features.f, visual.ln_post(returned["last"][:, 0]), **close)
        torch.testing.assert_close(features.f @ visual.proj, features.f_proj, atol=1e-4, rtol=1e-4)
    else:
        _, returned = seen({"3": visual.layer3, "4": visual.layer4}, lambda: visual(images))
        torch.testing.assert_close(features.f_last, returned["3"].mean(dim=(2, 3)), **close)
        torch.testing.assert_close(features.f, returned["4"].mean(dim=(2, 3)), **close)
        assert returned["4"].shape[2:] == tower_shapes.grid_of(visual, clip.image_size)
    texts = ["a photo of a hand", "the back of a left hand"]
    torch.testing.assert_close(clip.encode_texts(texts), clip.clip.encode_text(clip.tokenizer(texts)), **close)


@torch.no_grad()
@pytest.mark.parametrize("size", [(48, 48), (80, 80), (64, 32)])
def test_a_vit_of_another_size_is_the_one_open_clip_makes_of_the_same_weights(tmp_path, size):
    ours = backbone.load("tiny-vit", "random", size)
    torch.save(backbone.load("tiny-vit", "random").clip.state_dict(), tmp_path / "own_size.pt")
    theirs = open_clip.create_model("tiny-vit", pretrained=str(tmp_path / "own_size.pt"), force_image_size=size).eval()
    images = torch.randn(2, 3, *size)
    torch.testing.assert_close(ours.image_features(images).f_proj, theirs.encode_image(images), atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_stride_1_makes_the_last_layers_grid_twice_as_fine():
    grids = {}
    for stride in (1, 2, None):
        clip = backbone.load("tiny-rn", "random", "96x64", last_stride=stride)
        images = torch.randn(1, 3, 96, 64)
        _, returned = seen({"4": clip.clip.visual.layer4}, lambda clip=clip, images=images: clip.image_features(images))
        grids[stride] = tuple(returned["4"].shape[2:])
        assert len(clip.clip.visual.attnpool.positional_embedding) == 1 + grids[stride][0] * grids[stride][1]
    assert grids == {1: (6, 4), 2: (3, 2), None: (3, 2)}


@torch.no_grad()
@pytest.mark.parametrize("stride", [1, 5, 6, 7, 8])
def test_overlapping_patches_start_a_stride_apart(stride):
    clip = backbone.load("tiny-vit", "random", "61x40", patch_stride=stride)
    visual, images = clip.clip.visual, torch.randn(1, 3, 61, 40)
    _, returned = seen({"patches": visual.conv1}, lambda: clip.image_features(images))
    rows, columns = (61 - 8) // stride + 1, (40 - 8) // stride + 1
    assert returned["patches"].shape[2:] == (rows, columns) == visual.grid_size
    assert visual.positional_embedding.shape == (1 + rows * columns, 32)
    third = images[:, :, 2 * stride : 2 * stride + 8, :8]  # the patch in row 2, column 0
    by_hand = torch.einsum("bchw,ochw->bo", third, visual.conv1.weight)
    torch.testing.assert_close(returned["patches"][:, :, 2, 0], by_hand, atol=1e-4, rtol=1e-4)


def test_a_resized_table_keeps_the_class_entry_and_the_order_of_places():
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(6.0), indexing="ij")
    table = torch.cat([torch.tensor([[70.0, 80.0]]), torch.stack([rows, columns], dim=-1).flatten(0, 1)])
    larger = tower_shapes.resize_positions(table, (4, 6), (8, 12))
    assert larger.shape == (1 + 8 * 12, 2) and torch.equal(larger[0], table[0])
    places = larger[1:].unflatten(0, (8, 12))
    assert (places[1:, :, 0] > places[:-1, :, 0]).all() and (places[:, 1:, 1] > places[:, :-1, 1]).all()
    old = torch.tensor([(3 + 0.5) / 2 - 0.5, (6 + 0.5) / 2 - 0.5])  # where the centre of new place (3, 6) was
    torch.testing.assert_close(places[3, 6], old, atol=0.05, rtol=0)
    whole, squashed = (backbone.load("tiny-vit", "random", size).clip.visual.positional_embedding for size in (48, 32))
    assert torch.equal(whole[0], squashed[0]) and len(squashed) == 1 + 4 * 4


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ("tiny-vit", {"last_stride": 1}, "last_stride: tiny-vit is a ViT, only a ResNet has a layer 4; leave it null"),
        ("tiny-rn", {"patch_stride": 8}, "patch_stride: tiny-rn is a ResNet, only a ViT has patches; leave it null"),
        ("tiny-vit", {"patch_stride": 9}, "patch_stride: 9 is not allowed; tiny-vit takes 1 to 8"),
        ("tiny-rn", {"last_stride": 3}, "last_stride: 3 is not allowed; tiny-rn takes 1 or 2"),
        ("tiny-vit", {"image_size": "48x7"}, "image_size: 48x7 is too small for tiny-vit; one patch takes 8 pixels"),
        ("tiny-rn", {"image_size": 31}, "image_size: 31 is too small for tiny-rn; one place .* takes 32 pixels"),
        ("tiny-rn", {"image_size": 15, "last_stride": 1}, "image_size: 15 is too small .* takes 16 pixels"),
        ("tiny-vit", {"image_size": "wide"}, "image_size: 'wide' is no size"),
    ],
)
def test_shapes_a_tower_cannot_take_are_told_in_one_line(model, shape, message):
    with pytest.raises(UserError, match=message) as error:
        backbone.load(model, "random", **shape)
    assert "\n" not in str(error.value)


@torch.no_grad()
@pytest.mark.parametrize(("model", "size"), [("tiny-vit", 8), ("tiny-rn", 32)])
def test_the_smallest_size_works(model, size):
    clip = backbone.load(model, "random", size)
    assert clip.image_features(torch.randn(1, 3, size, size)).f_proj.shape == (1, 16)


@pytest.mark.parametrize(
    ("model", "mine", "theirs", "message"),
    [
        ("tiny-vit", {}, {"image_size": "64x32"}, "its image_size is '64x32', this run has '48'"),
        ("tiny-vit", {"patch_stride": 6}, {}, "its patch_stride is 8, this run has 6"),
        ("tiny-rn", {"last_stride": 1}, {}, "its last_stride is 2, this run has 1"),
    ],
)
def test_a_checkpoint_of_another_shape_is_told_by_the_field_that_differs(tmp_path, model, mine, theirs, message):
    mine, theirs = (backbone.describe(backbone.load(model, "random", **shape)) for shape in (mine, theirs))
    checkpoints.save(tmp_path / "a.safetensors", {}, {"kind": "encoder", **theirs})
    _, facts = checkpoints.load(tmp_path / "a.safetensors", "encoder")
    checkpoints.require(tmp_path / "a.safetensors", facts, theirs)
    with pytest.raises(UserError, match=message):
        checkpoints.require(tmp_path / "a.safetensors", facts, mine)


@pytest.mark.parametrize("model", ["tiny-vit", "tiny-rn"])
def test_checkpointing_changes_no_gradient_and_no_statistic(model):
    outcomes, calls = [], []
    for on in (False, True):
        clip = backbone.load(model, "random", "64x32")
        clip.clip.requires_grad_(True)
        clip.clip.train()
        clip.set_checkpointing(on)
        visual = clip.clip.visual
        inner = visual.transformer.resblocks[1] if clip.is_vit else visual.layer2
        counted = []
        inner.register_forward_pre_hook(lambda *_, to=counted: to.append(1))
        torch.manual_seed(0)
        for _ in range(2):
            features = clip.image_features(torch.randn(4, 3, 64, 32))
            text = clip.encode_texts(["a hand", "a left hand"])
            (features.embedding.square().sum() + features.f_last.square().sum() + text.square().sum()).backward()
        calls.append(len(counted))
        gradients = {name: p.grad for name, p in clip.clip.named_parameters() if p.grad is not None}
        outcomes.append(gradients | {name: value for name, value in visual.named_buffers()})
    assert calls == [2, 4]  # with checkpointing each pass runs the block once more
    assert outcomes[0].keys() == outcomes[1].keys() and len(outcomes[0]) > 30
    for name, value in outcomes[0].items():
        torch.testing.assert_close(outcomes[1][name], value, atol=1e-6, rtol=1e-5, msg=name)
    clip.set_checkpointing(False)
    assert not clip.text.transformer.grad_checkpointing and not clip.checkpointing
