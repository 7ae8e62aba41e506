import numpy as np
import pandas as pd
import pytest

from clipreid_lib.base.errors import UserError
from clipreid_lib.data import contract, datasets, eleven_k, protocols
from clipreid_lib.data.manifest import Manifest


@pytest.fixture(scope="module")
def table(hands) -> pd.DataFrame:
    return datasets.load_images("demo", hands)


@pytest.fixture(scope="module")
def metadata(real_hands) -> pd.DataFrame:
    """All 11,076 rows of the real HandInfo.csv, for whose counts no image is needed."""
    table = contract.check_table(eleven_k.read_metadata(real_hands, burst_gap=10), real_hands)
    table.attrs["dataset"] = "11k"
    return table


# Train, validation and test images and people, queries per draw: MBA-Net, as published.
PUBLISHED = {
    "dorsal_r": (890, 72, 72, 72, 1042, 71, 971),
    "dorsal_l": (735, 73, 73, 73, 1061, 73, 988),
    "palmar_r": (905, 72, 72, 72, 988, 71, 917),
    "palmar_l": (928, 76, 76, 76, 1023, 75, 948),
}


@pytest.mark.parametrize("aspect", PUBLISHED)
def test_published_counts_on_the_real_metadata(metadata, aspect):
    manifest = protocols.build(metadata, "mba", aspect, validation="published")
    parts = (manifest.train, manifest.validation, manifest.test)
    counts = [number for part in parts for number in (len(part), part["identity"].nunique())]
    for index in range(10):
        query, gallery = manifest.draw(index)
        assert (*counts, len(query)) == PUBLISHED[aspect]
        assert len(gallery) == gallery["identity"].nunique() == 290
        assert (gallery["role"] == "distractor").sum() == 290 - PUBLISHED[aspect][5]
    own = protocols.build(metadata, "own", aspect, validation="published")
    assert own.draw(0)[1]["path"].tolist() == manifest.draw(0)[1]["path"].tolist()[: PUBLISHED[aspect][5]]
    said = eleven_k.SUMMARY.published[aspect]
    assert [*said["train"], *said["validation"], *said["test"], said["query"][0]] == list(PUBLISHED[aspect])


def test_the_real_piece_keeps_177_and_185_images(real_hands):
    table = datasets.load_images("11k", real_hands, allow_missing=True)
    manifest = protocols.build(table, "own", "dorsal_r", validation="none")
    assert (len(manifest.train), manifest.train["identity"].nunique()) == (177, 63)
    untested = manifest.images[manifest.images["role"] == "unpaired"]
    assert len(untested) == untested["identity"].nunique() == 16
    assert (len(manifest.test) + 16, manifest.test["identity"].nunique() + 16) == (185, 59)


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
        ["Hands/10.jpg", "Hands/6.jpg"],
        ["Hands/11.jpg", "Hands/7.jpg"],
        ["Hands/11.jpg", "Hands/6.jpg"],
    ]


def test_a_saved_manifest_comes_back_with_the_same_hash(table, tmp_path):
    for protocol in ("mba", "own", "common", "cross_session"):
        manifest = protocols.build(table, protocol, "dorsal_r", draws=3)
        manifest.save(tmp_path / "manifest.csv")
        again = Manifest.load(tmp_path / "manifest.csv", table)
        assert again.sha == manifest.sha
        pd.testing.assert_frame_equal(again.draw(1)[1], manifest.draw(1)[1], check_dtype=False)


def _tampered(manifest: Manifest, where, column: str, value) -> Manifest:
    images = manifest.images.copy()
    images.loc[images.index[where(images)][0], column] = value
    return Manifest(images)


@pytest.mark.parametrize(
    ("where", "column", "value", "message"),
    [
        (
            lambda t: (t.role == "test") & (t.draw_1 == "gallery"),
            "draw_1",
            "query",
            "shows a person without gallery in draw 1",
        ),
        (lambda t: t.role == "test", "subject", 0, "a person both trained on and tested"),
        (lambda t: t.role == "test", "identity", 6, "has another person's number"),
        (lambda t: t.role == "train", "identity", 7, "has another person's number"),
        (lambda t: t.role == "test", "protocol", "banana", "column 'protocol' must hold one name in all rows"),
        (lambda t: t.role == "test", "dataset", "hd", "column 'dataset' must hold one name in all rows"),
        (lambda t: (t.role == "test") & (t.draw_1 == "query"), "draw_1", "gallery", "second gallery image"),
        (lambda t: t.role == "train", "draw_0", "gallery", "takes no part in tests but is drawn"),
        (lambda t: t.role == "train", "role", "teacher", "unknown role; allowed: train"),
        (lambda t: t.role == "distractor", "draw_0", "query", "is a distractor and a query"),
        (lambda t: t.role == "distractor", "identity", 7, "is a distractor with a test person's number"),
        (lambda t: t.role == "test", "draw_0", "galery", "neither query nor gallery"),
        (lambda t: t.role == "test", "path", "../elsewhere.jpg", "leaves the data root"),
        (lambda t: t.role == "test", "path", "/elsewhere.jpg", "must be relative to the data root"),
    ],
)
def test_a_tampered_manifest_is_refused_by_the_images_name(table, tmp_path, where, column, value, message):
    manifest = protocols.build(table, "mba", "dorsal_r")
    broken = _tampered(manifest, where, column, value)
    changed = broken.images[(broken.images != manifest.images).any(axis=1)]["path"].iloc[0]
    broken.save(tmp_path / "manifest.csv")
    with pytest.raises(UserError, match=message) as error:
        Manifest.load(tmp_path / "manifest.csv")
    assert "manifest.csv: " in str(error.value) and "\n" not in str(error.value)
    if not any(
        word in message for word in ("person", "column", "second")
    ):  # these name an image of the person, or none
        assert changed in str(error.value)


def test_manifests_that_do_not_belong_are_refused(table, tmp_path):
    kept = tmp_path / "manifest.csv"
    manifest = protocols.build(table, "own", "dorsal_r")
    twice = Manifest(pd.concat([manifest.images, manifest.images.tail(1)], ignore_index=True))
    with pytest.raises(UserError, match="stands twice"):
        twice.check()
    manifest.save(kept)
    fewer = table[table["path"] != manifest.images["path"].iloc[0]]
    with pytest.raises(UserError, match=f"{manifest.images['path'].iloc[0]} is not in the data set"):
        Manifest.load(kept, fewer)
    others = table.assign(identity=table["identity"] + 1)
    with pytest.raises(UserError, match="another person's"):
        Manifest.load(kept, others)
    others.attrs["dataset"] = "11k"
    with pytest.raises(UserError, match="manifest of demo, not of 11k"):
        Manifest.load(kept, others)
    images = protocols.build(table, "cross_session", "dorsal_r").images
    for broken, message in (
        (images.drop(columns="draw_1"), "lacks the column 'draw_1'"),
        (images.drop(columns="session"), "lacks the column 'session', which cross_session needs"),
        (images.assign(session=pd.NA), "may share its gallery image's burst"),
        (images[:0], "holds no image"),
        (images[images["role"] == "train"], "holds no test image"),
    ):
        Manifest(broken).save(kept)
        with pytest.raises(UserError, match=message):
            Manifest.load(kept)
    with pytest.raises(UserError, match="cannot be read as a manifest"):
        Manifest.load(tmp_path)
    kept.write_text("path,identity\n")
    with pytest.raises(UserError, match="is no manifest; it lacks the column 'dataset'"):
        Manifest.load(kept)
    kept.write_bytes(b"")
    with pytest.raises(UserError, match="cannot be read as a manifest"):
        Manifest.load(kept)


def test_misspelt_arguments_and_missing_people(table):
    with pytest.raises(UserError, match="protocol: 'mbs' is unknown; allowed: own, mba, common"):
        protocols.build(table, "mbs", "dorsal_r")
    with pytest.raises(UserError, match="aspect: demo holds no image of 'dorsal'; it has dorsal_l"):
        protocols.build(table, "own", "dorsal")
    with pytest.raises(UserError, match="holds no image of 'dorsal_l'; it has dorsal_r, palmar_l, palmar_r"):
        protocols.build(table[table["aspect"] != "dorsal_l"], "own", "dorsal_l")
    with pytest.raises(UserError, match="draws: 0; give at least 1"):
        protocols.build(table, "own", "dorsal_r", draws=0)
    with pytest.raises(UserError, match="mba needs distractors"):
        protocols.build(table[table["aspect"] == "dorsal_r"], "mba", "dorsal_r")
    with pytest.raises(UserError, match="too few people"):
        protocols.build(table[table["identity"] == 0], "own", "dorsal_r")
