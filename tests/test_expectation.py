"""Scores over all one-image galleries, against every gallery gone through and against thousands of draws."""

import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.data import protocols
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.scores import expectation
from clipreid_lib.scores.evaluation import evaluate
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.metrics import score_retrieval
from clipreid_lib.scores.score_names import SCORES

DRAWN = ("own", "mba", "common", "cross_session")
ASPECTS = ("dorsal_l", "dorsal_r")


def people(number: int, images: tuple[int, int], seed: int = 0, dataset: str = "folder") -> pd.DataFrame:
    """An image table of two aspects and two sessions, people with a random number of images between the two given."""
    random, rows = np.random.default_rng(seed), []
    for aspect, person in itertools.product(ASPECTS, range(number)):
        for image in range(random.integers(*images, endpoint=True)):
            rows.append((f"{aspect}/{person:03d}_{image}.jpg", person, aspect, 0, image % 2))
    table = pd.DataFrame(rows, columns=["path", "identity", "aspect", "camera", "session"]).astype({"session": "Int64"})
    table.attrs["dataset"] = dataset
    return table


def embed(table: pd.DataFrame, noise: float, seed: int = 0, steps: float | None = None) -> Embeddings:
    """Embed people as random directions and noise; rounded to steps, so that many similarities are tied."""
    random = np.random.default_rng(seed)
    values = random.normal(size=(table["identity"].max() + 1, 8))[table["identity"]]
    values = values + noise * random.normal(size=values.shape)
    values = values if steps is None else np.round(values / steps) * steps + 1e-3
    return Embeddings(table["path"].tolist(), torch.tensor(values, dtype=torch.float64))


def list_galleries(manifest: Manifest, part: str) -> list[tuple[pd.DataFrame, pd.DataFrame]]:
    """Go through every choice of one image per person: the (query, gallery) tables of each."""
    own, others = manifest.pool(part)
    always = others[others["split"] == "distractor"] if "split" in others else others.iloc[:0]
    drawn = pd.concat([own, others.drop(always.index)])
    hands = [list(hand.index) for _, hand in drawn.groupby(["role", "identity"])]
    found = []
    for chosen in itertools.product(*hands):
        gallery = pd.concat([drawn.loc[list(chosen)], always])
        query = own.drop(own.index.intersection(list(chosen)))
        if manifest.protocol == "cross_session":
            session = gallery.loc[gallery["role"] == part].set_index("identity")["session"]
            query = query[query["session"] != query["identity"].map(session)]
        found.append((query, gallery))
    return found


@pytest.mark.parametrize("part", ["test", "validation"])
@pytest.mark.parametrize("steps", [None, 1.0])
@pytest.mark.parametrize("protocol", DRAWN)
def test_every_gallery_gone_through_gives_the_same_scores(protocol, steps, part):
    table = people(6 if part == "test" else 60, (2, 3))
    validation = "none" if part == "test" else "identity_disjoint"
    manifest = protocols.build(table, protocol, "dorsal_r", validation=validation, draws=2)
    embeddings, sums, asked = embed(table, 1.5, steps=steps), {}, {}
    galleries = list_galleries(manifest, part)
    curve = np.zeros(expectation.DEEPEST)
    for query, gallery in galleries:
        scores = score_retrieval(embeddings.of(query), query["identity"], embeddings.of(gallery), gallery["identity"])
        values = np.column_stack(
            [
                *((scores.first_hit <= k) for k in (1, 5, 10)),
                *(scores.average_precision, scores.average_precision_trapezoid, scores.inverse_penalty),
            ]
        )
        hits = scores.first_hit[:, None] <= np.arange(1, expectation.DEEPEST + 1)
        curve += hits.sum(axis=0)
        for path, row in zip(query["path"], values, strict=True):
            sums[path], asked[path] = sums.get(path, 0) + row, asked.get(path, 0) + 1
    found = expectation.expect(embeddings, manifest, part)
    table = found.per_query.set_index("path")
    assert set(table.index) == set(sums)
    for path, row in table.iterrows():
        assert row["weight"] == pytest.approx(asked[path] / len(galleries), abs=1e-12)
        assert row[list(SCORES)].to_numpy(float) == pytest.approx(sums[path] / asked[path], abs=1e-12)
    assert found.cmc == pytest.approx(curve / sum(asked.values()), abs=1e-12)
    assert len({round(each, 6) for each in table["rank1"]}) > 2  # a test of something


def test_images_that_every_gallery_holds_stand_in_every_one():
    table = people(6, (2, 3), dataset="hd")
    extra = people(9, (3, 3), seed=1).query("aspect == 'dorsal_r' and identity > 5")
    extra = extra.assign(path="second/" + extra["path"].str[9:], split="distractor")
    table = pd.concat([table.assign(split=""), extra], ignore_index=True).query("aspect == 'dorsal_r'")
    table = table.assign(aspect="dorsal", identity=table["identity"] + 445)  # 447 is where hd's training people end
    table.attrs["dataset"] = "hd"
    manifest = protocols.build(table, "mba", "dorsal", draws=2)
    assert (manifest.draw(0)[1]["split"] == "distractor").sum() == 9
    embeddings, weights, sums = embed(table, 0.7), 0, np.zeros(2)
    for query, gallery in list_galleries(manifest, "test"):
        scores = score_retrieval(embeddings.of(query), query["identity"], embeddings.of(gallery), gallery["identity"])
        sums += (scores.first_hit == 1).sum(), scores.average_precision.sum()
        weights += len(query)
    found = expectation.expect(embeddings, manifest).per_query
    exact = [np.average(found[score], weights=found["weight"]) for score in ("rank1", "map")]
    assert exact == pytest.approx(sums / weights, abs=1e-12)


@pytest.mark.parametrize("protocol", DRAWN)
def test_thousands_of_draws_agree_within_four_standard_errors(protocol):
    table, number, random = people(24, (2, 7)), 3000, np.random.default_rng(1)
    manifest = protocols.build(table, protocol, "dorsal_r", draws=1)
    embeddings = embed(table, 1.5)
    own, others = manifest.pool()
    images = pd.concat([own, others], ignore_index=True)
    unit = embeddings.of(images).numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    alike = unit[: len(own)] @ unit.T  # (Q, N)
    hand = images.groupby(["role", "identity"]).ngroup().to_numpy()
    session = images["session"].to_numpy()
    draws, queries = np.zeros((number, 3)), np.zeros(number)
    for draw in range(number):
        order = random.permutation(len(images))
        chosen = order[np.unique(hand[order], return_index=True)[1]]  # one random image of each
        mate = np.zeros(hand.max() + 1, int)
        mate[hand[chosen]] = chosen
        mine = mate[hand[: len(own)]]
        asks = mine != np.arange(len(own))
        if protocol == "cross_session":
            asks = session[: len(own)] != session[mine]
        reach = alike[np.arange(len(own)), mine]
        before = ((alike[:, chosen] >= reach[:, None]) & (chosen != mine[:, None])).sum(axis=1)[asks]
        draws[draw] = (before == 0).sum(), (before < 5).sum(), (1 / (1 + before)).sum()
        queries[draw] = asks.sum()
    found = evaluate(embeddings, manifest)
    assert found.over == "all galleries"
    summary = found.summary()
    for score, total in zip(("rank1", "rank5", "map"), draws.T, strict=True):
        mean = total.sum() / queries.sum()  # galleries of cross_session differ in how many ask; scores pool queries
        error = np.sqrt(((total - mean * queries) ** 2).sum()) / queries.sum()
        assert 0 < error < 0.01
        assert abs(summary[score] - mean) < 4 * error
    assert summary["map_trapezoid"] == pytest.approx((summary["map"] + summary["rank1"]) / 2)
    assert summary["minp"] == pytest.approx(summary["map"])


def test_the_mean_of_many_people_before_the_match_is_exact():
    random = np.random.default_rng(0)
    many = np.ones(290), random.random(290), 0.02 * random.random(2000), (random.random(700) < 0.5) * 1.0
    for shares in (*many, random.random(2), np.zeros(1)):  # the last two: as good as all stand in every gallery
        chance = np.ones(1)
        for share in shares:
            chance = np.convolve(chance, [1 - share, share])
        for before in (0, 3, 900):
            precision, *curve = expectation._score(shares[None], np.array([before]))[:, 0]
            assert precision == pytest.approx((chance / (np.arange(len(chance)) + 1 + before)).sum(), rel=1e-10)
            within = np.concatenate([np.zeros(before), chance, np.zeros(20)])[: expectation.DEEPEST].cumsum()
            assert curve == pytest.approx(within, abs=1e-12)


def test_order_of_people_and_length_of_features_do_not_matter():
    table = people(10, (2, 5))
    manifest = protocols.build(table, "mba", "dorsal_r")
    embeddings = embed(table, 1.0)
    mixed = Manifest(manifest.images.sample(frac=1, random_state=0).reset_index(drop=True))
    longer = Embeddings(embeddings.paths, 7 * embeddings.values)
    one, other = expectation.expect(embeddings, manifest), expectation.expect(longer, mixed)
    pd.testing.assert_frame_equal(one.per_query, other.per_query)
    assert one.cmc.tolist() == other.cmc.tolist()


def test_what_cannot_be_gone_through_is_drawn_and_says_so(monkeypatch):
    table = people(10, (2, 5))
    manifest, embeddings = protocols.build(table, "own", "dorsal_r", draws=5), embed(table, 1.0)
    assert evaluate(embeddings, manifest, how="expanded").over == "5 draws"
    monkeypatch.setattr(expectation, "MOST", 10)
    drawn = evaluate(embeddings, manifest)
    assert drawn.over == "5 draws"
    summary = drawn.summary()
    assert summary["rank1"] == pytest.approx(summary["rank1_draws"]) == pytest.approx(drawn.per_draw["rank1"].mean())


def test_an_image_without_embedding_is_named():
    table = people(6, (2, 3))
    manifest = protocols.build(table, "own", "dorsal_r")
    with pytest.raises(UserError, match="has no embedding"):
        expectation.expect(Embeddings(["other.jpg"], torch.zeros(1, 8)), manifest)


def test_many_images_of_a_person_are_gone_through_in_parts(monkeypatch):
    table = people(12, (2, 9))
    manifest, embeddings = protocols.build(table, "mba", "dorsal_r"), embed(table, 1.0)
    whole = expectation.expect(embeddings, manifest)
    monkeypatch.setattr(expectation, "LARGE", 40)
    monkeypatch.setattr(expectation, "PAIRS", 7)
    parts = expectation.expect(embeddings, manifest)
    pd.testing.assert_frame_equal(whole.per_query, parts.per_query, rtol=1e-12)
    assert whole.cmc == pytest.approx(parts.cmc, abs=1e-12)


def test_an_image_that_no_draw_shows_makes_another_test():
    table = people(10, (9, 12))
    manifest = protocols.build(table, "mba", "dorsal_r", draws=1)
    images = manifest.images
    idle = images.index[(images["role"] == "distractor") & (images["draw_0"] == "")][0]
    fewer = Manifest(images.drop(index=idle))
    assert manifest.compared_sha != fewer.compared_sha
    embeddings = embed(table, 1.5)
    assert expectation.expect(embeddings, manifest).cmc[0] != expectation.expect(embeddings, fewer).cmc[0]
    assert manifest.compared_sha == Manifest(images.sample(frac=1, random_state=0)).compared_sha
