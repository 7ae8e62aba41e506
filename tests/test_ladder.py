"""The ladder's questions, on a terminal and on the page of several runs: every pair is asked, mistakes are one line.

Runs are folders as notebook 04 leaves them, with answers made up here.
"""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from scipy import stats

from clipreid_lib.__main__ import main
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_json, write_yaml
from clipreid_lib.pages import report_runs
from clipreid_lib.pages.report import write_several
from clipreid_lib.params import check
from clipreid_lib.scores import comparison, ladder
from clipreid_lib.scores.comparison import compare_methods
from clipreid_lib.scores.finished_run import FinishedRun, find_runs, number_photographs

PEOPLE, RIGHT = 12, {"frozen": 0.4, "classifier": 0.5, "clipid_no_text": 0.6, "clipid": 0.7, "tip_adapter": 0.45}
RUNG = {name: place for place, name in enumerate(("frozen", "classifier", "clipid_no_text", "clipid"))}


def answer(variant: str, seed: int) -> pd.DataFrame:
    """Made-up answers of twelve people with two to five queries each, every image asking in its share of galleries."""
    sizes = 2 + np.arange(PEOPLE) % 4
    random = np.random.default_rng([len(variant), seed])
    table = pd.DataFrame({"identity": np.repeat(np.arange(PEOPLE), sizes)})
    easy = np.random.default_rng(0).normal(0, 0.1, PEOPLE)[table["identity"]]
    score = np.clip(RIGHT[variant] + easy + random.normal(0, 0.1, len(table)), 0, 1)
    table.insert(0, "path", [f"{place}.jpg" for place in range(len(table))])
    table["weight"] = 1 - 1 / np.repeat(sizes, sizes)
    return table.assign(
        **dict.fromkeys(("rank1", "rank5", "rank10"), score), map=score / 2, map_trapezoid=score, minp=0.1
    )


@pytest.fixture
def make(tmp_path):
    """Leave a run's folder as notebook 04 would, and return it."""

    def write(variant: str, seed: int, sha: str = "same", over: str | None = "all galleries", **params):
        values = {"variant": variant, "seed": seed, **params}
        mine = check.validate_params(values).resolved()
        folder = tmp_path / "runs" / f"{variant}-{seed}-{sha}{''.join(map(str, params.values()))}"
        write_yaml(folder / "params.yaml", mine.model_dump())
        table = answer(variant, seed)
        means = {name: np.average(table[name], weights=table["weight"]) for name in ("rank1", "map")}
        own = means | {"compared_sha": sha, "manifest_sha": "m", "protocol": "own"}
        own |= {"queries": len(table), "gallery": PEOPLE, "cmc": [0.5, 1.0], "rank1_low": 0.1, "rank1_high": 0.9}
        own |= {"map_low": 0.1, "map_high": 0.9} | ({"over": over} if over else {})
        facts = {key: getattr(mine, key) for key in ("dataset", "aspect", "model", "variant", "stage", "seed")}
        write_json(folder / "metrics.json", own | facts | {"protocols": {"own": own}})
        table.assign(protocol="own").to_csv(folder / "per_query.csv", index=False)
        return folder

    return write


@pytest.fixture
def three_seeds(make, tmp_path):
    """Four methods, those that train with three seeds each."""
    for variant in RUNG:
        for seed in range(3) if variant != "frozen" else (0,):
            make(variant, seed)
    return tmp_path


def difference(one: str, other: str, seeds=range(3), score: str = "rank1") -> float:
    """In points, counted here: mean over seeds of the mean over queries."""
    found = []
    for seed in seeds:
        mine, theirs = answer(one, seed), answer(other, seed if other != "frozen" else 0)
        found.append(np.average(mine[score] - theirs[score], weights=mine["weight"]))
    return 100 * float(np.mean(found))


def cell(line: str, name: str) -> str:
    """The first number after a row's name, in a line of the terminal's table without its two counts."""
    return line.removeprefix(name).split()[2]


def said(capsys, *arguments) -> str:
    assert main(["compare", *map(str, arguments)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def refused(capsys, *arguments) -> str:
    assert main(["compare", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("clipreid: ") and err.count("\n") == 1
    return err


# ------------------------------------------------------------------------------------------- what is asked


def test_the_ladders_questions_come_first_and_no_pair_is_dropped(three_seeds):
    asked, rest, apart = ladder.ask(find_runs(sorted((three_seeds / "runs").glob("*"))))
    assert asked.index.tolist() == ["classifier over frozen", "clipid over classifier", "clipid over clipid_no_text"]
    assert apart == []
    pairs = [" over ".join(pair[::-1]) for pair in combinations(RUNG, 2)]
    assert sorted([*asked.index, *rest.index]) == sorted(pairs)
    assert set(asked["seeds"]) == set(rest["seeds"]) == {"3"} and set(asked["people"]) == {str(PEOPLE)}
    for table in (asked, rest):
        for name, row in table.iterrows():
            one, other = name.split(" over ")
            for score, shown in (("rank1", "rank-1"), ("map", "mAP")):
                assert float(row[shown].split()[0]) == pytest.approx(difference(one, other, score=score), abs=0.051)
    # Holm over the rows of one table: the smallest p counts once per row
    p, holm = ([float(each.lstrip("< ")) for each in asked[f"{name} (rank-1)"]] for name in ("p", "Holm"))
    assert holm[int(np.argmin(p))] == pytest.approx(min(1, 3 * min(p)), abs=3e-4)
    assert (np.array(holm) >= p).all() and max(p) > 1e-4


def test_twelve_runs_ask_every_pair_of_methods(make, tmp_path):
    for variant in ("classifier", "clipid_no_text", "clipid"):
        for rate in (1e-3, 1e-4):
            for seed in (0, 1):
                make(variant, seed, encoder_lr=rate)
    asked, rest, apart = ladder.ask(find_runs(sorted((tmp_path / "runs").glob("*"))))
    assert len(asked) + len(rest) == 6 * 5 // 2 and apart == []
    # a question of the ladder is about the variant alone, so the rate is the same on both sides
    rates = [[name.split(", ")[1] for name in row.split(" over ")] for row in asked.index]
    assert len(asked) == 4 and all(one == other for one, other in rates)


def test_pairs_without_a_common_seed_are_told(make, tmp_path):
    for variant, seed in (("frozen", 5), ("classifier", 0), ("clipid_no_text", 0), ("clipid", 1), ("clipid", 2)):
        make(variant, seed)
    asked, rest, apart = ladder.ask(find_runs(sorted((tmp_path / "runs").glob("*"))))
    assert apart == [
        "clipid and classifier have no seed in common.",
        "clipid and clipid_no_text have no seed in common.",
    ]
    assert asked.index.tolist() == ["classifier over frozen"]  # frozen is the same whatever its seed
    assert sorted(rest.index) == ["clipid over frozen", "clipid_no_text over classifier", "clipid_no_text over frozen"]
    assert len(asked) + len(rest) + len(apart) == 4 * 3 // 2
    assert rest.loc["clipid over frozen", "seeds"] == "2" and asked["seeds"].tolist() == ["1"]


def test_runs_of_one_stage_are_methods_of_their_own(make, tmp_path):
    make("frozen", 0)
    make("clipid", 0)
    make("clipid", 0, mode="prompt_learn")
    asked, rest, apart = ladder.ask(find_runs(sorted((tmp_path / "runs").glob("*"))))
    names = {name for row in [*asked.index, *rest.index] for name in row.split(" over ")}
    assert names == {"frozen", "clipid", "clipid, prompt_learn"} and len(asked) + len(rest) == 3 and apart == []


def test_a_key_that_is_null_in_some_runs_splits_no_method(make, tmp_path):
    for seed in (0, 1):
        make("classifier", seed)
        make("clipid_no_text", seed)
    make("clipid", 0, mode="prompt_learn", lr=0.01, prompt_dim=8)
    asked, rest, apart = ladder.ask(find_runs(sorted((tmp_path / "runs").glob("*"))))
    names = {name for row in [*asked.index, *rest.index] for name in row.split(" over ")}
    assert {name.partition(",")[0] for name in names} == {"classifier", "clipid_no_text", "clipid"} and len(names) == 3
    assert not [name for name in names if "nan" in name] and apart == []
    assert any("prompt_dim=8" in name for name in names) and any("prompt_dim=null" in name for name in names)


def test_two_stages_by_hand_are_a_method_whose_seeds_have_their_own_prompts(make, tmp_path):
    for seed in (0, 1):
        own = {"resume_prompt": f"prompts{seed}", "output_dir": f"logs{seed}", "epochs": 3}
        make("clipid", seed, mode="img_encoder_finetune", **own)
        make("clipid_no_text", seed, mode="img_encoder_finetune", epochs=3)
    asked, rest, apart = ladder.ask(find_runs(sorted((tmp_path / "runs").glob("*"))))
    row = "clipid, img_encoder_finetune over clipid_no_text, img_encoder_finetune"
    assert asked.index.tolist() == [row] and len(rest) == 0 and apart == []


def test_prompts_tell_runs_of_one_seed_apart(make, tmp_path):
    for prompts in ("one", "other"):
        make("clipid", 0, mode="img_encoder_finetune", resume_prompt=prompts)
    _, rest, _ = ladder.ask(find_runs(sorted((tmp_path / "runs").glob("*"))))
    assert rest.index.tolist() == ["clipid, img_encoder_finetune, other over clipid, img_encoder_finetune, one"]


def test_one_seed_has_the_p_value_of_sign_flips_and_people_alone(make, tmp_path):
    runs = [FinishedRun.open(make(variant, 0)) for variant in ("clipid", "classifier")]
    table = compare_methods([tuple(ladder.make_method(run.params.variant, [run]) for run in runs)])
    mine, theirs = answer("clipid", 0), answer("classifier", 0)
    apart = ((mine["rank1"] - theirs["rank1"]) * mine["weight"]).groupby(mine["identity"]).sum()
    flips = 2 * ((np.arange(2**PEOPLE)[:, None] >> np.arange(PEOPLE)) & 1) - 1  # every way to flip twelve people
    p = (abs(flips @ apart.to_numpy()) >= abs(apart.sum()) - 1e-12).mean()
    assert float(table["p (rank-1)"].iloc[0]) == pytest.approx(p, abs=0.01)
    (row,) = table.to_dict("records")
    low, high = (float(end.strip("[],")) for end in row["rank-1"].split()[1:])
    centre = float(row["rank-1"].split()[0])
    share = (mine["weight"].groupby(mine["identity"]).sum() / mine["weight"].sum()).to_numpy()
    each = (apart / mine["weight"].groupby(mine["identity"]).sum()).to_numpy()
    error = np.sqrt(PEOPLE / (PEOPLE - 1) * (share**2 @ (each - share @ each) ** 2))
    half = 100 * stats.t.ppf(0.975, PEOPLE - 1) * error
    assert (low, high) == pytest.approx((centre - half, centre + half), abs=0.11)


# ------------------------------------------------------------------------------------------- on a terminal


def test_compare_without_arguments_asks_the_ladder(three_seeds, capsys):
    out = said(capsys, "--outputs", three_seeds)
    assert out.startswith("demo dorsal_r, protocol own, scores over all galleries\n\n")
    lines = [line for line in out.splitlines() if " over " in line[:40] and "protocol" not in line]
    names = ["classifier over frozen", "clipid over classifier", "clipid over clipid_no_text"]
    assert [line[:30].strip().partition("  ")[0] for line in lines] == names
    for line, name in zip(lines, names, strict=True):
        assert float(cell(line, name)) == pytest.approx(difference(*name.split(" over ")), abs=0.051)
    assert out.endswith(ladder.LEGEND + "\n") and "nan" not in out


def test_what_is_left_out_is_said(three_seeds, make, capsys):
    old = make("tip_adapter", 0, over=None)
    out = said(capsys, "--outputs", three_seeds)
    told = "its scores are means of draws, of an older version; `clipreid run` with its params does notebook 04 again"
    assert out.endswith(f"\n\nleft out: {old}: {told}\n") and "tip_adapter over" not in out


def test_each_test_has_a_table_of_its_own(three_seeds, make, capsys):
    for variant in ("frozen", "clipid_no_text"):
        make(variant, 0, sha="other", aspect="palmar_r")
    make("clipid", 0, sha="alone", aspect="palmar_l")
    out = said(capsys, "--outputs", three_seeds)
    assert "demo palmar_r, protocol own" in out and "palmar_l" not in out
    assert (
        "clipid_no_text over frozen" in out.partition("demo palmar_r")[2]
    )  # no question of the ladder, and all there is


def test_two_filters_and_two_folders(three_seeds, make, capsys):
    out = said(capsys, "variant=clipid", "variant=classifier", "--outputs", three_seeds)
    (line,) = [line for line in out.splitlines() if "variant=clipid over variant=classifier" in line]
    assert line.removeprefix("variant=clipid over variant=classifier").split()[:2] == [str(PEOPLE), "3"]
    wanted = pytest.approx(difference("clipid", "classifier"), abs=0.051)
    assert float(cell(line, "variant=clipid over variant=classifier")) == wanted
    folders = [three_seeds / "runs" / f"{variant}-1-same" for variant in ("clipid", "classifier")]
    out = said(capsys, *folders)
    (line,) = [line for line in out.splitlines() if line.startswith(str(folders[0]))]
    name = f"{folders[0]} over {folders[1]}"
    assert line.removeprefix(name).split()[:2] == [str(PEOPLE), "1"]
    assert float(cell(line, name)) == pytest.approx(difference("clipid", "classifier", [1]), abs=0.051)
    # a folder and a filter; a key of another type; a value written another way
    make("clipid", 7, encoder_lr=1e-4)
    out = said(capsys, "variant=clipid, encoder_lr=1e-4", folders[1].parent / "frozen-0-same", "--outputs", three_seeds)
    name = f"variant=clipid, encoder_lr=1e-4 over {folders[1].parent / 'frozen-0-same'}"
    (line,) = [line for line in out.splitlines() if line.startswith(name)]
    assert float(cell(line, name)) == pytest.approx(difference("clipid", "frozen", [7]), abs=0.051)


def test_a_folder_may_have_an_equals_sign(make, tmp_path, capsys):
    one, other = make("clipid", 0), make("frozen", 0)
    moved = one.rename(tmp_path / "lr=1e-4")
    assert f"{moved} over {other}" in said(capsys, moved, other)


def test_mistakes_are_one_line(three_seeds, make, capsys):
    place = ("--outputs", three_seeds)
    assert "compare: 1 given; give two runs or filters, or none" in refused(capsys, "variant=clipid", *place)
    told = refused(capsys, "varient=clipid", "variant=frozen", *place)
    assert "compare: varient=clipid: unknown key 'varient'; did you mean 'variant'?" in told
    told = refused(capsys, "variant=clipid,seed=two", "variant=frozen", *place)
    assert "compare: variant=clipid,seed=two: seed: " in told and "got 'two'" in told
    assert "no evaluated run fits variant=inversion" in refused(capsys, "variant=inversion", "variant=frozen", *place)
    assert "is no run's folder" in refused(capsys, three_seeds, "variant=frozen", *place)
    make("clipid", 0, encoder_lr=1e-4)
    told = refused(capsys, "variant=clipid", "variant=frozen", *place)
    assert "variant=clipid: fits 2 methods, which differ in encoder_lr; say which is meant" in told
    told = refused(capsys, "mode=full,seed=0", "variant=frozen", *place)
    assert "mode=full,seed=0: fits 5 methods, which differ in encoder_lr, variant" in told
    told = refused(capsys, "variant=clipid,variant=frozen", "variant=frozen", *place)
    assert "compare: variant=clipid,variant=frozen: variant stands twice" in told


def test_a_filter_that_fits_two_methods_of_different_seeds_is_refused(make, tmp_path, capsys):
    make("classifier", 0), make("clipid", 1), make("frozen", 0)
    told = refused(capsys, "mode=full,id_weight=1", "variant=frozen", "--outputs", tmp_path)
    assert "fits 3 methods, which differ in variant; say which is meant" in told


def test_runs_that_lie_elsewhere_are_one_method(make, tmp_path, capsys):
    for seed, place in ((0, "here"), (1, "there")):
        make("clipid", seed, data_root=place), make("classifier", seed, data_root=place)
    out = said(capsys, "--outputs", tmp_path)
    (line,) = [line for line in out.splitlines() if line.startswith("clipid over classifier")]
    assert line.removeprefix("clipid over classifier").split()[:2] == [str(PEOPLE), "2"]


def test_a_method_that_trains_nothing_may_have_two_runs_of_a_seed(make, tmp_path, capsys):
    make("frozen", 0), make("frozen", 0, precision="float32"), make("classifier", 0)
    assert "classifier over frozen" in said(capsys, "--outputs", tmp_path)


def test_a_filter_that_fits_older_runs_alone_says_so(make, tmp_path, capsys):
    make("frozen", 0), make("clipid", 0, over=None)
    told = refused(capsys, "variant=clipid", "variant=frozen", "--outputs", tmp_path)
    assert "no evaluated run fits variant=clipid; left out: " in told and "means of draws, of an older version" in told


def test_runs_that_cannot_be_compared_are_one_line(make, tmp_path, capsys):
    one, other, third = make("clipid", 0), make("frozen", 0, sha="other"), make("classifier", 1)
    told = refused(capsys, one, other, "--outputs", tmp_path)
    assert told == f"clipreid: compare: {one} and {other} were asked no same questions\n"
    assert f"{one} and {third}: have no seed in common" in refused(capsys, one, third, "--outputs", tmp_path)
    (third / "per_query.csv").write_text("path\n")
    told = said(capsys, "--outputs", tmp_path)
    assert "no two methods were asked the same questions" in told
    assert f"left out: {third.name}: per_query.csv cannot be read" in told
    (third / "per_query.csv").unlink()
    assert refused(capsys, one, third) == f"clipreid: {third.name}: per_query.csv is not there\n"


def test_nothing_to_compare_is_said(make, tmp_path, capsys):
    assert "no evaluated run; `clipreid run params/demo.yaml` makes some" in refused(capsys, "--outputs", tmp_path)
    old = make("clipid", 0, over=None)
    told = refused(capsys, "--outputs", tmp_path)
    assert f"no evaluated run; left out: {old}: its scores are means of draws" in told
    make("frozen", 0)
    assert said(capsys, "--outputs", tmp_path).startswith("no two methods were asked the same questions\n\nleft out: ")


# ------------------------------------------------------------------------------------- on the page of several runs


def test_the_page_of_several_runs_asks_the_ladder_first(three_seeds, make):
    make("tip_adapter", 4)
    runs = find_runs(sorted((three_seeds / "runs").glob("*")))
    page = BeautifulSoup(report_runs.lay_out(runs, three_seeds / "reports", three_seeds), "html.parser")
    first = page.find_all("section")[0]
    assert first.h2.get_text() == "The ladder's questions"
    asked, rest = first.find_all("table")
    names = [[row.find("th").get_text() for row in table.find_all("tr")[1:]] for table in (asked, rest)]
    assert names[0] == [
        *("classifier over frozen", "clipid over classifier", "clipid over clipid_no_text", "tip_adapter over frozen")
    ]
    assert len(names[0]) + len(names[1]) == 5 * 4 // 2 and not set(names[0]) & set(names[1])
    assert first.find("details").find("table") is rest  # folded away, and there
    head = [cell.get_text() for cell in asked.find("tr").find_all("th")]
    assert head == ["", "people", "seeds", "rank-1", "mAP"]
    table = ladder.ask(runs)[0]
    cells = [[cell.get_text() for cell in row.find_all(["th", "td"])] for row in asked.find_all("tr")[1:]]
    for row, (name, found) in zip(cells, table.iterrows(), strict=True):
        assert row[:3] == [name, found["people"], found["seeds"]]
        for cell, score in zip(row[3:], ("rank-1", "mAP"), strict=True):
            p, holm, shows = (found[f"{part} ({score})"] for part in ("p", "Holm", "shows"))
            assert cell == f"{found[score]}\np {p}, Holm {holm}\nshows {shows}"


def test_the_page_tells_who_has_no_seed_in_common_and_whose_answers_are_lost(make, tmp_path):
    for variant, seed in (("frozen", 0), ("classifier", 0), ("clipid", 1)):
        make(variant, seed)
    lost = make("clipid_no_text", 0)
    (lost / "per_query.csv").unlink()
    runs = find_runs(sorted((tmp_path / "runs").glob("*")))
    page = BeautifulSoup(report_runs.lay_out(runs, tmp_path / "reports", tmp_path), "html.parser")
    missing = [part.get_text() for part in page.find_all("section")[0].select(".missing")]
    assert missing == [f"{lost.name}: per_query.csv is not there.", "clipid and classifier have no seed in common."]


def test_two_runs_of_one_method_and_seed_are_refused(make):
    folder = make("clipid", 0)
    runs = [FinishedRun.open(folder), FinishedRun.open(folder)]
    with pytest.raises(UserError, match="clipid: 2 runs, and two of seed 0; say which is meant"):
        ladder.make_method("clipid", runs)


def test_runs_of_other_pictures_under_the_same_names_are_not_compared(make, capsys):
    images = pd.DataFrame({"path": ["0.jpg", "1.jpg", "2.jpg"], "identity": [1, 1, 2], "subject": [1, 1, 2]})
    images = images.assign(dataset="11k", protocol="own", aspect="dorsal_r", role=["test", "test", "train"])
    folders = [make(*each, experiment=name) for each, name in ((("frozen", 0), "a"), (("clipid", 0), "b"))]
    contents = {"0.jpg": "x", "1.jpg": "y", "2.jpg": "z"}
    for folder in folders:
        images.assign(draw_0=["query", "gallery", ""]).to_csv(folder / "manifest.csv", index=False)
        write_json(folder / "photographs.json", contents)
    assert "clipid" in said(capsys, "--outputs", folders[0].parent.parent) and "clipid" in said(capsys, *folders)
    write_json(folders[0] / "photographs.json", contents | {"2.jpg": "another", "0.jpg": ""})  # trained on; not known
    assert "clipid" in said(capsys, *folders)
    assert len(comparison.find_comparable(folders[0], "same")) == 1
    write_json(folders[0] / "photographs.json", contents | {"0.jpg": "another"})
    assert "were asked no same questions" in refused(capsys, *folders)
    assert "no two methods were asked the same questions" in said(capsys, "--outputs", folders[0].parent.parent)
    assert comparison.find_comparable(folders[0], "same") == {}
    apart = make("clipid", 0, experiment="c")  # of other names: agrees with both, and sets nobody together
    write_json(apart / "photographs.json", {"elsewhere.jpg": "x"})
    assert list(number_photographs(find_runs([apart, *folders])).values()) == [0, 0, 1]
    page = write_several(find_runs(folders)).read_text()
    assert "not all asked the same questions" in page
    assert page.count("protocol own, their own") == 4  # two captions, which are said to screen readers as well
