"""Figures: what is drawn of a few people, of one person, and of two layouts of the same points."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch

from clipreid_lib.pages import data_figures, embedding_map, score_figures, style
from clipreid_lib.scores.verification import Verification


def verified(lacks: str) -> Verification:
    rates = np.linspace(0, 1, 101)
    return Verification(rates[::-1], rates, rates**0.25, 0.2, lacks, {}, genuine=100, impostor=100)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_curve_of_too_few_people_is_named_and_not_drawn():
    lacks = "not measurable: 6 of 10 people with genuine pairs"
    figure = score_figures.draw_roc_and_det({"own": verified(""), "common": verified(lacks)})
    roc, det = figure.axes
    assert [len(line.get_xdata()) > 0 for line in roc.lines] == [True, False]
    assert len(det.lines) == 3  # one curve, its EER, the diagonal
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["own, EER 20.0 %", f"common, not drawn: EER {lacks}"]
    figure.canvas.draw()
    score_figures.draw_roc_and_det({"common": verified(lacks)}).canvas.draw()  # where nothing else is there


def test_a_subgroup_of_one_person_is_one_person():
    table = pd.DataFrame({"identities": [1, 12], "rank1": [np.nan, 0.5], "rank1_low": [np.nan, 0.4]})
    table["rank1_high"] = [np.nan, 0.6]
    table.index = pd.MultiIndex.from_tuples([("gender", "male"), ("gender", "female")])
    names = [tick.get_text() for tick in score_figures.draw_subgroups(table).axes[0].get_yticklabels()]
    assert names == ["gender: male (1 person)", "gender: female (12 people)"]


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_no_tick_lies_beyond_the_largest_number_of_sessions(most):
    rows = [(1, "dorsal_r", session) for session in range(most) for _ in range(most)]
    table = pd.DataFrame(rows, columns=["identity", "aspect", "session"])
    for axes in data_figures.draw_sessions(table).axes:
        low, high = axes.get_xlim()
        assert max(tick for tick in axes.get_xticks() if low <= tick <= high) <= most < high


def test_the_second_panel_of_the_anchor_map_is_no_mirror_image_of_the_first():
    draw = torch.Generator().manual_seed(0)
    images, anchors = torch.randn(40, 8, generator=draw), torch.ones(5, 8)  # all stars lie in the middle
    for turned in (-images, images @ torch.linalg.qr(torch.randn(8, 8, generator=draw))[0]):
        panels = {"before": images, "after": turned}  # of both, PCA finds one layout, up to the signs of its axes
        figure = embedding_map.draw_anchors(panels, [str(row % 5) for row in range(40)], anchors, list("01234"))
        first, second = (axes.collections[0].get_offsets() for axes in figure.axes)
        assert np.allclose(first, second, atol=1e-4)


def test_names_in_chinese_signs_are_written_by_a_font_that_has_them_where_one_is_installed(monkeypatch):
    monkeypatch.setattr(style, "EASTERN", ("A font that nobody has", "DejaVu Serif"))  # the second stands for one
    assert [style.font(24, text=name).getname()[0] for name in ("Ünal", "张伟")] == ["DejaVu Sans", "DejaVu Serif"]
    style.use()
    assert plt.rcParams["font.family"] == ["sans-serif", "DejaVu Serif"]
    monkeypatch.setattr(style, "EASTERN", ())
    assert style.font(24, text="张伟").getname()[0] == "DejaVu Sans"
