"""The log-likelihood ratio against one that is known, Cllr against its formula, Cllr-min against another library."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, optimize, stats

from clipreid_lib.scores import calibration, thresholds, verification

FAR = (
    2.0  # standard deviations between the means of genuine and impostor scores; the true LLR is FAR * (score - middle)
)


def make_pairs(genuine: np.ndarray, impostor: np.ndarray, people: int = 40) -> pd.DataFrame:
    truth = np.arange(len(genuine) + len(impostor)) < len(genuine)
    person = np.arange(len(truth)) % people
    subjects = {"query_subject": person, "gallery_subject": np.where(truth, person, (person + 1) % people)}
    return pd.DataFrame({**subjects, "score": np.append(genuine, impostor), "genuine": truth, "weight": 1.0})


def draw(seed: int, genuine: int, impostor: int) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    return make_pairs(random.normal(5 + FAR, 1, genuine), random.normal(5, 1, impostor))


def count_cllr(llr, genuine, weight) -> float:
    """Sum Cllr up pair by pair, as Bruemmer and du Preez write it."""
    sums, wholes = [0.0, 0.0], [0.0, 0.0]
    for ratio, right, each in zip(llr, genuine, weight, strict=True):
        sums[right] += each * math.log2(1 + math.exp(-ratio if right else ratio))
        wholes[right] += each
    return 0.5 * sums[0] / wholes[0] + 0.5 * sums[1] / wholes[1]


def test_the_ratio_is_the_true_one_whatever_the_share_of_genuine_pairs():
    for genuine, impostor in ((20_000, 20_000), (5_000, 80_000)):
        slope, intercept = calibration.fit(draw(0, genuine, impostor))
        assert slope == pytest.approx(FAR, rel=0.05)
        assert -intercept / slope == pytest.approx(5 + FAR / 2, abs=0.05)  # says nothing half way between the means


def test_bounds_are_the_logarithms_of_people_and_of_pairs_of_people():
    pairs = make_pairs(np.ones(30), np.zeros(80), people=10)  # ten people, and ten pairs of neighbours
    assert calibration.find_bounds(pairs) == pytest.approx([-math.log(10), math.log(10)])
    turned = pairs.rename(columns={"query_subject": "gallery_subject", "gallery_subject": "query_subject"})
    assert calibration.find_bounds(pd.concat([pairs, turned])) == pytest.approx([-math.log(10), math.log(10)])


def test_cllr_of_the_true_ratio():
    def cost(score: float) -> float:
        return stats.norm.pdf(score, 5 + FAR) * math.log2(1 + math.exp(-FAR * (score - 5 - FAR / 2)))

    truth = integrate.quad(cost, -5, 17)[0]  # of both kinds the same, as they mirror each other
    found = calibration.learn(draw(1, 4_000, 60_000), draw(2, 4_000, 60_000))
    assert found["people"] == "validation" and found["pairs"] == {"genuine": 4_000, "impostor": 60_000}
    assert found["cllr"] == pytest.approx(truth, abs=0.02)
    assert found["cllr"] - 0.02 < found["cllr_min"] < found["cllr"] < found["cllr_raw"]


def test_cllr_against_its_formula():
    pairs = draw(3, 60, 200).assign(weight=np.random.default_rng(3).integers(1, 5, 260) / 4)
    llr = 1.3 * pairs["score"] - 8
    by_hand = count_cllr(llr, pairs["genuine"], pairs["weight"])
    assert calibration.find_cllr(llr, pairs) == pytest.approx(by_hand, abs=1e-12)
    assert calibration.find_cllr(0 * llr, pairs) == pytest.approx(1)  # a ratio that says nothing costs one bit
    assert calibration.find_cllr(llr + 1000, pairs) > 100  # no overflow


def test_cllr_min_against_another_isotonic_regression_and_every_line():
    pairs = draw(4, 80, 300).assign(weight=np.random.default_rng(4).integers(1, 5, 380) / 4)
    pairs["score"] = pairs["score"].round(1).astype(np.float32)  # many are equal
    share = pairs["weight"] / pairs.groupby("genuine")["weight"].transform("sum") / 2
    tied = pd.DataFrame({"all": share, "right": share * pairs["genuine"]}).groupby(pairs["score"]).sum()
    chance = optimize.isotonic_regression(tied["right"] / tied["all"], weights=tied["all"]).x
    wrong = tied["all"] - tied["right"]
    terms = [-r * math.log2(p) for r, p in zip(tied["right"], chance, strict=True) if r > 0]
    terms += [-w * math.log2(1 - p) for w, p in zip(wrong, chance, strict=True) if w > 1e-15]
    found = calibration.find_cllr_min(pairs)
    assert len(tied) < 100 and found == pytest.approx(sum(terms), abs=1e-9)
    lines = [calibration.find_cllr(a * (pairs["score"] - b), pairs) for a in (1, 2, 3) for b in (5.5, 6, 6.5)]
    assert found < min(lines)
    assert calibration.find_cllr_min(pairs.assign(score=0.5)) == pytest.approx(1)


def test_a_pair_weighs_as_often_as_it_stands_there():
    pairs = draw(5, 200, 900)
    often = np.random.default_rng(5).integers(1, 4, len(pairs))
    weighed, repeated = pairs.assign(weight=often / 3), pairs.loc[pairs.index.repeat(often)]
    assert calibration.find_cllr_min(weighed) == pytest.approx(calibration.find_cllr_min(repeated))
    assert calibration.fit(weighed) == pytest.approx(calibration.fit(repeated), rel=2e-3)  # the ridge counts pairs
    assert calibration.fit(weighed) != pytest.approx(calibration.fit(pairs), rel=2e-3)


def test_pairs_that_do_not_overlap_have_a_ratio_all_the_same():
    pairs = make_pairs(np.linspace(0.8, 0.9, 50), np.linspace(0.1, 0.6, 500))
    found = calibration.learn(pairs, None)
    assert found["people"] == "test" and found["cllr_min"] == pytest.approx(0, abs=1e-12)
    assert 0 < found["slope"] < 1000 and found["cllr"] < 0.05
    assert 0.6 < -found["intercept"] / found["slope"] < 0.8
    same = calibration.learn(make_pairs(np.ones(50), np.ones(500)), None)
    assert same["cllr"] == pytest.approx(1) and same["slope"] == pytest.approx(0, abs=1e-6)


def test_fewer_than_ten_people_teach_nothing():
    many, few = draw(6, 100, 400), make_pairs(np.arange(50.0), np.arange(100.0), people=9)
    assert calibration.learn(many, few) == calibration.learn(many, None)  # validation people are passed over
    refused = calibration.learn(few, many)
    assert refused["why"] == "not measurable: needs 10 people with genuine pairs; there are 9"
    assert {refused[key] for key in ("slope", "intercept", "cllr", "cllr_min", "cllr_raw")} == {None}
    assert thresholds.tabulate_ratio(refused).tolist() == [refused["why"]]


def test_a_part_of_many_pairs_costs_what_all_do(monkeypatch):
    pairs = draw(7, 2_000, 90_000)
    whole = calibration.learn(pairs, None)
    monkeypatch.setattr(verification, "ENOUGH", 20_000)
    part = calibration.learn(pairs, None)
    assert part["pairs"] == whole["pairs"]
    for key in ("slope", "intercept", "cllr", "cllr_min"):
        assert part[key] == pytest.approx(whole[key], rel=0.02), key
