import json
import os
import subprocess
import sys
import warnings

import open_clip
import pytest
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.params import check, recipes, schema


@pytest.fixture(scope="module")
def embedded():
    return backbone.load("embedded")


@pytest.fixture(scope="module", params=["embedded", "ViT-S-32", "RN50"])
def clip(request):
    """The embedded CLIP, and both kinds of tower at real width (untrained, few pixels: for speed)."""
    if request.param == "embedded":
        return backbone.load("embedded")
    return backbone.load(request.param, "random", image_size=64)


def test_image_features_agree_with_open_clip(clip):
    images = torch.randn(3, 3, *clip.image_size)
    features = clip.image_features(images)
    torch.testing.assert_close(features.f_proj, clip.clip.encode_image(images), atol=1e-5, rtol=1e-5)
    if clip.is_vit:
        torch.testing.assert_close(features.f @ clip.clip.visual.proj, features.f_proj, atol=1e-4, rtol=1e-4)
        last = clip.clip.visual.transformer.resblocks[-1]
        seen = {}
        hook = last.register_forward_hook(lambda module, given, out: seen.update(given=given[0]))
        clip.image_features(images)
        hook.remove()
        given = seen["given"]
        torch.testing.assert_close(features.f_last, given[:, 0], atol=1e-5, rtol=1e-5)
    assert features.embedding.shape == (3, features.f.shape[1] + features.f_proj.shape[1])


def test_the_embedded_model_at_its_own_size_is_what_open_clip_loads_bit_by_bit(embedded):
    weights = str(recipes.SHIPPED / "embedded_clip.safetensors")
    plain = open_clip.create_model("embedded_clip", pretrained=weights).eval()
    plain.visual.to(memory_format=torch.channels_last)  # the last bits of a convolution depend on it
    told = backbone.load("embedded", weights, image_size="96", last_stride=2)  # what it is already
    images = torch.randn(2, 3, 96, 96)
    with torch.no_grad():
        out = plain.visual.forward_intermediates(images, indices=2)
        layer3, layer4 = (maps.mean(dim=(2, 3)) for maps in out["image_intermediates"])
        for clip in (embedded, told):
            features = clip.image_features(images)
            assert torch.equal(features.f_proj, plain.encode_image(images))
            assert torch.equal(features.f_last, layer3) and torch.equal(features.f, layer4)
            texts = clip.tokenizer(["a photo of the back of a right hand"])
            assert torch.equal(clip.clip.encode_text(texts), plain.encode_text(texts))


def test_text_features_agree_with_open_clip_at_live_and_full_length(clip):
    texts = ["a photo of a x x x x hand.", "a photo of the back of a left hand"]
    full = clip.tokenizer(texts)
    expected = clip.clip.encode_text(full)
    short = clip.tokenize(texts)
    assert short.shape[1] < full.shape[1]
    torch.testing.assert_close(clip.encode_texts(texts), expected, atol=1e-5, rtol=1e-5)


def test_everything_is_frozen_and_describes_itself(embedded):
    assert not any(p.requires_grad for p in embedded.parameters())
    facts = backbone.describe(embedded)
    assert facts["model"] == "embedded" and facts["image_size"] == "96" and embedded.image_size == (96, 96)
    assert json.loads(json.dumps(facts)) == facts  # as a checkpoint hands them back
    assert embedded.logit_scale > 1


def test_random_weights_are_the_same_random_weights():
    first, second = (backbone.load("ViT-S-32", "random", image_size=32) for _ in range(2))
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)


def test_a_weights_file_loads_through_the_same_door(embedded, tmp_path):
    torch.save(embedded.clip.state_dict(), tmp_path / "mine.pt")
    again = backbone.load("embedded", str(tmp_path / "mine.pt"))
    images = torch.randn(1, 3, *embedded.image_size)
    assert torch.equal(again.image_features(images).f, embedded.image_features(images).f)


def test_weights_and_models_that_do_not_fit_are_told(embedded, tmp_path):
    torch.save(embedded.clip.state_dict(), tmp_path / "small.pt")
    (tmp_path / "noise.pt").write_bytes(b"not weights")
    for model, pretrained, message in (
        ("Zebra", "openai", "model: 'Zebra' is unknown; use embedded, vitb16.* or an open_clip model name"),
        ("embeded", None, "^model: 'embeded' is unknown; did you mean embedded\\?$"),
        ("ViT-B-61", None, "^model: 'ViT-B-61' is unknown; did you mean ViT-B-16\\?$"),
        ("ViT-B-32", None, "pretrained: the open_clip model 'ViT-B-32' needs .* known tags: .*openai"),
        ("ViT-S-32", str(tmp_path / "small.pt"), "small.pt' cannot be loaded into ViT-S-32 .*; give an open_clip tag"),
        ("ViT-S-32", str(tmp_path / "noise.pt"), "noise.pt: is no file of weights"),
        ("ViT-S-32", str(tmp_path / "absent.pt"), "absent.pt' cannot be loaded"),
    ):
        with pytest.raises(UserError, match=message) as error:
            backbone.load(model, pretrained)
        assert "\n" not in str(error.value)


def test_relative_weights_files_start_at_the_projects_top_folder(embedded):
    shipped = recipes.SHIPPED / "embedded_clip.safetensors"
    relative = os.path.relpath(shipped, schema.ROOT)
    assert check.validate_params({"pretrained": relative}).weights == str(shipped)
    assert check.validate_params({"pretrained": "openai", "model": "vitb16"}).weights is None


def test_aliases_are_models_open_clip_knows_with_openai_weights():
    for name in backbone.ALIASES.values():
        assert "openai" in open_clip.list_pretrained_tags_by_model(name)


def test_openais_weights_in_a_network_of_another_activation_are_refused(monkeypatch):
    def create(name, pretrained=None):
        warnings.warn("QuickGELU mismatch between final model config and pretrained tag", UserWarning, stacklevel=1)

    monkeypatch.setattr(backbone.open_clip, "create_model", create)
    with pytest.raises(UserError, match="QuickGELU mismatch.*an alias such as vitb16"):
        backbone.load("ViT-B-16", "openai")


@pytest.mark.heavy
@pytest.mark.parametrize("module", ["method.augment", "embedded.captions"])
def test_any_module_may_be_imported_first(module):
    done = subprocess.run([sys.executable, "-c", f"import clipreid_lib.{module}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
