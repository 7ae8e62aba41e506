"""Thresholds against a loop over every search and every choice of people enrolled, and against rates that are known."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from clipreid_lib.data.manifest import Manifest
from clipreid_lib.runs import results
from clipreid_lib.scores import calibration, strangers, thresholds, uncertainty, verification
from clipreid_lib.scores.features import Embeddings

WIDTH = 12


def simulate(seed: int, draws: int = 2, **roles: tuple[int, int]) -> tuple[Embeddings, Manifest]:
    """Make people of some roles, each (people, images of each), whose embeddings are at random."""
    random, parts = np.random.default_rng(seed), []
    for role, (people, images) in roles.items():
        person = np.repeat(np.arange(people), images) + 1000 * len(parts)
        parts.append(pd.DataFrame({"role": role, "identity": person, "subject": person}))
    table = pd.concat(parts, ignore_index=True)
    table.insert(0, "dataset", "folder")
    table.insert(1, "protocol", "own")
    table["path"] = [f"{number:05d}.jpg" for number in range(len(table))]
    for draw in range(draws):
        chosen = table.sample(frac=1, random_state=seed + draw).drop_duplicates("identity").index
        table[f"draw_{draw}"] = np.where(table.index.isin(chosen), "gallery", "query")
    distractor = table["role"] == "distractor"
    table.loc[distractor, ["draw_0", "draw_1"][:draws]] = "gallery"
    values = random.normal(size=(len(table), WIDTH))
    return Embeddings(table["path"].tolist(), torch.tensor(values)), Manifest(table.assign(aspect="hand", camera=0))


def list_searches(embeddings: Embeddings, manifest: Manifest, role: str) -> list[tuple[int, list[float]]]:
    """Return, for every query of every draw, its person and the cosine to each other person of its role."""
    unit = {
        path: value / np.linalg.norm(value)
        for path, value in zip(embeddings.paths, embeddings.values.numpy(), strict=True)
    }
    found = []
    for draw in range(manifest.draws):
        part = manifest.images[manifest.images["role"] == role]
        shown = part[part[f"draw_{draw}"] == "gallery"]
        for _, query in part[part[f"draw_{draw}"] == "query"].iterrows():
            others = shown[shown["identity"] != query["identity"]]["path"]
            found.append((query["identity"], [float(unit[query["path"]] @ unit[other]) for other in others]))
    return found


def test_thresholds_against_a_loop_over_all_searches_and_all_choices_of_people():
    embeddings, manifest = simulate(0, validation=(5, 24), test=(9, 4), distractor=(6, 1))
    found = strangers.learn(embeddings, embeddings, manifest)
    assert (found["people"], found["persons"], found["enrolled"], found["why"]) == ("validation", 5, 4, "")
    assert found["found_on"] == {"persons": 9, "enrolled": 4}
    rate = found["rates"][0]
    best = [max(scores) for _, scores in list_searches(embeddings, manifest, "validation")]
    allowed = min(each for each in best if np.mean([other > each for other in best]) <= 0.1)
    assert rate["fpir"] == 0.1 and rate["threshold"] == pytest.approx(allowed, abs=1e-6)
    held = manifest.validation
    asked = int((held[["draw_0", "draw_1"]] == "query").any(axis=1).sum())
    assert 115 <= asked == rate["searches"]
    people, exceeded = [], []
    for person, scores in list_searches(embeddings, manifest, "test"):
        choices = [max(choice) > rate["threshold"] for choice in itertools.combinations(scores, 4)]
        people.append(person)
        exceeded.append(np.mean(choices))
    assert len(choices) == 70 and 0 < np.mean(exceeded) < 1
    assert rate["found"] == pytest.approx(np.mean(exceeded), abs=1e-9)
    assert rate["interval"] == pytest.approx(uncertainty.find_interval(exceeded, people), abs=1e-9)
    assert [each["threshold"] for each in found["rates"][1:]] == 4 * [None]
    assert found["rates"][1]["why"] == f"not measurable: needs 334 images of strangers; there are {asked}"


def test_without_validation_people_they_are_of_the_test_people_and_say_so():
    embeddings, manifest = simulate(1, test=(30, 12), validation=(3, 9))
    found = strangers.learn(embeddings, None, manifest)
    best = np.array([max(scores) for _, scores in list_searches(embeddings, manifest, "test")])
    assert found["people"] == "test" and found["found_on"] == {"persons": 30, "enrolled": 29}
    for rate in found["rates"][:2]:
        assert rate["found"] == pytest.approx(np.mean(best > rate["threshold"] + 1e-7))
        assert rate["fpir"] - 1 / 300 < rate["found"] <= rate["fpir"] + 1e-9
    assert "30 test people themselves" in thresholds.describe(found)
    # validation people who support no rate are passed over, in words
    few = strangers.learn(embeddings, embeddings, manifest)
    assert few["people"] == "test" and few["rates"] == found["rates"]
    assert few["why"] == "not measurable: needs 100 images of strangers; there are 27" and few[
        "why"
    ] in thresholds.describe(few)


def test_the_true_rate_of_other_people_is_the_one_promised():
    # Strangers are at random: the cosine of two directions in D dimensions is a symmetric beta of (D - 1) / 2.
    embeddings, manifest = simulate(2, draws=10, validation=(60, 20), test=(200, 8))
    found = strangers.learn(embeddings, embeddings, manifest)
    assert (found["people"], found["enrolled"], found["found_on"]["enrolled"]) == ("validation", 59, 59)

    def true_rate(threshold: float, enrolled: int) -> float:
        return 1 - stats.beta.cdf((1 + threshold) / 2, (WIDTH - 1) / 2, (WIDTH - 1) / 2) ** enrolled

    for rate in found["rates"][:3]:
        truth = true_rate(rate["threshold"], 59)
        assert truth == pytest.approx(rate["fpir"], rel=0.2)
        low, high = rate["interval"]
        assert low <= truth <= high and rate["found"] == pytest.approx(truth, rel=0.2)
        assert 2 * truth < true_rate(rate["threshold"], 4 * 59) <= 4 * truth  # "up to N/n times as many"
    assert [rate["threshold"] is None for rate in found["rates"]] == [False] * 3 + [True] * 2
    assert (
        "hold for 59 people enrolled with one photograph each; with N people, expect up to N/59"
        in thresholds.describe(found)
    )


def test_several_gallery_images_of_a_person_are_one_person_enrolled():
    embeddings, manifest = simulate(3, draws=1, validation=(6, 30), test=(8, 6))
    images = manifest.images.copy()
    test = images["role"] == "test"
    images.loc[test, "draw_0"] = np.where(np.arange(test.sum()) % 2, "query", "gallery")  # three images each
    found = strangers.learn(embeddings, embeddings, Manifest(images))
    rate, exceeded = found["rates"][0], []
    shown = images[test & (images["draw_0"] == "gallery")].groupby("identity")["path"].apply(list)
    unit = dict(zip(embeddings.paths, torch.nn.functional.normalize(embeddings.values), strict=True))
    for _, query in images[test & (images["draw_0"] == "query")].iterrows():
        best = [
            max(float(unit[query["path"]] @ unit[p]) for p in shown[o]) for o in set(shown.index) - {query["identity"]}
        ]
        exceeded.append(np.mean([max(some) > rate["threshold"] for some in itertools.combinations(best, 5)]))
    assert found["enrolled"] == 5 and rate["found"] == pytest.approx(np.mean(exceeded), abs=1e-9)


def test_too_few_searches_are_refused_and_the_file_is_read_back(tmp_path):
    embeddings, manifest = simulate(4, draws=1, test=(8, 4))
    found = strangers.learn(embeddings, None, manifest)
    for rate in found["rates"]:
        assert (rate["threshold"], rate["found"], rate["interval"], rate["searches"]) == (None, None, None, 24)
        assert rate["why"].endswith("; there are 24")
    assert thresholds.tabulate(found).loc["10", "threshold (cosine)"] == found["rates"][0]["why"]
    assert thresholds.read_thresholds(tmp_path) is None
    assert thresholds.describe(found) == "No threshold: too few searches for strangers among 8 test people."
    ratio = dict.fromkeys(("people", "pairs", "slope", "intercept", "cllr", "cllr_min", "cllr_raw"))
    whole = found | {"checkpoint": "sha", "calibration": ratio}
    for text, read in (
        (json.dumps(whole), whole),
        (json.dumps(whole)[:-9], None),
        ("{}", None),
        (json.dumps(whole | {"rates": [0.1]}), None),
        (json.dumps(whole | {"calibration": {}}), None),
        (json.dumps({name: whole[name] for name in whole if name != "people"}), None),
    ):
        (tmp_path / "thresholds.json").write_text(text)
        assert thresholds.read_thresholds(tmp_path) == read


def test_a_run_keeps_them_by_its_checkpoint(tmp_path):
    embeddings, manifest = simulate(5, validation=(12, 12), test=(20, 6), distractor=(8, 1))
    encoder = SimpleNamespace(sha="sha", embed=lambda images: embeddings)
    run = SimpleNamespace(manifest=manifest, folder=tmp_path, params=SimpleNamespace(variant="frozen"))
    pairs = verification.list_pairs(embeddings, manifest)
    wrote = results.write_thresholds(run, SimpleNamespace(pairs=pairs), encoder, {"image": embeddings})
    assert thresholds.read_thresholds(tmp_path) == wrote and wrote["checkpoint"] == "sha"
    assert wrote["people"] == wrote["calibration"]["people"] == "validation"
    counts = wrote["calibration"]["pairs"]
    assert counts == {"genuine": 12 * 66, "impostor": 66 * 144}
    images = manifest.images.drop(columns=["draw_0", "draw_1"])
    alone = Manifest(images[images["role"] == "test"].assign(draw_0=manifest.test["draw_0"]))  # no distractors there
    tested = calibration.learn(verification.list_pairs(embeddings, alone), None)
    assert wrote["calibration"]["cllr_min"] == pytest.approx(tested["cllr_min"])
    # without validation people the file says whose thresholds they are
    images = manifest.images[manifest.images["role"] != "validation"]
    run.manifest = Manifest(images)
    wrote = results.write_thresholds(run, SimpleNamespace(pairs=pairs), encoder, {"image": embeddings})
    assert wrote["people"] == wrote["calibration"]["people"] == "test" and wrote["calibration"] == tested
