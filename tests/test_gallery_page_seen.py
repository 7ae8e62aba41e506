"""The page as a reader meets it: filters, orders, keys, the large view, paper and a phone, in headless Chromium."""

import numpy as np
import pytest
from small_rankings import draw_pictures, table

from clipreid_lib.pages import gallery_page
from clipreid_lib.pages.ranking import Ranking

PEOPLE, QUERIES = 15, 45  # more queries than the page builds rows for at first
EVIL = 'Zoë O\'Neil <script>alert(1)</script> "手"'


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A ranking with two true matches per query, some at rank 1 and some far down, and its page."""
    root = tmp_path_factory.mktemp("many")
    people = np.arange(QUERIES) % PEOPLE
    query = table(people, "q", gender=np.where(people % 3 == 0, "female", "male"), nail_polish=people % 2 == 0)
    query["gender"] = query["gender"].where(people != 1, EVIL)
    shelf = table(np.r_[np.repeat(np.arange(PEOPLE), 2), 99 + np.arange(6)], "g")
    shelf["role"] = np.where(shelf["identity"] < PEOPLE, "test", "distractor")
    scores = np.random.default_rng(4).uniform(-0.5, 0.5, (QUERIES, len(shelf)))
    scores += 0.25 * np.equal.outer(people, shelf["identity"].to_numpy())
    draw_pictures(root, query, shelf)
    ranking = Ranking(query, shelf, scores)
    return ranking, gallery_page.write(ranking, root, root / "p.html", title="a draw", top=5, facts={"mAP": "0.5"})


def head(ranking, q):
    """What stands above a query's row."""
    precision = np.floor(1000 * ranking.average_precision()[q] + 0.5) / 1000  # JavaScript rounds halves up
    return f"identity {ranking.query['identity'].iloc[q]}AP {precision:.3f}first hit at rank {ranking.first_hit()[q]}"


def heads(page):
    return page.locator(".row h2").all_text_contents()


def assert_rows(page, ranking, expected):
    """Assert that the page's rows are these queries in this order; it may not have built the last of them yet."""
    found, wanted = heads(page), [head(ranking, q) for q in expected]
    assert found == wanted[: len(found)] and len(found) >= min(20, len(wanted))
    count = page.locator("#count").text_content()
    assert count.startswith(f"{len(wanted)} of 45 queries, " if len(wanted) < QUERIES else "45 queries, ")
    assert count.endswith(f" {(ranking.first_hit()[expected] > 1).sum()} wrong at rank-1")


def captions(page, row):
    """The full text of a row's gallery tiles, as a screen reader hears it."""
    return page.locator(".row").nth(row).locator(".found .tile").evaluate_all("all => all.map(one => one.ariaLabel)")


def focused(page):
    """(row, column) of the tile that has the focus; column 0 is the query."""
    return page.evaluate("[now, tilesAt(now).indexOf(document.activeElement)]")


def settle(page):
    """Wait until rows that have just come into view have their true height and the page has scrolled to them."""
    for _ in range(4):
        page.evaluate("new Promise(done => requestAnimationFrame(done))")


def test_filters_choose_by_result_and_by_attribute(many, look):
    ranking, target = many
    page, hardest, first = look(target), ranking.hardest(QUERIES), ranking.first_hit()
    assert_rows(page, ranking, hardest)
    page.select_option("#filter", "wrong")
    assert_rows(page, ranking, hardest[first[hardest] > 1])
    page.select_option("#filter", "right")
    assert_rows(page, ranking, hardest[first[hardest] == 1])
    female = (ranking.query["gender"] == "female").to_numpy()
    page.select_option("#attribute", label=f"gender: female ({female.sum()})")
    assert_rows(page, ranking, [q for q in hardest if first[q] == 1 and female[q]])
    page.select_option("#filter", "all")
    bare = ~ranking.query["nail_polish"].to_numpy(bool)
    page.select_option("#attribute", label=f"nail polish: no ({bare.sum()})")
    assert_rows(page, ranking, hardest[bare[hardest]])


def test_orders_are_those_of_the_ranking(many, look):
    ranking, target = many
    page, hardest = look(target), ranking.hardest(QUERIES)
    precision, identity = (
        values[hardest] for values in (ranking.average_precision(), ranking.query["identity"].values)
    )
    for order, expected in {
        "easy": hardest[::-1],
        "rising": hardest[np.argsort(precision, kind="stable")],
        "falling": hardest[np.argsort(-precision, kind="stable")],
        "identity": hardest[np.argsort(identity, kind="stable")],
        "hard": hardest,
    }.items():
        page.select_option("#order", order)
        assert_rows(page, ranking, expected)


def test_k_changes_the_row_and_what_counts_as_late(many, look):
    ranking, target = many
    page, hardest = look(target), ranking.hardest(QUERIES)
    assert page.locator("#k option").all_text_contents() == ["1", "3", "5", "8", "10", "20"]
    assert page.locator("#k").input_value() == "5"
    for k in (1, 8, 20):
        page.select_option("#k", str(k))
        for row in (0, 10, 19):
            found, late = ranking.row(hardest[row], k)
            heard = captions(page, row)
            assert len(heard) == k + bool(late)
            assert [text.split(", score ")[1][:6].rstrip(",") for text in heard[:k]] == [
                f"{t.score:.3f}" for t in found
            ]
            grey = page.locator(".row").nth(row).locator(".tile.missed")
            assert grey.count() == bool(late)
            if late:
                assert grey.locator("b").text_content() == f"rank {late[0].rank}"
                more = f"the first of {len(late)} true matches beyond rank {k}"
                assert (more in heard[-1]) == (len(late) > 1)


def test_another_k_leaves_the_reader_where_they_were(many, look):
    page = look(many[1])
    for _ in range(12):
        page.keyboard.press("j")
    settle(page)
    top = "rowAt(firstVisible()).getBoundingClientRect().top"
    before = page.evaluate(f"[firstVisible(), {top}]")
    page.select_option("#k", "1")
    settle(page)
    assert page.evaluate(f"[firstVisible(), {top}]") == pytest.approx(before, abs=2)
    page.evaluate("scrollTo(0, 0)")
    page.select_option("#k", "3")
    page.locator("#k").blur()
    page.keyboard.press("j")
    assert focused(page) == [12, 0]


def test_keys_step_through_rows_and_tiles(many, look):
    page = look(many[1])
    steps = [("j", 0, 0), ("ArrowDown", 1, 0), ("j", 2, 0), ("ArrowRight", 2, 1), ("ArrowRight", 2, 2), ("k", 1, 2)]
    for key, row, column in [*steps, ("ArrowLeft", 1, 1), ("ArrowUp", 0, 1), ("ArrowUp", 0, 1)]:
        page.keyboard.press(key)
        assert focused(page) == [row, column], key
    assert page.locator(".row.now").count() == 1
    for _ in range(30):  # past the rows built so far
        page.keyboard.press("j")
    assert focused(page) == [30, 1]
    settle(page)
    assert page.evaluate("rowAt(30).getBoundingClientRect().bottom <= innerHeight")
    assert page.evaluate("rowAt(30).getBoundingClientRect().top >= at('bar').getBoundingClientRect().bottom")


def test_keys_leave_typing_and_lists_alone(many, look):
    page = look(many[1])
    page.keyboard.press("j")
    page.keyboard.press("/")
    page.keyboard.type("j/?k")
    assert page.locator("#search").input_value() == "j/?k" and not page.locator("#keys").is_visible()
    page.locator("#search").fill("")
    page.locator("#order").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("#order").input_value() == "easy" and page.locator(".row.now").count() == 0
    page.keyboard.press("j")
    assert page.locator(".row.now").count() == 0
    page.locator("#order").blur()
    page.keyboard.press("?")
    assert page.locator("#keys").is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("#keys").is_visible()


def test_the_large_view_opens_steps_and_closes(many, look):
    ranking, target = many
    page, hardest = look(target), ranking.hardest(QUERIES)
    seen = page.locator("#pair figcaption")
    found, late = ranking.row(hardest[0], 5)
    for key in ("j", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    assert page.locator("#pair img").count() == 2
    assert f"identity {ranking.query['identity'].iloc[hardest[0]]}" in seen.nth(0).inner_text()
    assert "gender: " in seen.nth(0).inner_text()
    assert f"Rank 2, another identity\n\nscore {found[1].score:.3f}" in seen.nth(1).inner_text()
    for _ in range(9):  # stops at the last image
        page.keyboard.press("ArrowRight")
    assert f"Rank {late[0].rank}, the same identity" in seen.nth(1).inner_text()
    assert page.locator("#pair .frame.missed i").text_content() == "✓"
    assert page.locator("#right").get_attribute("aria-disabled") == "true"
    page.locator("#left").click()
    assert "Rank 5" in seen.nth(1).inner_text()
    page.keyboard.press("ArrowDown")
    assert "Query 2 of 45" in page.locator("#asked").inner_text() and "Rank 1" in seen.nth(1).inner_text()
    page.locator("#down").click()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Escape")
    assert not page.locator("#large").is_visible() and focused(page) == [1, 1]
    page.keyboard.press("Space")
    assert page.locator("#large").is_visible()
    page.locator("#close").click()
    page.locator(".row").nth(2).locator(".found .tile").nth(3).click()
    assert "Rank 4" in seen.nth(1).inner_text()


def test_search_finds_an_identity_or_says_that_nothing_fits(many, look):
    ranking, target = many
    page, hardest = look(target), ranking.hardest(QUERIES)
    identity = ranking.query["identity"].to_numpy()[hardest]
    page.locator("#search").fill("1")
    assert_rows(page, ranking, hardest[identity == 1])  # and not 10 to 14
    page.locator("#search").press("Enter")
    assert focused(page) == [0, 0]
    page.locator("#search").fill("77")
    assert page.locator("#none").inner_text().startswith("No query fits these choices")
    assert heads(page) == [] and not page.locator("#more").is_visible()
    page.locator("#reset").click()
    assert_rows(page, ranking, hardest)
    assert not page.locator("#none").is_visible()


def test_hostile_names_stand_as_text(look, tmp_path):
    query = table([EVIL, "手"], "q", aspect="<b>", gender=[EVIL, "x"], name=[EVIL, "<img src=x onerror=alert(2)>"])
    shelf = table([EVIL, "手"], "g", aspect="<b>")
    query.loc[0, "path"] = EVIL.replace("/", "") + ".jpg"
    draw_pictures(tmp_path, query, shelf)
    ranking = Ranking(query, shelf, np.array([[0.9, 0.1], [0.1, 0.9]]))
    target = gallery_page.write(ranking, tmp_path, tmp_path / "p.html", title=EVIL, facts={EVIL: EVIL})
    page = look(target, width=390)
    assert page.title() == page.locator("h1").inner_text() == page.locator("td").inner_text() == EVIL
    assert page.locator(".row h2 b").all_text_contents() == [
        f"identity {EVIL}",
        "identity 手 (<img src=x onerror=alert(2)>)",
    ]
    assert f"gender: {EVIL} (1)" in page.locator("#attribute option").all_text_contents()
    assert page.evaluate("document.querySelectorAll('script').length") == 2
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.locator("#fold").click()
    page.locator("#search").fill("ZOE\u0308")  # decomposed, and in capitals
    assert page.locator(".row").count() == 1
    page.locator(".tile").nth(1).click()
    assert EVIL in page.locator("#pair").inner_text()


def test_a_phone_shows_everything_without_scrolling_sideways(many, look):
    page = look(many[1], width=390, height=844, has_touch=True)
    fits = "document.documentElement.scrollWidth <= innerWidth"
    assert page.evaluate(fits)
    assert not page.locator("#filter").is_visible()
    page.tap("#fold")
    assert page.locator("#filter").is_visible() and page.evaluate(fits)
    page.tap("#fold")
    sizes = page.locator(".tile").evaluate_all("all => all.slice(0, 6).map(one => one.offsetWidth)")
    assert min(sizes) >= 44
    # a row clips what is too wide for it, so the page's own width would not tell
    assert max(page.locator(".tile").evaluate_all("all => all.map(one => one.getBoundingClientRect().right)")) <= 390
    page.locator(".tile").nth(2).tap()
    box = page.locator("#large").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and page.evaluate(fits)
    page.tap("#right")
    assert "Rank 3" in page.locator("#pair").inner_text()


def test_paper_gets_every_chosen_row_in_light_colours_and_no_controls(many, look):
    page = look(many[1], color_scheme="dark")
    assert page.locator(".row").count() < QUERIES
    page.pdf()  # prints, so the page hears of it
    assert page.locator(".row").count() == QUERIES
    page.emulate_media(media="print", color_scheme="dark")
    assert not page.locator("#bar").is_visible()
    assert page.locator("#paper").inner_text().startswith("Shown: all queries (45); hardest first; 5 gallery images")
    style = "([name, what]) => getComputedStyle(document.querySelector(name))[what]"
    assert page.evaluate(style, ["body", "backgroundColor"]) == "rgb(255, 255, 255)"
    assert page.evaluate(style, [".row", "breakInside"]) == "avoid"
    assert page.evaluate(style, [".frame i", "printColorAdjust"]) == "exact"


def test_dark_and_light_are_readable(many, look):
    for scheme, dark in (("light", False), ("dark", True)):
        page = look(many[1], color_scheme=scheme)
        colours = "['color', 'backgroundColor'].map(what => getComputedStyle(document.body)[what])"
        ink, ground = (sum(map(int, one[4:-1].split(","))) / 3 for one in page.evaluate(colours))
        assert (ground < ink) == dark and abs(ground - ink) > 180
        for kind in ("right", "wrong", "missed"):  # the mark on its ground
            key = f"getComputedStyle(document.querySelector('.key.{kind}'))"
            assert contrast(*page.evaluate(f"[{key}.color, {key}.backgroundColor]")) >= 4.3


def contrast(one, other):
    """WCAG's ratio of two colours written rgb(r, g, b), from 1 to 21."""

    def light(colour):
        parts = np.array(colour[4:-1].split(","), float) / 255
        return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ (0.2126, 0.7152, 0.0722)

    dim, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dim + 0.05)


def test_one_identity_absent_files_and_a_tiny_gallery(look, tmp_path):
    query, shelf = table([1], "q"), table([1, 1], "g")
    draw_pictures(tmp_path, shelf.iloc[:1])
    target = gallery_page.write(
        Ranking(query, shelf, np.array([[0.2, 0.1]])), tmp_path, tmp_path / "p.html", title="t", top=50
    )
    page = look(target)
    assert page.locator("#count").text_content() == "1 query, 0 wrong at rank-1"
    assert page.locator("#k option").all_text_contents() == ["1", "2"] and page.locator("#k").input_value() == "2"
    assert not page.locator("#attribute").is_visible()
    assert page.locator(".tile .frame").all_text_contents() == ["file missing", "✓", "file missing✓"]
    page.select_option("#filter", "wrong")
    assert page.locator("#none").is_visible()
    page.keyboard.press("j")  # nowhere to go, and nothing breaks
    page.locator("#filter").blur()
    page.keyboard.press("j")
