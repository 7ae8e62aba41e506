import numpy as np
import pandas as pd
import pytest
import torch

from clipreid_lib.pages import embedding_map
from clipreid_lib.scores.features import Embeddings


@pytest.fixture
def people():
    random = np.random.default_rng(0)
    ids = np.repeat(np.arange(12), 8)
    values = np.eye(12)[ids] * 4 + random.normal(0, 0.3, (96, 12))
    return Embeddings([f"{n}.jpg" for n in range(96)], torch.from_numpy(values)), ids


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_people_stay_together(people, method):
    embeddings, ids = people
    points = embedding_map.lay_out(embeddings, method)
    assert points.shape == (96, 2) and np.isfinite(points).all()
    assert np.array_equal(points, embedding_map.lay_out(embeddings, method))
    if method == "tsne":  # two principal components cannot keep twelve people apart
        apart = np.linalg.norm(points[:, None] - points[None], axis=2) + np.eye(96) * 1e9
        assert (ids[apart.argmin(axis=1)] == ids).mean() > 0.95


def test_a_panel_per_column_and_at_most_ten_colours(people):
    embeddings, ids = people
    images = pd.DataFrame({"identity": ids, "gender": np.where(ids % 2, "$male$", None)})
    layouts = {name: embedding_map.lay_out(embeddings, "pca") for name in ("one", "two")}
    figure = embedding_map.draw_maps(
        layouts, images.assign(session=pd.array([1, None] * 48, "Int64")), ["identity", "gender"]
    )
    assert len(figure.axes) == 4 and figure.axes[2].get_ylabel() == "two"
    figure = embedding_map.draw_maps(layouts, images.assign(session=pd.array([1, None] * 48, "Int64")), ["session"])
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["1", "unknown"]
    figure = embedding_map.draw_maps({"": layouts["one"]}, images, ["identity", "gender"])
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes]
    assert len(legends[0]) == 10 and legends[1] == [r"\$male\$", "unknown"]


def test_columns_that_vary_are_worth_a_panel():
    images = pd.DataFrame({"identity": [1, 2], "gender": ["female", "female"], "session": [0, 1]})
    assert embedding_map.choose_columns(images) == ["identity", "session"]
    assert embedding_map.choose_columns(images[["identity", "gender"]]) == ["identity"]
    more = images.assign(aspect=["dorsal", "palmar"], skin_color=["dark", "fair"])
    assert embedding_map.choose_columns(more) == ["identity", "aspect", "skin_color"]


def test_an_anchor_that_points_to_its_people_lies_beside_them():
    random = np.random.default_rng(0)
    ids = np.repeat([3, 5, 7], 20)
    towards = np.eye(8)[[0, 1, 2]]
    # Texts and images lie apart, as in CLIP: what they share is the direction from the middle of each.
    images = 5 * np.eye(8)[7] + np.repeat(towards, 20, axis=0) + random.normal(0, 0.02, (60, 8))
    anchors = 5 * np.eye(8)[6] + towards
    panels = {"before": torch.tensor(images), "after": torch.tensor(images)}
    figure = embedding_map.draw_anchors(panels, ids.tolist(), torch.tensor(anchors), [3, 5, 7])
    assert [axes.get_title() for axes in figure.axes] == ["before", "after"]
    _, *dots, grey, stars = [points.get_offsets() for points in figure.axes[0].collections]
    assert len(grey) == 0 and len(stars) == 3
    for person, star in enumerate(stars):
        apart = [np.linalg.norm(dots[other].mean(axis=0) - star) for other in range(3)]
        assert np.argmin(apart) == person
