import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from clipreid_lib.base.errors import UserError
from clipreid_lib.scores import uncertainty, verification
from clipreid_lib.scores.open_set import OpenSet
from clipreid_lib.scores.verification import find_eer, verify


def make_pairs(genuine: np.ndarray, impostor: np.ndarray, people: int = 40) -> pd.DataFrame:
    random = np.random.default_rng(0)
    asked = random.integers(0, people, len(genuine) + len(impostor))
    shown = (asked + random.integers(1, people, len(asked))) % people
    truth = np.arange(len(asked)) < len(genuine)
    table = {
        "query": [f"q{n}" for n in range(len(asked))],
        "gallery": [f"g{n}" for n in range(len(asked))],
        "query_subject": asked,
        "gallery_subject": np.where(truth, asked, shown),
        "score": np.concatenate([genuine, impostor]),
        "genuine": truth,
        "weight": 1.0,
    }
    return pd.DataFrame(table)


def test_eer_by_hand():
    # thresholds fall over 4, 3, 2, 1: genuine 4, 2 and impostor 3, 1
    found = verify(make_pairs(np.array([4.0, 2.0]), np.array([3.0, 1.0])))
    assert found.eer == pytest.approx(0.5)
    apart = verify(make_pairs(np.array([4.0, 3.0]), np.array([2.0, 1.0])))
    assert apart.eer == 0 and apart.genuine == apart.impostor == 2


def test_eer_agrees_with_a_root_finder_and_with_theory():
    random = np.random.default_rng(0)
    pairs = make_pairs(random.normal(2, 1, 20_000), random.normal(0, 1, 20_000))
    found = verify(pairs)
    fpr, tpr, _ = roc_curve(pairs["genuine"], pairs["score"])
    root = brentq(lambda x: 1 - x - np.interp(x, fpr, tpr), 0, 1)
    assert found.eer == pytest.approx(root, abs=1e-9)
    assert found.eer == pytest.approx(stats.norm.cdf(-1), abs=0.005)  # normals two apart cross one deviation out
    assert found.tpr_at[0.01] == pytest.approx(1 - stats.norm.cdf(stats.norm.ppf(0.99) - 2), abs=0.02)


def test_a_pair_weighs_as_often_as_it_stands_there():
    random = np.random.default_rng(8)
    pairs = make_pairs(random.normal(2, 1, 300), random.normal(0, 1, 2000))
    often = random.integers(1, 5, len(pairs))
    weighed, repeated = verify(pairs.assign(weight=often / 3)), verify(pairs.loc[pairs.index.repeat(often)])
    assert weighed.eer == pytest.approx(repeated.eer) != pytest.approx(verify(pairs).eer, abs=1e-4)
    assert weighed.tpr_at[0.01] == pytest.approx(repeated.tpr_at[0.01])
    assert (weighed.genuine, weighed.impostor) == (300, 2000)  # what is measurable goes by pairs, however they weigh


def test_a_rate_that_the_pairs_cannot_support_is_not_measurable():
    random = np.random.default_rng(1)
    found = verify(make_pairs(random.normal(2, 1, 500), random.normal(0, 1, 1000)))
    assert (
        found.tpr_at[1e-2] > 0 and found.tpr_at[1e-3] == "not measurable: needs 10,000 impostor pairs; there are 1,000"
    )
    assert found.tpr_at[1e-4] == "not measurable: needs 100,000 impostor pairs; there are 1,000"
    with pytest.raises(UserError, match="3 pairs, 3 of them genuine; it needs both"):
        verify(make_pairs(np.arange(3.0), np.zeros(0)))


def test_equal_scores_are_one_threshold():
    found = verify(make_pairs(np.ones(50), np.ones(50)))
    assert found.eer == pytest.approx(0.5)
    pairs = make_pairs(np.ones(1000), np.ones(1000))
    low, high = verification.find_intervals(pairs, verify(pairs))["eer"]
    assert 0.4 < low < 0.5 < high < 0.6  # the two pseudo-people alone, who pass and fail at every threshold


def test_eer_interval_holds_the_value_and_narrows_with_people():
    random = np.random.default_rng(2)
    widths = []
    for people in (10, 160):
        pairs = make_pairs(random.normal(1.5, 1, 1500), random.normal(0, 1, 3000), people)
        easy = random.normal(size=people)  # some people are easier than others, in all their images
        pairs["score"] += np.where(pairs["genuine"], easy[pairs["query_subject"]], 0)
        found = verify(pairs)
        ends = verification.find_intervals(pairs, found)
        # of what is measurable, and of nothing else: ten people are 45 pairs, and 1 % asks for 200
        assert set(ends) == ({"eer"} if people == 10 else {"eer", "tpr_at_fpr_0.01"})
        low, high = ends["eer"]
        assert low < found.eer < high
        widths.append(high - low)
    assert widths[1] < widths[0]
    assert find_eer(np.array([0, 0, 1.0]), np.array([0, 1.0, 1.0])) == 0


def test_thresholds_that_everybody_shares():
    # 1,000 impostor pairs at 0, 1, ..., 999, and 200 genuine ones at 0.5, 10.5, ..., 1990.5
    pairs = make_pairs(np.arange(200) * 10 + 0.5, np.arange(1000.0))
    found = verify(pairs)
    at = found.thresholds_at
    scores, genuine = pairs["score"], pairs["genuine"]
    accepted = scores >= at["fpr_0.01"]
    assert accepted[~genuine].sum() == 10 and accepted[genuine].sum() == 101  # down to 990, and 990.5 is above
    lower = scores[scores < at["fpr_0.01"]].max()
    assert (scores[~genuine] >= lower).mean() > 0.01  # one step further down is too far
    accepted = scores >= at["eer"]
    assert accepted[~genuine].mean() >= (~accepted[genuine]).mean()
    higher = scores > at["eer"]
    assert higher[~genuine].mean() < (~higher[genuine]).mean()
    few = verify(make_pairs(np.arange(50.0), np.arange(500.0)))
    assert few.thresholds_at == {}  # neither rate is measurable
    assert verify(make_pairs(np.arange(150.0), np.arange(500.0))).thresholds_at.keys() == {"eer"}


def test_an_eer_needs_pairs_of_either_kind_and_people():
    def lacks(*given):
        return verify(make_pairs(*given)).eer_lacks

    right, wrong = np.arange(100.0), np.arange(100.0)
    assert lacks(right, wrong) == ""
    assert lacks(right[:99], wrong) == "not measurable: needs 100 genuine pairs; there are 99"
    assert lacks(right, wrong[:99]) == "not measurable: needs 100 impostor pairs; there are 99"
    assert lacks(right, wrong, 9) == "not measurable: needs 10 people with genuine pairs; there are 9"
    pairs = make_pairs(right, wrong)
    one = pairs.assign(gallery_subject=pairs["gallery_subject"].where(pairs["genuine"], 1))
    one["query_subject"] = one["query_subject"].where(one["genuine"], np.arange(200) % 19 + 2)
    assert verify(one).eer_lacks == "not measurable: needs 20 pairs of people; there are 19"


def test_a_rate_needs_errors_of_two_pairs_of_people():
    pairs = make_pairs(np.arange(3950.0, 4050.0), np.arange(4000.0))
    wrong = ~pairs["genuine"]

    def seen(number: int) -> pd.DataFrame:
        table = pairs.copy()
        table.loc[wrong, "query_subject"] = np.arange(wrong.sum()) % number + 100
        table.loc[wrong, "gallery_subject"] = 99
        back = np.flatnonzero(wrong)[::2]  # whoever asks: it is the same two people
        sides = ["query_subject", "gallery_subject"]
        table.loc[table.index[back], sides] = table.loc[table.index[back], sides[::-1]].to_numpy()
        return table

    assert verification.count_people_pairs(seen(199)) == 199
    assert verify(seen(199)).tpr_at[0.01] == "not measurable: needs 200 pairs of people; there are 199"
    assert verify(seen(200)).tpr_at[0.01] == 0.9  # 40 impostor pairs stand at 3960 or above, and 90 genuine ones
    assert verify(seen(200)).tpr_at[0.001] == "not measurable: needs 10,000 impostor pairs; there are 4,000"


def test_equal_scores_are_read_at_the_right_threshold():
    # one genuine pair above all, then four pairs of one score, then impostors: at FPR 1 % the ties may be let in
    scores = make_pairs(np.array([9.0, 5.0, 1.0]), np.concatenate([[5.0], np.zeros(1999)]))
    assert verify(scores).tpr_at[1e-2] == 1.0 and verify(scores).fpr[1] == 0
    apart = verify(make_pairs(np.full(50, 2.0), np.linspace(0, 1, 2000)))
    assert len(apart.fpr) > 1900 and apart.fpr[apart.fpr > 0].min() == pytest.approx(1 / 2000)
    assert verify(scores).thresholds_at == {"fpr_0.01": 1.0}  # the three genuine pairs are too few for an EER's


def test_distractors_are_not_one_person():
    random = np.random.default_rng(7)
    pairs = make_pairs(random.normal(2, 1, 800), random.normal(0, 1, 3000))
    table = pairs
    strangers = table.index >= 2000  # their number, 0 or 1,000, must not matter
    ends = []
    for number in (1000, np.arange(1000, 1000 + strangers.sum())):
        table.loc[strangers, "gallery_subject"] = number
        found = verify(table)
        assert not found.eer_lacks
        ends.append(verification.find_intervals(table, found)["eer"])
    assert ends[0] == ends[1]


def test_fnir_at_fpir_by_hand():
    mated = pd.DataFrame({"path": list("abcd"), "identity": range(4), "score": [0.9, 0.6, 0.4, -np.inf]})
    names = [f"{n}.jpg" for n in range(100)]
    non_mated = pd.DataFrame({"path": names, "identity": range(100), "score": np.arange(100) / 100})
    searched = OpenSet(mated, non_mated, (50, 51))
    # at 10 % the threshold is 0.89: exceeded by 0.90 to 0.99, which are ten of a hundred
    assert searched.threshold(0.1) == pytest.approx(0.89)
    assert (non_mated["score"] > searched.threshold(0.1)).mean() == pytest.approx(0.1)
    assert "needs 1,000 images of strangers; there are 100" in searched.find_fnir(0.01)[0]
    rate, low, high = searched.find_fnir(0.1)
    assert 0 <= low <= rate == 0.75 <= high <= 1
    # 200 pairs of people are asked for at 1 %: 100 strangers against one person enrolled are half of that
    again = pd.concat([non_mated.assign(path=non_mated["path"] + str(each)) for each in range(10)])
    assert (
        OpenSet(mated, again, (1, 1)).find_fnir(0.01)[0] == "not measurable: needs 200 pairs of people; there are 100"
    )
    assert 0 <= OpenSet(mated, again, (2, 3)).find_fnir(0.01)[0] <= 1
    # another draw's search for the same image is no other trial
    twice = pd.concat([non_mated] * 10, ignore_index=True)
    assert "needs 1,000 images of strangers; there are 100" in OpenSet(mated, twice, (50, 51)).find_fnir(0.01)[0]


def test_interval_resamples_people_not_images():
    random = np.random.default_rng(3)
    people = np.repeat(np.arange(20), 50)
    alike = random.random(20)[people]  # a person's images all say the same
    low, high = uncertainty.find_interval(alike, people)
    spread = alike.reshape(20, 50)[:, 0].std(ddof=1) / np.sqrt(20)
    assert (high - low) == pytest.approx(2 * 1.96 * spread, rel=0.15)  # as if there were 20 values, not 1,000
    assert low < alike.mean() < high
    assert uncertainty.find_interval(alike, people) == (low, high)  # seeded
    assert np.isnan(uncertainty.find_interval([1.0, 0.0], [5, 5])).all()  # one person has no spread
    # two people, both right every time, are no certainty: the exact bound for two of two is .158, this one is lower
    low, high = uncertainty.find_interval([1, np.nan, 1], [1, 2, 3])
    assert 0 <= low < 0.025 ** (1 / 2) and high == 1
    low, high = uncertainty.find_interval([0, 0], [1, 2])
    assert low == 0 and 1 - 0.025 ** (1 / 2) < high <= 1


def test_coverage_of_the_interval():
    random, held = np.random.default_rng(4), 0
    for _ in range(100):
        means = random.normal(0.5, 0.2, 40)
        values = np.repeat(means, 5) + random.normal(0, 0.1, 200)
        low, high = uncertainty.find_interval(values, np.repeat(np.arange(40), 5))
        held += low <= 0.5 <= high
    assert 88 <= held <= 99


def test_paired_comparison():
    random = np.random.default_rng(5)
    people = np.repeat(np.arange(30), 10)
    one = random.random(300)
    other = one + 0.1 + random.normal(0, 0.05, 300)
    found, p = uncertainty.compare(one, other, people)
    assert found.mean == pytest.approx(0.1, abs=0.02) and found.low > 0 and p < 0.001
    student = stats.ttest_1samp((other - one).reshape(30, 10).mean(axis=1), 0)  # people have ten queries each
    assert (found.low, found.high) == pytest.approx(tuple(student.confidence_interval(0.95)))
    assert found.p == pytest.approx(student.pvalue, rel=1e-6)
    found, p = uncertainty.compare(one, one, people)
    assert (found.mean, found.low, found.high, p) == (0, 0, 0, 1)
    # two people who differ by the same amount: signs ++, +-, -+, --, so half of all are as extreme
    assert uncertainty.compare([0, 0], [1, 1], [1, 2])[-1] == 0.5


def test_p_values_are_uniform_where_nothing_differs():
    random = np.random.default_rng(6)
    found = [
        uncertainty.compare(np.zeros(60), np.repeat(random.normal(size=20), 3), np.repeat(np.arange(20), 3))[-1]
        for _ in range(60)
    ]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_a_part_of_many_pairs_gives_the_interval_of_all(monkeypatch):
    random, number = np.random.default_rng(0), 100_000
    people = np.repeat(np.arange(80), 60)
    one = random.integers(0, 80, number)
    other = (one + random.integers(1, 80, number)) % 80
    easy = 0.4 * random.normal(size=80)
    alike = [2.5 + easy[people] + random.normal(size=len(people)), (easy[one] + easy[other]) / 2]
    alike[1] = alike[1] + random.normal(size=number)
    subjects = {"query_subject": np.append(people, one), "gallery_subject": np.append(people, other)}
    pairs = pd.DataFrame({**subjects, "score": np.concatenate(alike), "weight": 1.0})
    pairs["genuine"] = np.arange(len(pairs)) < len(people)
    found = verify(pairs)
    whole = verification.find_intervals(pairs, found)
    monkeypatch.setattr(verification, "ENOUGH", 10_000)
    for name, ends in verification.find_intervals(pairs, found).items():
        assert ends == pytest.approx(whole[name], abs=0.006), name
    assert set(whole) == {"eer", "tpr_at_fpr_0.01", "tpr_at_fpr_0.001"}
