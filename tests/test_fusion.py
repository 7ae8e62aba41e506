"""Fusion: known separations against their closed form, sums and joined images by hand, every refusal, the whole way."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from clipreid_lib.__main__ import main
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_json
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.data.protocols import name_draw
from clipreid_lib.pages import fused_page, score_figures
from clipreid_lib.params import check
from clipreid_lib.runs import external, fuse, results
from clipreid_lib.runs.embeddings import embed_own
from clipreid_lib.runs.loading import load_trained_encoder
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import calibration, fusion, leaderboard
from clipreid_lib.scores.assessment import assess
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.finished_run import FinishedRun
from clipreid_lib.scores.fusion import Member, Questions
from clipreid_lib.scores.verification import list_pairs

HOSTILE = "<script>alert(1)<"  # a file's name can hold no slash
SCORES = ("rank1", "rank5", "rank10", "map", "eer", "eer_low", "map_high", "tpr_at_fpr_0.01", "fnir_at_fpir_0.1", "cmc")


def make_manifest(people: dict[int, int], aspect: str, draws: int = 2, train: tuple = (), **columns) -> Manifest:
    """A test of protocol common: people with so many images; draws take the first and the last."""
    rows = []
    for person, images in people.items():
        role = "train" if person in train else "test" if images > 1 else "unpaired"
        for number in range(images):
            drawn = ["gallery" if number == (0, images - 1)[draw % 2] else "query" for draw in range(draws)]
            drawn = drawn if role == "test" else [""] * draws
            rows.append([f"{aspect}/{person}_{number}.jpg", person, role, *drawn])
    table = pd.DataFrame(rows, columns=["path", "identity", "role", *(f"draw_{draw}" for draw in range(draws))])
    facts = {"dataset": "folder", "protocol": "common", "aspect": aspect, "subject": table["identity"]}
    return Manifest(table.assign(**facts | columns)).check()


def make_member(people: dict[int, int], aspect: str, name: str = "", seed: int = 0, seen: tuple = (), **more) -> Member:
    return Member(name or aspect, aspect, make_manifest(people, aspect, **more), seed, set(seen))


def embed_randomly(manifest: Manifest, seed: int, width: int = 12, apart: float = 1.0) -> Embeddings:
    random, images = np.random.default_rng(seed), manifest.images
    centres = random.normal(size=(1 + images["identity"].max(), width))
    values = apart * centres[images["identity"]] + random.normal(size=(len(images), width))
    return Embeddings(images["path"].tolist(), torch.from_numpy(values).float())


def make_cosines(manifest: Manifest, apart: float, seed: int) -> Embeddings:
    """Embed so that cosines are normal, genuine ones ``apart`` deviations above the others: a root of their matrix."""
    person, deviation = manifest.images["identity"].to_numpy(), 0.3 / np.sqrt(len(manifest.images))
    noise = np.triu(np.random.default_rng(seed).normal(size=(len(person), len(person))), 1)
    cosine = deviation * (noise + noise.T + apart * np.equal.outer(person, person))
    np.fill_diagonal(cosine, 1)
    return Embeddings(manifest.images["path"].tolist(), torch.from_numpy(np.linalg.cholesky(cosine)))


def test_independent_scores_err_as_the_closed_form_says():
    questions = fusion.ask_together(2 * [make_member(dict.fromkeys(range(24), 24), "palm")])
    first, second = 2.0, 0.8  # deviations between genuine and impostor scores
    sides = [make_cosines(questions.manifest, apart, seed) for seed, apart in enumerate((first, second))]
    lines = [calibration.fit(list_pairs(side, questions.manifest)) for side in sides]
    added, mean = fusion.fuse(sides, lines, questions).values()

    def err(apart: float) -> float:
        return stats.norm.cdf(-apart / 2)

    for side, line, apart in zip(sides, lines, (first, second), strict=True):
        assert fusion.measure(side, questions.manifest, line).flat["eer"] == pytest.approx(err(apart), abs=0.006)
    assert added.flat["eer"] == pytest.approx(err(np.hypot(first, second)), abs=0.006)
    # With equal weights the means are first + second apart, and the deviation is the root of 2.
    assert mean.flat["eer"] == pytest.approx(err((first + second) / np.sqrt(2)), abs=0.006)
    assert added.flat["eer"] < mean.flat["eer"]
    # The sum of independent LLRs is the LLR: no other rising function costs less, and a part of it costs more.
    assert added.flat["cllr"] == pytest.approx(added.flat["cllr_min"], abs=0.01)
    assert mean.flat["cllr"] == "no LLR" and mean.flat["cllr_min"] > added.flat["cllr_min"]


def test_two_equal_scores_are_over_confident_and_cllr_tells():
    questions = fusion.ask_together(2 * [make_member(dict.fromkeys(range(20), 10), "palm")])
    side = make_cosines(questions.manifest, 1.0, 0)
    line = calibration.fit(list_pairs(side, questions.manifest))
    alone = fusion.measure(side, questions.manifest, line)
    added = fusion.fuse([side, side], [line, line], questions)["sum of LLRs"]
    assert added.flat["rank1"] == pytest.approx(alone.flat["rank1"], abs=1e-6)
    assert added.flat["cllr"] > alone.flat["cllr"] + 0.02
    assert added.flat["cllr_min"] == pytest.approx(alone.flat["cllr_min"], abs=1e-4)


def test_the_joined_embedding_ranks_as_the_sum_by_hand():
    questions = fusion.ask_together([make_member(dict.fromkeys(range(12), 5), "palm")])
    sides = [embed_randomly(questions.manifest, seed, width, 3.0) for seed, width in enumerate((7, 12, 5))]
    lines = [(9.0, -4.0), (2.5, 0.5), (14.0, -7.5)]
    by_hand = 0
    for side, (slope, intercept) in zip(sides, lines, strict=True):
        unit = side.values.double() / side.values.double().norm(dim=1, keepdim=True)
        by_hand = by_hand + slope * (unit @ unit.T).numpy() + intercept
    added = fusion.fuse(sides, lines, questions)["sum of LLRs"]
    place = {path: number for number, path in enumerate(questions.manifest.images["path"])}
    rows, columns = (added.pairs[side].astype(str).map(place) for side in ("query", "gallery"))
    truth = by_hand[rows, columns]
    assert added.find_ratio(added.pairs["score"]).to_numpy() == pytest.approx(truth, abs=1e-5)
    assert (np.argsort(added.pairs["score"].to_numpy()) == np.argsort(truth)).all()
    assert added.embeddings.values.norm(dim=1).numpy() == pytest.approx(1)


def test_a_zero_embedding_has_nothing_to_fuse():
    questions = fusion.ask_together([make_member({1: 2, 2: 2}, "palm")])
    side = embed_randomly(questions.manifest, 0)
    side.values[2] = 0
    with pytest.raises(UserError, match=r"palm/2_0.jpg: its embedding is zero"):
        fusion.fuse([side, side], [(1.0, 0.0)] * 2, questions)


def choose_first(paths: list[str], name: str) -> list[str]:
    """Order paths by the first 63 bits of their SHA-256 with a name, as protocols do."""
    return sorted(paths, key=lambda path: hashlib.sha256(f"{name}|{path}".encode()).digest()[:8])


def test_images_are_joined_as_by_hand():
    one = make_member({1: 3, 2: 2, 3: 2, 4: 2, 6: 2}, "palm", seed=5)
    other = make_member({1: 2, 2: 4, 3: 1, 5: 3, 6: 2}, "back", seed=5)
    made = fusion.ask_together([one, other])
    # 3 has one image of the back; 4 and 5 are in one aspect alone; 1 and 2 have an image and two more in one.
    assert made.left_out == {"missing": 2, "few": 1, "images": 3}
    table = made.manifest.images
    wanted = []
    for person, palms, backs in ((1, 3, 2), (2, 2, 4), (6, 2, 2)):
        sides = [[f"{a}/{person}_{n}.jpg" for n in range(number)] for a, number in (("palm", palms), ("back", backs))]
        palm, back = (choose_first(side, "5|fused") for side in sides)
        wanted += [f"{palm[0]} + {back[0]}", f"{palm[1]} + {back[1]}"]
    assert table["path"].tolist() == wanted and table["identity"].tolist() == [1, 1, 2, 2, 6, 6]
    assert set(table["role"]) == {"test"} and set(table["aspect"]) == {"palm+back"} and made.manifest.draws == 2
    for draw in range(2):
        for _, mine in table.groupby("identity"):
            first, *rest = choose_first(mine["path"].tolist(), name_draw(5, draw))
            drawn = mine.set_index("path")[f"draw_{draw}"]
            assert drawn[first] == "gallery" and set(drawn[rest]) == {"query"}
    images = made.parts.to_numpy().ravel().tolist()
    assert len(images) == len(set(images)) == 12
    assert made.parts.loc[wanted[0]].tolist() == wanted[0].split(" + ")


def test_a_side_takes_the_image_of_its_aspect():
    members = [make_member({1: 2, 2: 3}, aspect) for aspect in ("palm", "back")]
    made = fusion.ask_together(members)
    back = embed_randomly(members[1].manifest, 3)
    side = made.take(back, "back")
    assert side.paths == made.manifest.images["path"].tolist()
    for path, values in zip(side.paths, side.values, strict=True):
        assert torch.equal(values, back.values[back.paths.index(path.split(" + ")[1])])


def test_two_encoders_of_each_aspect_share_its_image():
    people = {1: 3, 2: 3, 3: 2}
    members = [make_member(people, aspect, name) for aspect in ("palm", "back") for name in ("a", "b")]
    assert fusion.ask_together(members).parts.equals(fusion.ask_together(members[::2]).parts)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"draws": 3}, "back: draws: 3, but 2 in palm"),
        ({"seed": 1}, "back: draw_seed: 1, but 0 in palm"),
        ({"dataset": "hd"}, "back: dataset: hd, but folder in palm"),
        ({"protocol": "own"}, "back: protocol: own; several aspects are fused under common alone: --set protocol=comm"),
        ({"aspect": "palm"}, "other: asks other questions of palm than palm; protocol, draw_seed and draws must be"),
        ({"seen": (2, 9)}, "back: has trained on 1 of the people that palm tests, the first is 2; fuse runs of one"),
        ({"people": {1: 1, 2: 3, 7: 2}}, "fewer than two people are left to be told apart; 2 people are missing in an"),
    ],
)
def test_what_cannot_be_asked_together_is_refused_in_one_line(other, message):
    given = {"people": {1: 2, 2: 2}, "aspect": "back", "name": "other" if "aspect" in other else ""} | other
    with pytest.raises(UserError) as told:
        fusion.ask_together([make_member({1: 3, 2: 2, 3: 2}, "palm"), make_member(**given)])
    assert message in str(told.value) and "\n" not in str(told.value)


def test_a_run_of_several_aspects_is_fused_with_runs_of_the_same_alone():
    several = make_member({1: 2, 2: 2}, "palm+back")
    mixed = several.manifest.images.assign(aspect=["palm", "back"] * 2)
    several = Member("both", "palm+back", Manifest(mixed), 0, set())
    assert fusion.ask_together(2 * [several]).manifest is several.manifest
    with pytest.raises(UserError, match="both: aspect: palm.back is of several aspects itself"):
        fusion.ask_together([several, make_member({1: 2, 2: 2}, "palm")])


def evaluate(run: Run) -> Run:
    """Write what notebook 04 writes and fusion reads: scores, and the line to the LLR."""
    encoder = load_trained_encoder(run)
    own = {"image": embed_own(run, encoder, run.manifest.in_tests)}
    assessed = assess(own, run.manifest, run.params)
    results.write_metrics(run, {run.params.protocol: assessed}, encoder, {}, {})
    results.write_thresholds(run, assessed, encoder, own)
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Runs on photographs of noise, PERSON/ASPECT/IMAGE with hostile names: two encoders on each of two aspects."""
    place = tmp_path_factory.mktemp("fusion")
    random, rows = np.random.default_rng(0), []
    for person in range(28):
        centre = random.normal(size=(2, 8))
        for side, aspect in enumerate(("back", "palm")):
            for number in range(5 + person % 2):
                path = Path(f"{HOSTILE} {person:02d}, b>") / aspect / f"{HOSTILE},{number}.png"
                (place / "photos" / path).parent.mkdir(parents=True, exist_ok=True)
                pixels = random.integers(0, 255, (18 + 6 * side, 24, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / "photos" / path)
                rows.append([path.as_posix(), *(centre[side] + random.normal(size=8)), *random.normal(size=3)])
    runs = {}
    data = {"dataset": "folder", "data_root": place / "photos", "protocol": "common", "draws": 3, "experiment": "noise"}
    data["outputs_root"] = place / "out"
    for name, columns in (("one", slice(1, 9)), ("two", slice(4, 12))):
        features = np.array([row[columns] for row in rows], np.float32)
        features += random.normal(size=features.shape)
        np.savez(place / f"{name}.npz", path=[row[0] for row in rows], embedding=features)
        given = [f"{key}={value}" for key, value in data.items()]
        params, _ = external.prepare(str(place / f"{name}.npz"), name, [*given, "aspect=[back,palm]"])
        runs |= {(name, each.aspect): evaluate(Run.open(each)) for each in params}
    return place / "out", runs


def call(*arguments: object) -> list[str]:
    return ["fuse", *map(str, arguments)]


def test_runs_of_two_aspects_are_fused_from_the_command_line(finished, capsys):
    out, runs = finished
    folders = [runs["one", aspect].folder for aspect in ("palm", "back")]
    assert main(call(*folders)) == 0
    said = capsys.readouterr().out
    (folder,) = (out / "fused").glob("back+palm-external-*")
    assert said.splitlines()[-1] == (folder / "report.html").as_uri()
    made = json.loads((folder / "metrics.json").read_text())
    rows = made["rows"]
    assert list(rows) == ["sum of LLRs", "mean of cosines", "external, back", "external, palm"]
    assert all(row in said for row in rows) and "learned from the test people themselves" in said
    assert made["rank1"] == rows["sum of LLRs"]["rank1"] > max(rows["external, back"]["rank1"], 0.2)
    assert made["identities"] == 14 and made["left_out"] == {"missing": 0, "few": 0, "images": 0}
    gains = {row: made["rank1"] - scores["rank1"] for row, scores in rows.items()}
    for row in [*rows][1:]:
        assert f"{100 * gains[row]:+.1f} [" in next(line for line in said.splitlines() if line.startswith(row))
    asked = pd.read_csv(folder / "per_query.csv")
    mean = asked.groupby("row")[["rank1", "weight"]].apply(
        lambda each: np.average(each["rank1"], weights=each["weight"])
    )
    assert mean.to_dict() == pytest.approx({row: scores["rank1"] for row, scores in rows.items()})
    assert asked["path"].str.contains(" + ", regex=False).all()
    assert {path.name for path in (folder / "figures").iterdir()} == {"cmc.png", "scores.png", "questions.png"}


def test_each_run_alone_has_the_numbers_of_its_own_metrics(finished):
    out, runs = finished
    fuse.fuse([str(runs[name, "palm"].folder) for name in ("one", "two")], "encoders")
    made = json.loads((out / "fused" / "encoders" / "metrics.json").read_text())
    assert made["compared_sha"] == FinishedRun.open(runs["one", "palm"].folder).own["compared_sha"]
    assert list(made["rows"])[2:] == ["external, one", "external, two"] and made["left_out"] == {}
    for name in ("one", "two"):
        run, alone = FinishedRun.open(runs[name, "palm"].folder), made["rows"][f"external, {name}"]
        assert {key: alone[key] for key in SCORES} == {key: run.own[key] for key in SCORES}
        learned = run.read_record("thresholds.json")["calibration"]
        assert [alone[key] for key in ("cllr", "cllr_min")] == [learned[key] for key in ("cllr", "cllr_min")]


@pytest.mark.heavy
def test_a_network_is_fused_with_features_of_another_program(finished):
    out, runs = finished
    told = runs["one", "back"].params.model_dump(include={"dataset", "data_root", "protocol", "draws", "outputs_root"})
    network = evaluate(Run.open(check.validate_params(told | {"aspect": "palm", "variant": "frozen", "device": "cpu"})))
    try:
        fuse.fuse([str(run.folder) for run in (runs["one", "back"], network, runs["two", "palm"])], "mixture")
        made = json.loads((out / "fused" / "mixture" / "metrics.json").read_text())
        assert [(each["variant"], each["aspect"]) for each in made["fused"]] == [
            ("external", "back"),
            ("external", "palm"),
            ("frozen", "palm"),
        ]
        assert made["model"] == "one+two+embedded" and len(made["rows"]) == 5
    finally:
        shutil.rmtree(network.folder)


@pytest.mark.heavy
def test_the_result_depends_on_neither_order_nor_time_and_of_others_on_nothing(finished, capsys):
    out, runs = finished
    every = [str(run.folder) for run in runs.values()]
    fuse.fuse(every, "all")
    folder = out / "fused" / "all"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "metrics.json").unlink()  # as if it had been killed before the end
    fuse.fuse(every[::-1], "all")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert len(json.loads(before[folder / "metrics.json"])["rows"]) == 6
    assert main(call(*every[:2], "--as", "all")) == 2
    assert "holds the result of other runs; give another name, or delete it" in capsys.readouterr().err
    (folder / "metrics.json").write_text("damaged")
    assert main(call(*every, "--as", "all")) == 2  # whose it is, nobody knows
    assert (folder / "metrics.json").read_text() == "damaged"
    (folder / "metrics.json").unlink()
    capsys.readouterr()


def test_names_from_data_stay_text_on_the_page_and_no_place_is_told(finished):
    out, runs = finished
    fuse.fuse([str(runs["one", aspect].folder) for aspect in ("back", "palm")], "hostile+names")
    page = (out / "fused" / "hostile+names" / "report.html").read_text()
    assert "<script" not in page and str(out) not in page
    assert page.count("<h2>") == 5 and "Not to be shown" not in page
    assert "--as hostile+names" in page and "the best single run (external, " in page


def test_the_questions_shown_are_those_on_which_sum_and_best_run_differ(finished):
    _, runs = finished
    opened = fuse.open_runs([str(runs["one", aspect].folder) for aspect in ("back", "palm")])
    questions = fusion.ask_together([fuse._describe(each) for each in opened])
    sides = [fuse.embed(each, questions) for each in opened]
    lines = [(each.learned["slope"], each.learned["intercept"]) for each in opened]
    rows = fusion.fuse(sides, lines, questions)
    rows |= {name: fusion.measure(s, questions.manifest, li) for name, s, li in zip("ab", sides, lines, strict=True)}
    page = fused_page.Page("x", [each.record for each in opened], questions, rows, Path())
    best = max("ab", key=lambda row: rows[row].own.summary()["rank1"])
    assert page.best == best
    sums, alone = (
        {query: hit for query, hit in zip(ranking.query["path"], ranking.first_hit(), strict=True)}
        for ranking in page.rankings
    )
    paths = page.rankings[0].query["path"]
    gained, lost = ([paths.iloc[q] for q in kind] for kind in page.apart)
    assert set(gained) == {path for path in sums if sums[path] == 1 < alone[path]} and len(gained) > 3
    assert set(lost) == {path for path in sums if alone[path] == 1 < sums[path]}
    assert [alone[path] for path in gained] == sorted((alone[path] for path in gained), reverse=True)


def test_photographs_stand_side_by_side_and_a_lost_one_says_so(tmp_path):
    for name, size in (("high.png", (30, 60)), ("flat.png", (60, 30))):
        Image.new("RGB", size, "red").save(tmp_path / name)
    high, flat = (tmp_path / name for name in ("high.png", "flat.png"))
    for paths, columns in (([high, high], 2), ([flat, flat], 1), ([high, tmp_path / "gone.png"], 2)):
        made = np.asarray(fused_page._put_together(paths).convert("RGB"))
        red = (made[..., 0] > 200) & (made[..., 1] < 60)
        halves = np.array_split(red, 2, axis=1 if columns == 2 else 0)
        assert halves[0].any() and halves[1].any() == (paths[1] in (high, flat))
        assert max(made.shape) == 256


def test_the_axis_of_scores_says_what_they_are():
    manifest = make_manifest({1: 3, 2: 3}, "palm")
    pairs = list_pairs(embed_randomly(manifest, 0), manifest)
    assert score_figures.draw_score_distributions(pairs, "sum of LLRs").axes[0].get_xlabel() == "sum of LLRs"
    assert score_figures.draw_score_distributions(pairs).axes[0].get_xlabel() == "cosine similarity"


@pytest.mark.heavy
def test_the_leaderboard_lists_it_and_no_other_command_takes_it_for_a_run(finished, capsys):
    out, runs = finished
    fuse.fuse([str(runs["one", aspect].folder) for aspect in ("back", "palm")], "listed")
    text = (out / "leaderboard.csv").read_text()
    board = pd.read_csv(out / "leaderboard.csv").set_index("run")
    made, mine = json.loads((out / "fused" / "listed" / "metrics.json").read_text()), board.loc["listed"]
    assert (mine["variant"], mine["aspect"], mine["protocol"]) == ("fused", "back+palm", "common")
    assert mine[["rank1", "map_low"]].tolist() == pytest.approx([made["rank1"], made["map_low"]])
    assert (board["variant"] != "fused").sum() == 4 and ",0.0," not in text  # seeds are whole numbers
    count = "4 runs: 4 waiting"
    for arguments, said in (
        (["status", "--outputs", str(out)], count),
        (["compare", "--outputs", str(out)], "external, two over external, one"),
        (["clean", "--outputs", str(out)], "could go"),
        (["report", "--outputs", str(out)], "noise.html"),
    ):
        assert main(arguments) == 0
        told = capsys.readouterr().out
        assert said in told and "listed" not in told, arguments
    assert main(["across", "--outputs", str(out)]) == 2
    assert "no evaluated run of protocol common" in capsys.readouterr().err  # features alone
    for verb in ("report", "across", "fuse"):
        assert main([verb, str(out / "fused" / "listed"), *[str(runs["one", "palm"].folder)] * (verb == "fuse")]) == 2
        assert "is no run's folder" in capsys.readouterr().err


def test_seeds_stay_whole_numbers_beside_a_fusion_of_several():
    runs = [
        {"protocols": {"common": {"over": "all galleries"}}, "seed": seed, "run": str(seed)} for seed in (0, 1, None)
    ]
    board = leaderboard.list_rows(*runs)
    lines = board[["seed", "run"]].to_csv(index=False).splitlines()
    assert lines == ["seed,run", "0,0", "1,1", ",None"]


def test_mistakes_of_the_command_line_cost_one_line(finished, tmp_path, capsys):
    out, runs = finished
    one, two = (runs["one", aspect].folder for aspect in ("back", "palm"))
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "params.yaml").write_bytes((one / "params.yaml").read_bytes())
    for given, message in (
        ([one], "1 run given; give two or more"),
        ([one, one], f"{one.name} is given twice"),
        ([one, out / "nowhere"], "is no run's folder"),
        ([one, bare], f"{bare}: has no scores to report (metrics.json is not there)"),
        ([one, two, "--as", "a/b"], "--as a/b: write at most 80 letters"),
    ):
        assert main(call(*given)) == 2
        err = capsys.readouterr().err
        assert message in err and err.count("\n") == 1
    assert not (out / "fused" / "a").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "thresholds.json: is not there or damaged; `clipreid run --force 04` with the run's params writes it"),
        ({"checkpoint": "another"}, "thresholds.json: checkpoint: metrics.json is of another"),
        (
            {"slope": None, "why": "not measurable: 9 of 10 people"},
            "calibration: not measurable: 9 of 10 people; fusion",
        ),
        ({"slope": 0.0}, "calibration: slope: 0; a higher cosine must speak for one person, so it must be above 0"),
        ({"slope": -2.5}, "calibration: slope: -2.5; "),
    ],
)
def test_a_run_without_a_line_that_rises_is_refused(finished, change, message, capsys):
    _, runs = finished
    path = runs["two", "back"].folder / "thresholds.json"
    before = path.read_text()
    try:
        learned = json.loads(before)
        path.unlink()
        if change is not None:
            (learned if "checkpoint" in change else learned["calibration"]).update(change)
            write_json(path, learned)
        assert main(call(runs["one", "back"].folder, runs["two", "back"].folder)) == 2
    finally:
        path.write_text(before)
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_an_encoder_that_is_not_the_one_scored_is_refused(finished):
    _, runs = finished
    opened, *_ = fuse.open_runs([str(run.folder) for run in runs.values()])
    metrics = opened.finished.metrics | {"checkpoint_sha": "another"}
    changed = fuse.Opened(opened.run, FinishedRun(opened.finished.folder, opened.finished.params, metrics), {})
    questions = Questions(opened.run.manifest, pd.DataFrame({opened.run.params.aspect: []}))
    with pytest.raises(UserError, match="its encoder is another than metrics.json is of"):
        fuse.embed(changed, questions)


def test_other_data_are_refused(finished, tmp_path, capsys):
    out, runs = finished
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in ("metrics.json", "thresholds.json", "manifest.csv"):
        (folder / name).write_bytes((runs["two", "back"].folder / name).read_bytes())
    text = (runs["two", "back"].folder / "params.yaml").read_text()
    (folder / "params.yaml").write_text(text.replace(str(out.parent / "photos"), str(tmp_path / "others")))
    assert main(call(runs["one", "back"].folder, folder)) == 2
    err = capsys.readouterr().err
    assert "data_root: " in err and "fuse runs on the same data" in err and err.count("\n") == 1


def test_validation_people_are_named_where_they_taught(finished):
    _, runs = finished
    opened = fuse.open_runs([str(runs["one", aspect].folder) for aspect in ("back", "palm")])
    questions = fusion.ask_together([fuse._describe(each) for each in opened])
    sides, line = [fuse.embed(each, questions) for each in opened], (1.0, 0.0)
    rows = fusion.fuse(sides, [line, line], questions) | {"a": fusion.measure(sides[0], questions.manifest, line)}
    rows["b"] = rows["a"]
    for people, said in (
        (("validation", "validation"), "were learned from validation people, none of whom is asked about here."),
        (("test", "test"), "The lines to the LLR were learned from the test people themselves"),
        (("validation", "test"), "asked about here. Of b it was learned from the test people themselves"),
    ):
        records = [each.record | {"learned_from": whose} for each, whose in zip(opened, people, strict=True)]
        page = fused_page.Page("x", records, questions, rows, Path())
        assert said in " ".join(fused_page.explain(page))


def test_fewer_than_ten_people_have_no_cllr():
    questions = fusion.ask_together([make_member(dict.fromkeys(range(9), 4), "palm")])
    found = fusion.measure(embed_randomly(questions.manifest, 0), questions.manifest, (1.0, 0.0)).flat
    assert found["cllr"] == found["cllr_min"] == "not measurable: needs 10 people with genuine pairs; there are 9"
