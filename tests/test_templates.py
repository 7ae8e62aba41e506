"""Templates: several images of a person against several, by hand, against brute force, and against the plain draws."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from clipreid_lib.base.seeding import stable_seed
from clipreid_lib.data import protocols
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.pages import report, report_scores, score_figures
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import EVALUATION, RETRIEVAL
from clipreid_lib.runs.records import notebook_key
from clipreid_lib.runs.results import write_metrics
from clipreid_lib.scores import assessment, open_set, template_table, templates
from clipreid_lib.scores.evaluation import evaluate
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.finished_run import FinishedRun
from clipreid_lib.scores.templates import Likeness, Templates, build_templates

FUSIONS = (templates.FUSION, *templates.OTHERS)
DRAWS = 3
each_protocol = pytest.mark.parametrize("protocol", ["own", "mba", "common", "cross_session"])


def table(people: int = 60, most: int = 7) -> pd.DataFrame:
    """People of one to ``most`` images in either aspect, two to a session."""
    rows = [
        {
            "path": f"{aspect}/{person}_{shot}.jpg",
            "identity": person,
            "aspect": aspect,
            "session": shot // 2,
            "camera": 0,
        }
        for aspect, person in itertools.product(("dorsal_r", "palmar_r"), range(people))
        for shot in range(1 + (person * 5 + (aspect == "palmar_r")) % most)
    ]
    found = pd.DataFrame(rows)
    found.attrs["dataset"] = "demo"
    return found


def build(protocol: str, **more) -> Manifest:
    return protocols.build(table(**more), protocol, "dorsal_r", draws=DRAWS)


def embed(images: pd.DataFrame, noise: float = 1.2) -> Embeddings:
    """Embed each image as its person's direction and noise, at any length."""
    random = np.random.default_rng(3)
    centres = {person: random.normal(size=8) for person in sorted(images["subject"].unique())}
    values = np.stack([centres[person] for person in images["subject"]]) + noise * random.normal(size=(len(images), 8))
    return Embeddings(
        images["path"].tolist(), torch.from_numpy(values * random.uniform(1, 9, (len(images), 1))).float()
    )


def liken(manifest: Manifest) -> Likeness:
    return Likeness.of(embed(manifest.in_tests), manifest.in_tests)


# Three people; each has two images in the gallery and one that asks. A's two stand at a right angle.
GALLERY = {"A": [(1, 0), (0, 1)], "B": [(0.6, 0.8), (0.6, 0.8)], "C": [(-1, 0), (0, 1)]}
QUERY = {"A": (1, 0), "B": (0, 1), "C": (0, 1)}
HALF = 0.5**0.5  # the cosine of 45 degrees
# Rows: A, B, C ask. The ranks of their own person follow; equal scores count against it.
BY_HAND = {
    "mean embedding": ([[HALF, 0.6, -HALF], [HALF, 0.8, HALF], [HALF, 0.8, HALF]], [1, 1, 3]),
    "mean score": ([[0.5, 0.6, -0.5], [0.5, 0.8, 0.5], [0.5, 0.8, 0.5]], [2, 1, 3]),
    "best score": ([[1, 0.6, 0], [1, 0.8, 1], [1, 0.8, 1]], [1, 3, 2]),
}


def by_hand(query: dict, gallery: dict) -> tuple[Likeness, Templates]:
    """Lay templates out as the library does, their images at lengths that must not matter."""
    sides = [(name, np.atleast_2d(vectors)) for side in (query, gallery) for name, vectors in side.items()]
    vectors = np.concatenate([each for _, each in sides])
    names = [name for name, each in sides for _ in each]
    images = pd.DataFrame({"path": [f"{i}.jpg" for i in range(len(names))], "identity": names, "subject": names})
    places = np.split(np.arange(len(names)), np.cumsum([len(each) for _, each in sides])[:-1])
    asking, shown = np.stack(places[: len(query)]), np.stack(places[len(query) :])
    lengths = 2.0 ** (torch.arange(len(names)) % 5)[:, None]  # powers of two scale exactly
    embeddings = Embeddings(images["path"].tolist(), torch.from_numpy(vectors) * lengths)
    return Likeness.of(embeddings, images.assign(role="test")), Templates(
        images, asking, shown, np.array([*query], object)
    )


@pytest.mark.parametrize("fusion", FUSIONS)
def test_three_people_worked_out_by_hand(fusion):
    likeness, made = by_hand(QUERY, GALLERY)
    expected, ranks = BY_HAND[fusion]
    compared = templates.compare_draws(likeness, [made], fusion)
    np.testing.assert_allclose(compared[0][2], expected, atol=1e-6)
    found = templates.identify(compared)
    assert found.cmc.tolist() == pytest.approx([np.mean(np.array(ranks) <= k) for k in (1, 2, 3)])
    assert found.summary()["map"] == pytest.approx(np.mean([1 / rank for rank in ranks]))


@pytest.mark.parametrize(
    ("fusion", "expected"), list(zip(FUSIONS, ([1, 0.8], [1, 1.4 * HALF], [0.5, 0.7]), strict=True))
)
def test_two_images_that_ask_together_by_hand(fusion, expected):
    likeness, made = by_hand({"A": [(1, 0), (0, 1)]}, {name: GALLERY[name] for name in "AB"})
    np.testing.assert_allclose(templates.compare_templates(likeness, made, fusion), [expected], atol=1e-6)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_equal_templates_are_tied_in_any_order_of_their_images(fusion):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(5, 7))
    likeness, made = by_hand({"A": random.normal(size=7)}, {"A": vectors, "B": vectors[[3, 1, 4, 0, 2]]})
    alike = templates.compare_templates(likeness, made, fusion)
    assert alike[0, 0] == alike[0, 1]
    assert templates.identify([(*made.sides, alike)]).per_query["rank1"].tolist() == [0]


@each_protocol
def test_one_image_is_the_protocols_own_draw(protocol):
    manifest = build(protocol)
    embeddings, draws = embed(manifest.in_tests), [build_templates(manifest, 1, 1, index, 0) for index in range(DRAWS)]
    likeness = Likeness.of(embeddings, draws[0].images)
    for index, made in enumerate(draws):
        query, gallery = manifest.draw(index)
        assert made.sides[0]["path"].tolist() == query["path"].tolist()
        assert set(made.sides[1]["path"]) == set(gallery["path"]) and len(made.gallery) == len(gallery)
    plain, searched = evaluate(embeddings, manifest), open_set.search(embeddings, manifest)
    for fusion in FUSIONS:
        compared = templates.compare_draws(likeness, draws, fusion)
        found = templates.identify(compared)
        pd.testing.assert_frame_equal(found.per_draw, plain.per_draw, check_exact=True)
        pd.testing.assert_frame_equal(found.per_query, plain.drawn, check_exact=True)
        assert templates.score(compared, True)[1]["fnir_at_fpir_0.1"] == searched.find_fnir(0.1)[0]
    row = templates.measure(Likeness.of(embeddings, manifest.in_tests), manifest, 0, 1)
    asked = plain.drawn
    assert row["rank1"] == pytest.approx(np.average(asked["rank1"], weights=asked["weight"])) and row["left_out"] == 0
    assert (row["queries"], row["gallery"]) == tuple(len(side) for side in manifest.draw(0))


@each_protocol
@pytest.mark.parametrize(("k", "q"), [(1, 1), (2, 1), (3, 2), (1, 3), (5, 1)])
def test_whom_and_what_templates_hold(protocol, k, q):
    manifest = build(protocol)
    made = [build_templates(manifest, k, q, index, 0) for index in range(DRAWS)]
    again = build_templates(manifest, k, q, 0, 0)
    assert np.array_equal(again.query, made[0].query) and np.array_equal(again.gallery, made[0].gallery)
    if len(made[0].query):
        others = (made[1], build_templates(manifest, k, q, 0, 1))
        assert not any(np.array_equal(other.gallery, made[0].gallery) for other in others)
    kept = {}
    for person, hand in manifest.test.groupby("identity"):
        parts = [k] if protocol != "cross_session" else [n for n in hand.groupby("session").size() if n >= k]
        kept[person] = any(len(hand) - part >= q for part in parts) and len(hand) >= k + q
    distractors = manifest.images[manifest.images["role"] == "distractor"].groupby("identity").size()
    for each in made:
        images = each.images
        used = np.concatenate([each.query.ravel(), each.gallery.ravel()])
        assert len(set(used)) == len(used), "no image twice, so none in query and gallery"
        for side in (each.query, each.gallery):
            shown = images["identity"].to_numpy()[side]
            assert (shown == shown[:, :1]).all() and (images["aspect"].to_numpy()[side] != "").all()
        query, gallery = each.sides
        assert set(query["identity"]) == {person for person, there in kept.items() if there}
        assert sorted(gallery["identity"]) == sorted([*set(query["identity"]), *distractors[distractors >= k].index])
        assert each.asked.shape == (len(query),) and len(set(each.asked)) == len(query)
        if protocol == "cross_session":
            session = images["session"].to_numpy()
            mine = {person: session[places] for person, places in zip(gallery["identity"], each.gallery, strict=True)}
            assert all(len(set(enrolled)) == 1 for enrolled in mine.values())
            asking = zip(query["identity"], each.query, strict=True)
            assert not any(set(session[places]) & set(mine[person]) for person, places in asking)
        else:
            sizes = manifest.test.groupby("identity").size()
            numbers = query.groupby("identity").size()
            assert numbers.tolist() == [(sizes[person] - k) // q for person in numbers.index]
    row = templates.measure(liken(manifest), manifest, 0, k, q)
    assert (row["people"], row["left_out"]) == (sum(kept.values()), len(kept) - sum(kept.values()))


def find_best(one: np.ndarray, other: np.ndarray) -> float:
    return max(float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)) for a in one for b in other)


@pytest.mark.parametrize(("protocol", "k", "q"), [("own", 2, 2), ("mba", 2, 1), ("cross_session", 2, 1)])
def test_eer_and_fnir_against_brute_force(protocol, k, q):
    manifest = build(protocol, people=260 if q > 1 else 140)
    embeddings = embed(manifest.in_tests)
    genuine, impostor, mated, strangers = [], [], [], []
    for index in range(DRAWS):
        made = build_templates(manifest, k, q, index, 0)
        values, identity, subject = (
            embeddings.of(made.images).numpy(),
            *made.images[["identity", "subject"]].to_numpy().T,
        )
        people = sorted({identity[asking[0]] for asking in made.query})
        order = sorted(people, key=lambda person: stable_seed("enrolled", index, person))  # noqa: B023
        for asking in made.query:
            scores = [find_best(values[asking], values[shown]) for shown in made.gallery]
            own, who = identity[asking[0]], [shown[0] for shown in made.gallery]
            for score, other in zip(scores, who, strict=True):
                if identity[other] == own:
                    genuine.append(score)
                elif subject[other] != own:
                    impostor.append(score)
            for absent in (set(order[: len(order) // 2]), set(order[len(order) // 2 :])):
                there = [(s, identity[o] == own) for s, o in zip(scores, who, strict=True) if subject[o] not in absent]
                if own in absent:
                    strangers.append(max(score for score, _ in there))
                else:
                    best, right = max(there)
                    mated.append(best if right else -np.inf)
    row = templates.measure(Likeness.of(embeddings, manifest.in_tests), manifest, 0, k, q)
    genuine, impostor = np.array(genuine), np.array(impostor)
    cuts = np.unique(np.concatenate([genuine, impostor]))
    errors = [((impostor >= cut).mean(), (genuine < cut).mean()) for cut in cuts]
    worse = max(min(both) for both in errors), min(max(both) for both in errors)  # the curves cross between these
    assert worse[0] - 1e-9 <= row["eer"] <= worse[1] + 1e-9 and worse[1] - worse[0] < 0.02
    limit = sorted(strangers)[::-1][int(0.1 * len(strangers))]
    assert row["fnir_at_fpir_0.1"] == pytest.approx(np.mean(np.array(mated) <= limit))
    for key in ("rank1", "map", "eer", "fnir_at_fpir_0.1"):
        assert row[f"{key}_low"] <= row[key] <= row[f"{key}_high"]
    assert row["one"]["map"] != row["map"]
    assert row["rank1_gain"] == pytest.approx(row["rank1"] - row["one"]["rank1"])
    assert row["map_gain_low"] < row["map_gain"] < row["map_gain_high"]


def test_a_rate_needs_its_trials_within_one_draw_of_templates():
    manifest = build("own", people=30)
    names = [set(build_templates(manifest, 1, 2, index, 0).asked) for index in range(DRAWS)]
    assert names[0] == names[1] == names[2], "the same trials in every draw, whichever images they are of"
    row = templates.measure(liken(manifest), manifest, 0, 1, 2)
    assert row["eer"] == f"not measurable: needs 100 genuine pairs; there are {row['queries']}"


def test_the_default_fusion_and_the_first_image_stand_beside_the_others():
    manifest = build("own")
    rows = templates.measure_all(embed(manifest.in_tests), manifest, Params(gallery_images=2, query_images=2))
    assert [(row["gallery_images"], row["query_images"]) for row in rows] == [(1, 1), (2, 1), (3, 1), (5, 1), (2, 2)]
    assert "one" not in rows[0] and list(rows[1]["others"]) == templates.OTHERS
    shown = template_table.tabulate(rows)
    assert list(shown) == ["1 image", "2 images", "3 images", "5 images", "2 images, asked with 2"]
    assert shown.loc["people (left out)", "2 images"] == f"{rows[1]['people']} ({rows[1]['left_out']})"
    assert shown.loc["rank-1, points gained", "2 images"].startswith(f"{100 * rows[1]['rank1_gain']:+.1f} [")
    assert json.loads(json.dumps(rows)) == rows
    figure = score_figures.draw_templates(rows)
    upper, lower = figure.axes[0].lines[0], figure.axes[0].lines[-1]
    assert list(upper.get_xdata()) == list(lower.get_xdata()) == [1, 2, 3, 5]
    assert list(lower.get_ydata()) == [100 * row.get("one", row)["rank1"] for row in rows[:4]]


def test_too_few_images_are_one_line():
    manifest = build("own", people=8, most=3)
    rows = templates.measure_all(embed(manifest.in_tests), manifest, Params(protocol=manifest.protocol))
    tested = manifest.test["identity"].nunique()
    assert rows[-1]["lacks"] == f"too few people: 0 of {tested} have 5 images to enrol and 1 more to ask with"
    assert "rank1" in rows[0] and "rank1" not in rows[-1]
    assert template_table.tabulate(rows).loc["no scores", "5 images"] == rows[-1]["lacks"]
    assert score_figures.draw_templates(rows).axes
    assert score_figures.draw_templates(rows[-1:]).axes
    across = templates.measure(liken(build("cross_session")), build("cross_session"), 0, 3)
    assert "3 images of one session to enrol" in across["lacks"]


def test_a_given_gallery_has_no_templates():
    split = table().query("aspect == 'dorsal_r'").copy()
    split["split"] = np.where(
        split["identity"] < 30, "train", np.where(split["path"].str.contains("_0"), "gallery", "query")
    )
    split = split[(split["split"] == "train") | split.groupby("identity")["path"].transform("size").gt(1)]
    split.attrs["dataset"] = "folder"
    manifest = protocols.build(split, "given")
    rows = templates.measure_all(embed(manifest.in_tests), manifest, Params(protocol=manifest.protocol))
    assert all(row["lacks"].startswith("protocol given") for row in rows)
    assert template_table.tabulate(rows).index.tolist() == ["no scores"]


def test_the_keys_show_more_and_make_no_other_run():
    plain, more = Params(), Params(gallery_images=3, query_images=2)
    assert plain.run_id == more.run_id and notebook_key(plain, RETRIEVAL) == notebook_key(more, RETRIEVAL)
    assert notebook_key(plain, EVALUATION) != notebook_key(more, EVALUATION)


def test_reports_show_them_and_older_runs_have_no_section(open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="frozen")
    found = assessment.assess({"image": embed(run.manifest.in_tests)}, run.manifest, run.params)
    encoder = SimpleNamespace(sha="sha", backbone=SimpleNamespace(assumed="activation gelu"))
    written = write_metrics(run, {"own": found}, encoder, {}, {})
    assert written["protocols"]["own"]["templates"] == found.several and "templates" not in written
    words, shown, _ = report_scores.show_templates(FinishedRun.open(run.folder))
    assert "the best of their scores" in words.text and ["rank-1", "rank-1, one image each"] == [
        row[0] for row in shown.rows[3:5]
    ]
    assert "Several photographs of a person" in report.lay_out(FinishedRun.open(run.folder))
    del written["protocols"]["own"]["templates"]
    (run.folder / "metrics.json").write_text(json.dumps(written))
    older = FinishedRun.open(run.folder)
    assert report_scores.show_templates(older) == []
    assert "Several photographs of a person" not in report.lay_out(older)
