import json

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
from PIL import Image

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.clip import encode as encoding
from clipreid_lib.clip.encode import encode
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.scores.encoder import Encoder

VISION = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 1}


@pytest.fixture
def make(tmp_path):
    """Load a tiny ViT that knows three cameras; its vectors are made long enough to be felt."""
    config = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
    (tmp_path / "tiny-sided.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "tiny-sided.json")

    def load(column="camera", values=(3, 1, 6), loud=True):
        clip = backbone.load("tiny-sided", "random")
        clip.add_side_information(column, list(values))
        if loud:
            clip.clip.visual.side_embedding.data *= 50
        return clip

    return load


def test_only_images_with_a_vector_change(make, monkeypatch):
    monkeypatch.setattr(encoding, "BATCH", 3)
    clip, pixels = make(), torch.randint(0, 255, (4, 3, 32, 32), dtype=torch.uint8)
    side = clip.side_rows(pd.DataFrame({"camera": [1, 9, 6, 1]}))
    assert side.tolist() == [1, -1, 2, 1]  # camera 9 is unknown
    plain, sided = encode(clip, pixels), encode(clip, pixels, side)
    for before, after in ((plain.f_last, sided.f_last), (plain.f, sided.f), (plain.f_proj, sided.f_proj)):
        same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(before, after, strict=True)]
        assert same == [False, True, False, False]


@torch.no_grad()
def test_the_vector_joins_the_class_token_before_the_first_norm(make):
    clip, images = make(), torch.randn(2, 3, 32, 32)
    visual = clip.clip.visual
    sided = clip.image_features(images, torch.tensor([2, 2])).f_proj
    assert not torch.allclose(sided, clip.image_features(images).f_proj, atol=1e-3)
    visual.class_embedding.data += visual.side_embedding[2]  # by hand: all images of this batch have this vector
    torch.testing.assert_close(sided, clip.clip.encode_image(images), atol=1e-5, rtol=1e-5)
    assert not visual.ln_pre._forward_pre_hooks  # nothing stays behind


def test_the_vectors_start_alike_are_trained_and_travel_with_the_image_tower(make, tmp_path):
    clip, again = make(loud=False), make(loud=False)
    vectors = clip.clip.visual.side_embedding
    assert vectors.shape == (3, 32) and vectors.requires_grad and 0.01 < vectors.std() < 0.03
    assert torch.equal(vectors, again.clip.visual.side_embedding)
    model = ClipidModel(clip, 2)
    model(torch.randn(3, 3, 32, 32), torch.tensor([0, -1, 2])).logits.square().sum().backward()
    assert [bool(row.any()) for row in vectors.grad] == [True, False, True]
    assert any(vectors is p for group in model.parameter_groups(1e-3, 1e-3) for p in group["params"])
    vectors.data += 1
    again.clip.visual.load_state_dict(clip.clip.visual.state_dict())
    assert torch.equal(again.clip.visual.side_embedding, vectors)


def test_a_checkpoint_states_the_values(make, tmp_path):
    facts = backbone.describe(make(values=np.array([3, 1, 6])))
    checkpoints.save(tmp_path / "a.safetensors", {}, {"kind": "encoder", **facts})
    _, kept = checkpoints.load(tmp_path / "a.safetensors", "encoder")
    checkpoints.require(tmp_path / "a.safetensors", kept, backbone.describe(make()))
    for other, message in (
        (make(values=(1, 3, 6)), r"its side_values is \[3, 1, 6\], this run has \[1, 3, 6\]"),
        (make("aspect", ("dorsal_r",)), "its side_info is 'camera', this run has 'aspect'"),
        (backbone.load("tiny-sided", "random"), "its side_info is 'camera', this run has 'none'"),
    ):
        with pytest.raises(UserError, match=message):
            checkpoints.require(tmp_path / "a.safetensors", kept, backbone.describe(other))


def test_tables_are_embedded_with_what_their_column_says(make, tmp_path):
    for name in ("a", "b"):
        pixels = np.random.default_rng(ord(name)).integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    table = pd.DataFrame({"path": ["a.png", "b.png", "a.png"], "aspect": ["palmar_r", "thumb", "palmar_r"]})
    photographs = Photographs(tmp_path)
    clip = make("aspect", ("dorsal_r", "palmar_r"))
    sided = Encoder(clip, "weights", tmp_path / "features", table, photographs).encode(table)
    plain = encode(clip, torch.from_numpy(photographs.load(table[:2], 32))).embedding
    assert sided.paths == ["a.png", "b.png"] and sided.values.shape == (2, 32 + 16)
    assert not torch.allclose(sided.values[0], plain[0], atol=1e-3)
    assert torch.allclose(sided.values[1], plain[1], atol=1e-6)


def test_what_side_information_cannot_be_given_to_is_told(make):
    with pytest.raises(UserError, match="side_info: embedded is no ViT of CLIP with a class token .*; use none"):
        backbone.load("embedded").add_side_information("camera", [1, 2])
    with pytest.raises(UserError, match="side_info: the training images have no camera"):
        make(values=())
    plain = backbone.load("tiny-sided", "random")
    assert plain.side_rows(pd.DataFrame({"camera": [1]})) is None
    with pytest.raises(ValueError, match="add_side_information was not called"):
        plain.image_features(torch.randn(1, 3, 32, 32), torch.tensor([0]))
