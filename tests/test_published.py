import numpy as np
import pandas as pd
import pytest

from clipreid_lib.data.manifest import PROTOCOLS
from clipreid_lib.scores import published
from clipreid_lib.scores.metrics import score_retrieval


def ours(**change) -> pd.DataFrame:
    row = {
        **{"dataset": "11k", "aspect": "dorsal_r", "model": "vitb16", "variant": "clipid", "stage": "2b"},
        **{"protocol": "mba", "queries": 971, "gallery": 290, "identities": 71},
        **{"rank1_draws": 0.96, "map_draws": 0.97, "map_trapezoid_draws": 0.965},  # what stands beside printed numbers
        **{"rank1": 0.51, "map": 0.52, "map_trapezoid": 0.515},  # and over all galleries, which does not
    }
    return pd.DataFrame([row | change])


def test_every_row_is_legal_and_has_a_source():
    table = published.load()
    assert len(table) >= 35 and not table.duplicated(["method", "dataset", "aspect", "protocol", "trained_on"]).any()
    assert table["source"].ne("").all() and set(table["protocol"]) <= set(PROTOCOLS)
    assert set(table["map_definition"]) == {"standard", "trapezoid"}
    ranks = table[["rank1", "rank5", "rank10"]].dropna()
    assert (ranks["rank1"] <= ranks["rank5"]).all() and (ranks["rank5"] <= ranks["rank10"]).all()
    assert table[["rank1", "map"]].gt(0).all(axis=None) and table[["rank1", "map"]].le(100).all(axis=None)
    one = table[table["protocol"].isin(published.ONE_MATCH)]
    back = (2 * one["map"] - one["rank1"]).where(one["map_definition"] == "trapezoid", (one["map"] + one["rank1"]) / 2)
    assert back.between(0, 100).all()


@pytest.mark.parametrize(
    ("aspect", "queries", "expected"),
    [
        ("dorsal_r", 971, {"MBA-Net": 98.51, "ABD-Net": 97.63, "GPA-Net": 96.64, "RGA-Net": 96.57}),
        ("dorsal_l", 988, {"MBA-Net": 98.11, "ABD-Net": 96.42, "GPA-Net": 96.99, "RGA-Net": 96.66}),
        ("palmar_r", 917, {"MBA-Net": 98.79, "ABD-Net": 97.61, "GPA-Net": 96.79, "RGA-Net": 94.50}),
        ("palmar_l", 948, {"MBA-Net": 98.26, "ABD-Net": 96.48, "GPA-Net": 96.68, "RGA-Net": 96.39}),
    ],
)
def test_conversion_to_the_standard_definition(aspect, queries, expected):
    table = published.set_beside(ours(aspect=aspect, queries=queries)).set_index("method")
    for method, value in expected.items():
        assert table.loc[method, "mAP"] == pytest.approx(value) and table.loc[method, "converted"] == "mAP"
    mine = table.loc["ours: vitb16 clipid (2b)"]
    frozen = published.set_beside(ours(aspect=aspect, queries=queries, variant="frozen", stage="frozen"))
    assert "ours: vitb16 frozen" in set(frozen["method"])
    assert mine[["rank-1", "mAP", "mAP (trapezoid)"]].tolist() == [96, 97, 96.5]
    assert mine["converted"] == "" and mine["source"] == "here"


def test_conversion_on_hd_tells_the_training_data_apart():
    table = published.set_beside(ours(dataset="hd", aspect="dorsal", queries=1992, gallery=1593))
    expected = {"MBA-Net": 95.96, "ABD-Net": 95.83, "GPA-Net": 95.52, "RGA-Net": 95.72}
    same = table[table["trained on"].eq("") & table["source"].ne("here")].set_index("method")
    assert same["mAP"].to_dict() == pytest.approx(expected)
    assert table["trained on"].eq("11k dorsal_r").sum() == 4


def test_the_identity_holds_for_any_ranking_with_one_match_per_query():
    random = np.random.default_rng(0)
    ids = np.arange(40)
    asked = random.integers(0, 40, 300)
    scores = score_retrieval(random.normal(size=(300, 6)) + np.eye(40)[asked][:, :6], asked, np.eye(40)[:, :6], ids)
    assert scores.map_trapezoid == pytest.approx((scores.map + scores.at[1]) / 2)


def test_only_the_same_protocol_and_the_same_counts_stand_beside():
    own = published.set_beside(ours(protocol="own", gallery=71))
    assert own["source"].str.contains("CLIP-FH|here").all() and len(own) == 7
    assert own.loc[own["source"].ne("here"), "converted"].eq("mAP (trapezoid)").all()
    assert published.set_beside(ours(gallery=210)) is None
    assert "971 queries and 290 gallery images, here are 971 and 210" in published.explain(ours(gallery=210))
    assert published.set_beside(ours(dataset="demo")) is None and published.set_beside(ours()[:0]) is None
    assert published.explain(ours(dataset="demo")) == "demo dorsal_r under mba: no published result known."
    assert published.explain(ours()) == "11k dorsal_r under mba: 6 published results."


def test_several_matches_per_query_cannot_be_converted():
    market = published.set_beside(
        ours(dataset="market1501", aspect="body", protocol="given", queries=3368, gallery=15913)
    )
    theirs = market[market["source"] != "here"]
    assert published.set_beside(ours(dataset="market1501", aspect="body", protocol="given", queries=40)) is None
    assert len(theirs) == 5 and theirs["mAP (trapezoid)"].isna().all() and theirs["converted"].eq("").all()
