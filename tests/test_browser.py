import io
import sys
from functools import partial

import numpy as np
import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image
from small_rankings import draw_pictures, random_ranking

from clipreid_lib.data.photographs import Photographs
from clipreid_lib.pages import browser, overlays, retrieval
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.runs import loading


@pytest.fixture
def browsing(open_run, tmp_path):
    """A browser over twelve made-up queries, before and after, of two genders."""
    before, after = (random_ranking(seed=seed) for seed in (0, 1))
    query = before.query.assign(gender=["female", "male"] * 6)
    named = {
        "stage 0": Ranking(query, before.gallery, before.similarity),
        "now": Ranking(query, after.gallery, after.similarity),
    }
    draw_pictures(tmp_path, query, before.gallery)
    encoder = loading.load_pretrained_encoder(open_run(variant="frozen"))
    return browser.Browser(named, encoder, Photographs(tmp_path), query, encoder, seed=0, top=8)


def size(browsing) -> tuple[int, int]:
    return Image.open(io.BytesIO(browsing.picture.value)).size


def test_it_opens_with_the_hardest_queries(browsing):
    assert browsing.visible == browsing.ranking.hardest(4).tolist()
    assert browsing.status.value == "1 to 4 of 12 queries"


def test_it_steps_forth_and_back_and_stops_at_both_ends(browsing):
    forth, back = browsing.buttons["on"], browsing.buttons["back"]
    first = browsing.picture.value
    seen = [browsing.visible]
    for _ in range(2):
        forth.click()
        seen.append(browsing.visible)
    assert np.concatenate(seen).tolist() == browsing.ranking.hardest(12).tolist()
    forth.click()
    assert browsing.visible == seen[-1] and browsing.status.value == "9 to 12 of 12 queries"
    back.click()
    assert browsing.visible == seen[1]
    for _ in range(9):
        back.click()
    assert browsing.visible == seen[0] and browsing.picture.value == first


def test_every_choice_chooses(browsing):
    choice, ranking, first = browsing.controls["choice"], browsing.ranking, browsing.named["stage 0"]
    gain = ranking.average_precision() - first.average_precision()
    chosen = {}
    for name in choice.options:
        choice.value = name
        chosen[name] = browsing.chosen.tolist()
    assert chosen["easiest first"] == chosen["hardest first"][::-1]
    assert sorted(chosen["at random"]) == list(range(12)) and chosen["at random"] != chosen["hardest first"]
    assert set(chosen["wrong at rank-1"]) == set(np.flatnonzero(ranking.first_hit() > 1))
    assert chosen["risen most since stage 0"][0] == gain.argmax()
    assert chosen["fallen most since stage 0"][0] == gain.argmin()
    assert set(chosen["gender: male"]) == set(range(1, 12, 2))


def test_k_and_stage_change_the_picture(browsing):
    width, height = size(browsing)
    browsing.controls["k"].value = 2
    assert size(browsing)[0] < width
    one_stage = browsing.picture.value
    browsing.controls["stage"].value = "stage 0"
    assert browsing.picture.value != one_stage
    assert browsing.visible == browsing.named["stage 0"].hardest(4).tolist()  # the hardest for what is shown
    browsing.controls["stage"].value = browser.EVERY_STAGE
    assert len(browsing.visible) == 1 and browsing.status.value == "1 of 12 queries"


def test_a_query_by_name_and_a_name_that_does_not_exist(browsing):
    browsing.controls["name"].value = "q7.jpg"
    assert browsing.visible == [7]
    picture = browsing.picture.value
    browsing.controls["name"].value = "q7.jpeg"
    assert "none of 12 is called 'q7.jpeg'; nearest: " in browsing.status.value and "q7.jpg" in browsing.status.value
    assert browsing.picture.value == picture
    browsing.buttons["on"].click()  # stays where it is, and says so again
    assert "none of 12" in browsing.status.value and browsing.picture.value == picture


def test_it_shows_where_the_model_looks(browsing, monkeypatch):
    asked = []

    def draw_pair(clip, photographs, ranking, query, rank):
        asked.append((query, rank))
        return Image.new("RGB", (40, 40))

    monkeypatch.setattr(overlays, "draw_pair", draw_pair)
    browsing.controls["look"].value = 3
    assert asked == [(browsing.ranking.hardest(1)[0], 3)] and size(browsing) == (20, 20)


def test_a_sentence_shows_its_nearest_images_until_it_is_taken_away(browsing, monkeypatch):
    def ask(encoder, images, sentence, top):
        assert sentence == "a hand" and top == browsing.controls["k"].value
        return browsing.ranking.gallery.head(top).assign(score=0.5)

    monkeypatch.setattr(retrieval, "ask", ask)
    before = browsing.picture.value
    browsing.controls["sentence"].value = " a hand "
    assert browsing.status.value.startswith("by the encoder before any training") and browsing.picture.value != before
    browsing.controls["sentence"].value = ""
    assert browsing.picture.value == before


@pytest.fixture
def kernel(monkeypatch):
    """Pretend to be a kernel that runs a cell for a person, or for papermill."""

    class Kernel:
        allow = True

        def get_parent(self, channel):
            return {"content": {"allow_stdin": self.allow}}

    shell = InteractiveShell()
    shell.kernel = Kernel()
    monkeypatch.setattr(browser, "get_ipython", lambda: shell)
    yield shell.kernel
    InteractiveShell.clear_instance()


def test_without_a_person_or_ipywidgets_it_is_a_sheet(browsing, kernel, monkeypatch):
    given = partial(
        browser.browse,
        *(browsing.named, browsing.encoder, browsing.photographs),
        images=browsing.images,
        before=browsing.before,
    )
    assert given() is not None and not isinstance(given(), Image.Image)
    kernel.allow = False
    assert isinstance(given(), Image.Image)
    kernel.allow = True
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert isinstance(given(), Image.Image)
