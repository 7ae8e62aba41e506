import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone
from clipreid_lib.clip.encode import encode
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.scores import encoder as encoder_module
from clipreid_lib.scores.encoder import Encoder
from clipreid_lib.scores.features import Embeddings


@pytest.fixture
def counted(monkeypatch):
    """Count the images that are really encoded."""
    seen = []
    real = encoder_module.encode

    def encode(clip, pixels, *rest, **more):
        seen.append(len(pixels))
        return real(clip, pixels, *rest, **more)

    monkeypatch.setattr(encoder_module, "encode", encode)
    return seen


@pytest.fixture(scope="module")
def clip():
    return backbone.load("embedded")


@pytest.fixture
def table(hands):
    from clipreid_lib.data.datasets import load_images

    return load_images("11k", hands)


def test_every_image_is_encoded_once_and_found_again(tmp_path, hands, table, clip, counted):
    encoder = Encoder(clip, "weights", tmp_path / "features", table, Photographs(hands))
    part, more = table.iloc[:10], table.iloc[5:20]
    first = encoder.embed(part)
    assert counted == [10] and first.paths == part["path"].tolist()
    encoder.embed(more)
    assert counted == [10, 10]  # five were there
    again = Encoder(clip, "weights", tmp_path / "features", table, Photographs(hands)).embed(table.iloc[:20])
    assert counted == [10, 10] and torch.equal(again.values[:10], first.values)
    plain = encoder.encode(table.iloc[[7]]).values
    torch.testing.assert_close(again.of(table.iloc[[7]]), plain, atol=1e-5, rtol=1e-5)


def test_another_checkpoint_preprocessing_or_table_never_shares(tmp_path, hands, table, clip, counted):
    encoder = Encoder(clip, "weights", tmp_path, table, Photographs(hands))
    asked = table.iloc[:3]
    encoder.embed(asked)
    larger = backbone.load("embedded", image_size=64)
    ways = (
        lambda: replace(encoder, sha="other weights").embed(asked),
        lambda: replace(encoder, backbone=larger).embed(asked),
        lambda: encoder.embed(asked, mirrored=True),
        lambda: replace(encoder, photographs=Photographs(hands, rule="crop")).embed(asked),
        lambda: replace(encoder, table=table.iloc[:9]).embed(asked),
    )
    for number, way in enumerate(ways, 2):
        way()
        assert counted == [3] * number
    assert len(list(tmp_path.glob("*.safetensors"))) == 6


def test_a_file_that_does_not_say_the_same_is_refused(tmp_path, hands, table, clip):
    encoder = Encoder(clip, "weights", tmp_path, table, Photographs(hands))
    encoder.embed(table.iloc[:2])
    (path,) = tmp_path.glob("*.safetensors")
    tensors, facts = checkpoints.load(path, "features")
    checkpoints.save(path, tensors, facts | {"checkpoint": "another"})
    with pytest.raises(UserError, match="its checkpoint is 'another', this run has 'weights'"):
        encoder.embed(table.iloc[:2])


def test_a_truncated_store_is_made_again(tmp_path, hands, table, clip, counted):
    encoder = Encoder(clip, "weights", tmp_path, table, Photographs(hands))
    first = encoder.embed(table.iloc[:2])
    (path,) = tmp_path.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:200])
    assert torch.equal(encoder.embed(table.iloc[:2]).values, first.values) and counted == [2, 2]


def test_a_changed_image_is_encoded_anew_and_a_vanished_one_kept(tmp_path, hands, table, clip, counted):
    root = tmp_path / "copy"
    for name in table["path"][:2]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((hands / name).read_bytes())
    encoder = Encoder(clip, "weights", tmp_path / "features", table, Photographs(root))
    before = encoder.embed(table.iloc[:2])
    one, other = (root / name for name in table["path"][:2])
    one.write_bytes((hands / table["path"].iloc[40]).read_bytes())
    other.unlink()
    after = encoder.embed(table.iloc[:2])
    assert counted == [2, 1]
    assert not torch.equal(after.values[0], before.values[0]) and torch.equal(after.values[1], before.values[1])
    with pytest.raises(UserError, match=str(table["path"].iloc[2])):
        encoder.embed(table.iloc[[2]])  # never seen, and not there


def test_other_pictures_of_the_same_names_sizes_and_times_have_features_of_their_own(
    tmp_path, hands, table, clip, counted
):
    asked, roots = table.iloc[:1], (tmp_path / "one", tmp_path / "other")
    content = [(hands / path).read_bytes() for path in table["path"][[0, 40]]]
    for root, each in zip(roots, content, strict=True):
        file = root / asked["path"].iloc[0]
        file.parent.mkdir(parents=True)
        file.write_bytes(each + b"\0" * (max(map(len, content)) - len(each)))  # a JPEG may end in anything
        os.utime(file, ns=(0, 0))
    one, other = (Encoder(clip, "weights", tmp_path / "features", table, Photographs(root)) for root in roots)
    before, apart = one.embed(asked).values, other.embed(asked).values
    assert counted == [1, 1] and not torch.equal(before, apart)
    assert torch.equal(one.embed(asked).values, before) and counted == [1, 1]  # neither took the other's place
    roots[0].rename(tmp_path / "gone")
    roots[1].rename(roots[0])  # as an image of Docker that was made anew
    assert torch.equal(one.embed(asked).values, apart)


def test_mirrored_features_are_the_sum_of_both(hands, table, clip):
    pixels = torch.from_numpy(Photographs(hands).load(table.iloc[:2], clip.image_size))
    plain, flipped = (encode(clip, each).embedding for each in (pixels, pixels.flip(3)))
    torch.testing.assert_close(encode(clip, pixels, mirrored=True).embedding, plain + flipped)


def test_bad_embeddings_are_named_by_image(table):
    asked = table.iloc[:2]
    broken = Embeddings(asked["path"].tolist(), torch.tensor([[1.0, 2.0], [np.nan, 1.0]]))
    with pytest.raises(UserError, match=f"{asked['path'].iloc[1]}: its embedding is not finite"):
        broken.of(asked)
    with pytest.raises(UserError, match=f"{table['path'].iloc[2]}: has no embedding"):
        broken.of(table.iloc[1:3])


def test_two_writers_keep_each_others_images(tmp_path, hands, table, clip, monkeypatch):
    one, other = (Encoder(clip, "weights", tmp_path, table, Photographs(hands)) for _ in range(2))
    real = Encoder.encode

    def meanwhile(*arguments):
        made = real(*arguments)
        monkeypatch.setattr(Encoder, "encode", real)
        other.embed(table.iloc[5:8])  # the run beside finishes first
        return made

    monkeypatch.setattr(Encoder, "encode", meanwhile)
    one.embed(table.iloc[:4])
    (path,) = tmp_path.glob("*.safetensors")
    assert len(checkpoints.load(path, "features")[1]["paths"]) == 7
