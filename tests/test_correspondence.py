import json

import open_clip
import pytest
import torch
from torch.nn import functional

from clipreid_lib.clip import backbone
from clipreid_lib.pages import attention, correspondence

TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 1}
VIT = {"image_size": 48, "patch_size": 8, "width": 32, "layers": 3, "head_width": 16}


@pytest.fixture(scope="module")
def embedded():
    return backbone.load("embedded")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    config = {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT}
    (folder / "alike-vit.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    return backbone.load("alike-vit", "random", image_size="45x30", patch_stride=6)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def find_alike(query, match, *heat):
    """Every pair of two maps; with the same even heat on both where none is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(correspondence, "MOST", 99)
        return correspondence.find_alike(torch.stack([query, match]), torch.stack(heat or [torch.ones(2, 2)] * 2))


def test_a_shifted_map_is_found_again_place_by_place():
    maps = noise(16, 6, 5)
    found = find_alike(maps, maps.roll((2, 1), dims=(1, 2)))
    assert len(found) == 30 and found["cosine"].min() == pytest.approx(1)
    assert ((found["match_row"] - found["query_row"]) % 6 == 2).all()
    assert ((found["match_column"] - found["query_column"]) % 5 == 1).all()


def test_a_rolled_photograph_is_found_again(embedded):
    # By 16 pixels, one place of layer 3, downwards; far from the border nothing else changes.
    image = torch.randint(0, 255, (1, 3, 12, 12), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = functional.interpolate(image.float(), size=(96, 96), mode="bicubic").clamp(0, 255).byte()
    ours, theirs = (correspondence.map_features(embedded, each)[0] for each in (image, image.roll(16, dims=2)))
    found = find_alike(ours, theirs)[:6]
    shift = found[["match_row", "match_column"]].to_numpy() - found[["query_row", "query_column"]].to_numpy()
    assert (shift == [1, 0]).all(axis=1).mean() > 0.8


def test_pairs_are_mutual_and_come_best_first():
    query = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]).T[:, None]  # (2, 1, 3)
    match = torch.tensor([[2.0, 0.0], [0.3, 3.0], [-1.0, -1.0]]).T[:, None]
    found = find_alike(query, match)
    # Column 1 of the query is nearest to column 0 too, which has a nearer one: column 0.
    assert found.columns.tolist() == ["query_row", "query_column", "match_row", "match_column", "cosine"]
    assert found.drop(columns="cosine").to_numpy().tolist() == [[0, 0, 0, 0], [0, 2, 0, 1]]
    assert found["cosine"].tolist() == pytest.approx([1, 3 / 9.09**0.5])


def test_places_that_are_not_warm_in_both_images_are_left_out():
    maps = noise(16, 4, 4)
    warm, other = torch.zeros(4, 4), torch.zeros(4, 4)
    warm[1:3, :3], other[:, 1:3] = 1, 1
    found = find_alike(maps, maps, warm, other)
    assert {*zip(found["query_row"], found["query_column"], strict=True)} == {(1, 1), (1, 2), (2, 1), (2, 2)}
    coarse = torch.tensor([[0.0, 1.0], [0.0, 1.0]])  # of another grid, as Grad-CAM's is
    assert sorted(find_alike(maps, maps, coarse, coarse)["query_column"].unique()) == [2, 3]
    even = torch.full((2, 2), 0.25)
    assert len(find_alike(maps, maps, even, torch.zeros(2, 2))) == 16  # an even map says nothing


def test_leaving_places_out_makes_no_new_pairs():
    maps = noise(8, 3, 3)
    heat = torch.arange(9.0).view(3, 3)
    other = maps + noise(8, 3, 3, seed=1)
    every = find_alike(maps, other).to_numpy().tolist()
    some = find_alike(maps, other, heat, heat).to_numpy().tolist()
    assert 0 < len(some) < len(every) and all(pair in every for pair in some)


def test_maps_of_nothing_do_not_break():
    found = find_alike(torch.zeros(4, 2, 2), torch.zeros(4, 2, 2))
    assert found["cosine"].tolist() == [0] and not found.isna().any(axis=None)


@torch.no_grad()
def test_the_features_are_the_towers_own(embedded, vit):
    pixels = torch.randint(0, 255, (2, 3, 96, 96), dtype=torch.uint8)
    images, visual = attention.prepare(embedded, pixels), embedded.clip.visual
    maps = correspondence.map_features(embedded, pixels)
    assert maps.shape[2:] == (6, 6)
    torch.testing.assert_close(maps.mean(dim=(2, 3)), embedded.image_features(images).f_last)
    pixels = torch.randint(0, 255, (2, 3, 45, 30), dtype=torch.uint8)
    maps = correspondence.map_features(vit, pixels)
    assert maps.shape == (2, 32, 7, 4)
    images, visual = attention.prepare(vit, pixels), vit.clip.visual
    (tokens,) = visual.forward_intermediates(
        images, indices=1, normalize_intermediates=True, output_fmt="NLC", intermediates_only=True
    )["image_intermediates"]
    torch.testing.assert_close(maps.flatten(2).transpose(1, 2), tokens)
    assert not any(m._forward_hooks for m in [*embedded.modules(), *vit.modules()])
    assert "layer 3" in correspondence.write_legend(embedded, (6, 6)) and "patch" in correspondence.write_legend(
        vit, (7, 4)
    )
