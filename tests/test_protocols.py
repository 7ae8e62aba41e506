import numpy as np
import pandas as pd
import pytest

from clipreid_lib import datasets, protocols
from clipreid_lib.datasets import eleven_k
from clipreid_lib.errors import UserError

# MBA-Net's published counts: train people and images, test people and images, queries per draw.
PUBLISHED = {
    "dorsal_r": (72, 962, 71, 1042, 971),
    "dorsal_l": (73, 808, 73, 1061, 988),
    "palmar_r": (72, 977, 71, 988, 917),
    "palmar_l": (76, 1004, 75, 1023, 948),
}


@pytest.fixture(scope="module")
def table(hands) -> pd.DataFrame:
    return datasets.load_images("demo", hands)


def test_published_counts_on_the_real_metadata(real_hands, monkeypatch):
    monkeypatch.setattr(eleven_k, "_present", lambda folder, names, allow: names == names)  # images not needed
    table = eleven_k.read(real_hands, allow_missing=False)
    table.attrs["dataset"] = "11k"
    for aspect, published in PUBLISHED.items():
        manifest = protocols.build(table, "mba", aspect, validation="none")
        query, gallery = manifest.draw(9)
        assert published == (
            manifest.train["identity"].nunique(),
            len(manifest.train),
            manifest.test["identity"].nunique(),
            len(manifest.test),
            len(query),
        )
        assert len(gallery) == gallery["identity"].nunique() == 290


def test_the_real_piece_keeps_177_and_185_images(real_hands):
    table = datasets.load_images("11k", real_hands, allow_missing=True)
    manifest = protocols.build(table, "own", "dorsal_r", validation="none")
    counts = manifest.counts()
    assert counts.loc["train"].tolist() == [177, 63]
    assert (counts.loc["test"] + counts.loc["unpaired"]).tolist() == [185, 59]
    assert counts.loc["unpaired"].tolist() == [16, 16]


def test_a_draw_is_one_shot_and_disjoint(table):
    manifest = protocols.build(table, "mba", "dorsal_r", validation="none")
    own = []
    for index in range(manifest.draws):
        query, gallery = manifest.draw(index)
        mine = gallery[gallery["role"] == "test"]
        assert not set(query["path"]) & set(gallery["path"])
        assert sorted(mine["identity"]) == sorted(manifest.test["identity"].unique())
        distractors = gallery[gallery["role"] == "distractor"]
        assert not set(distractors["identity"]) & set(query["identity"])
        assert (distractors["identity"] > 11_000_000).all() and (distractors["subject"] < 8).all()
        assert set(distractors["aspect"]) == {"dorsal_l", "palmar_r", "palmar_l"}
        own.append(tuple(mine["path"]))
    assert len(set(own)) > 1  # draws differ


def test_train_and_test_people_are_disjoint_and_halves(table):
    manifest = protocols.build(table, "own", "palmar_r", validation="none")
    assert set(manifest.train["identity"]) == {0, 1, 2, 3}
    assert set(manifest.test["identity"]) <= {4, 5, 6, 7}


def test_validation_people_neither_train_nor_test(table):
    manifest = protocols.build(table, "own", "palmar_r", validation="identity_disjoint")
    held = set(manifest.validation["identity"])
    assert held and held <= {0, 1, 2, 3} and not held & set(manifest.train["identity"])
    query, gallery = manifest.draw(0, "validation")
    assert set(query["identity"]) == set(gallery["identity"]) == held


def test_file_order_never_matters_and_seeds_do(table):
    first = protocols.build(table, "own", "dorsal_r", seed=3)
    shuffled = table.sample(frac=1, random_state=0)
    again = protocols.build(shuffled, "own", "dorsal_r", seed=3)
    left, right = (m.images.sort_values("path").reset_index(drop=True) for m in (first, again))
    pd.testing.assert_frame_equal(left, right)
    assert protocols.build(table, "own", "dorsal_r", seed=4).sha != first.sha


def test_the_draws_are_pinned():
    # One hand-made table: whatever platform or library version runs this, the draw must be this one.
    people = pd.DataFrame(
        {
            "path": [f"Hands/{i}.jpg" for i in range(12)],
            "identity": np.repeat([1, 2, 3, 4], 3),
            "aspect": "dorsal_r",
            "accessories": False,
        }
    )
    manifest = protocols.build(people, "own", "dorsal_r", seed=0, validation="none")
    drawn = [manifest.draw(i)[1]["path"].tolist() for i in range(3)]
    assert drawn == [
        ["Hands/6.jpg", "Hands/10.jpg"],
        ["Hands/7.jpg", "Hands/11.jpg"],
        ["Hands/6.jpg", "Hands/11.jpg"],
    ]


def test_a_saved_manifest_comes_back_and_a_tampered_one_does_not(table, tmp_path):
    manifest = protocols.build(table, "mba", "dorsal_r")
    kept = tmp_path / "manifest.csv"
    manifest.save(kept)
    assert protocols.Manifest.load(kept).sha == manifest.sha
    broken = manifest.images.copy()
    victim = broken.index[(broken["role"] == "test") & (broken["draw_1"] == "gallery")][0]
    broken.loc[victim, "draw_1"] = "query"
    protocols.Manifest(broken).save(kept)
    with pytest.raises(UserError, match="manifest.csv: identity .* lacks query or gallery in draw 1"):
        protocols.Manifest.load(kept)
    broken = manifest.images.copy()
    broken.loc[broken["role"] == "test", "identity"] = int(manifest.train["identity"].iloc[0])
    with pytest.raises(UserError, match="both trained on and tested"):
        protocols.Manifest(broken).checked()
    twice = pd.concat([manifest.images, manifest.images.tail(1)])
    with pytest.raises(UserError, match="stands twice"):
        protocols.Manifest(twice).checked()


def test_misspelt_arguments_and_missing_people(table):
    with pytest.raises(UserError, match="protocol: 'mbs' is unknown; allowed: own, mba"):
        protocols.build(table, "mbs", "dorsal_r")
    with pytest.raises(UserError, match="aspect: 'dorsal'"):
        protocols.build(table, "own", "dorsal")
    with pytest.raises(UserError, match="holds no usable image of 'dorsal_l'"):
        protocols.build(table[table["aspect"] != "dorsal_l"], "own", "dorsal_l")
    with pytest.raises(UserError, match="too few people"):
        protocols.build(table[table["identity"] == 0], "own", "dorsal_r")
