"""`clipreid score`: features from elsewhere are asked the very questions of every run, and bad ones cost one line."""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import torch
from small_runs import TINY

from clipreid_lib.__main__ import main
from clipreid_lib.base.errors import UserError
from clipreid_lib.data.datasets import load_images
from clipreid_lib.pages import browser, report
from clipreid_lib.pages.ranking import Ranking
from clipreid_lib.params import check, read, run_ids, schema
from clipreid_lib.runs import embeddings, external, feature_files, loading, rankings
from clipreid_lib.runs.chain import Chain
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import given_features, ladder
from clipreid_lib.scores.assessment import choose_protocols
from clipreid_lib.scores.features import Embeddings
from clipreid_lib.scores.finished_run import FinishedRun

DATA = [f"{key}={value}" for key, value in TINY.items() if key in run_ids.DATA_KEYS]


def settings(outputs: Path, *more: str) -> list[str]:
    """The options of a test's data set."""
    return [word for each in (*DATA, f"outputs_root={outputs}", *more) for word in ("--set", each)]


def execute_here(chain: Chain, name: str, locks: tuple) -> None:
    """Execute a notebook's cells in this process: a kernel's start costs more than they do."""
    namespace: dict = {}
    for cell in nbformat.read(schema.ROOT / "notebooks" / f"{name}.ipynb", as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)
        if "parameters" in cell.metadata.get("tags", ()):
            namespace |= chain.run.params.changed()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A frozen run, the features that `embed` writes of its data, and the run that `score` makes of them."""
    place = tmp_path_factory.mktemp("score")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Chain, "_execute", execute_here)
        frozen = Run.open(check.validate_params({**TINY, "variant": "frozen", "outputs_root": str(place / "out")}))
        assert Chain(frozen, ("04_evaluation",)).do() is None
        feature_files.embed("embedded", f"11k={frozen.data_root}", str(place / "mine.npz"))
        before = read_all(frozen.folder)
        assert main(["score", str(place / "mine.npz"), "--as", "mine", *settings(place / "out")]) == 0
        assert read_all(frozen.folder) == before
    (folder,) = (place / "out" / "runs").glob("*-external-*")
    return place, frozen, Run.at(folder)


def read_all(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_features_of_a_frozen_run_give_its_very_scores(made):
    _, frozen, mine = made
    ours, theirs = FinishedRun.open(frozen.folder), FinishedRun.open(mine.folder)
    assert mine.folder.name.startswith("demo-mine-dorsal_r-external-s0-") and mine.done
    assert list(theirs.protocols) == list(ours.protocols) == ["own", "mba", "cross_session"]
    assert theirs.metrics["left_out"] == ours.metrics["left_out"]
    for name, scores in ours.protocols.items():
        # The stored features have unit length, those of the run have not: last digits of a cosine may differ.
        flat, other = pd.json_normalize(scores), pd.json_normalize(theirs.protocols[name])
        pd.testing.assert_frame_equal(flat, other, rtol=1e-5, atol=1e-6)
        assert scores["rank1"] == theirs.protocols[name]["rank1"] and 0 < scores["rank1"] < 1
        assert scores["compared_sha"] == theirs.protocols[name]["compared_sha"]
    pd.testing.assert_frame_equal(ours.queries, theirs.queries)
    learned = json.loads((mine.folder / "thresholds.json").read_text())
    assert learned["checkpoint"] == theirs.metrics["checkpoint_sha"] and len(learned["checkpoint"]) == 64


def test_the_run_is_compared_and_listed_by_the_features_name(made, capsys):
    place, frozen, mine = made
    assert main(["compare", str(mine.folder), str(frozen.folder)]) == 0
    assert capsys.readouterr().out.count("+0.0 [+0.0, +0.0]") == 2
    assert main(["compare", "--outputs", str(place / "out")]) == 0
    assert "external, mine over frozen, embedded" in capsys.readouterr().out
    board = pd.read_csv(place / "out" / "leaderboard.csv").query("variant == 'external'")
    assert set(board["model"]) == {"mine"} and set(board["stage"]) == {"external"} and len(board) == 3
    runs = [FinishedRun.open(run.folder) for run in (frozen, mine)]
    keys, groups = ladder.group_methods(runs)
    assert keys == ["model", "variant"] and list(groups) == [("embedded", "frozen"), ("mine", "external")]
    assert ladder.group_methods(runs[1:])[0] == ["model", "variant"]


def test_other_features_of_one_name_are_told_apart_in_tables(made):
    _, frozen, mine = made
    first = FinishedRun.open(mine.folder)
    params = first.params.model_copy(update={"pretrained": "features 0123456789abcdef"})
    twin = FinishedRun(first.folder.with_name("twin"), params, first.metrics)
    keys, groups = ladder.group_methods([FinishedRun.open(frozen.folder), first, twin])
    assert keys == ["model", "pretrained", "variant"] and len(groups) == 3


def test_pictures_and_report_say_what_features_alone_cannot_show(made):
    _, _, mine = made
    figures = {path.stem for path in (mine.folder / "figures").glob("*.png")}
    assert {"looked_at", "hardest", "spread", "embedding_map", "roc_det"} <= figures
    assert not figures & {"who_is_it", "asked_in_words"}
    page = report.lay_out(FinishedRun.open(mine.folder))
    assert "features called mine, which another program made" in page and "Not there:" not in page
    assert "trained on nobody who is tested here" in page and "Nobody tested was trained on" not in page
    assert "clipreid score FEATURES --as mine" in page and "clipreid run params/base.yaml" not in page
    assert "features from mine.npz (128 images, 640 numbers each)" in page
    assert (mine.folder / "gallery.html").is_file() and (mine.folder / "report.html").is_file()


def test_the_browser_ranks_and_says_why_it_cannot_look_or_read(made):
    pytest.importorskip("ipywidgets")
    _, _, mine = made
    encoder, tested = loading.load_trained_encoder(mine), rankings.list_tested(mine)
    named: dict[str, Ranking] = rankings.rank_stages(mine, encoder, encoder)
    shown = browser.Browser(named, encoder, mine.photographs, tested, encoder, 0, 3)
    assert "of 12 queries" in shown.status.value
    shown.controls["look"].value = 1
    assert shown.status.value == given_features.ONLY
    shown.controls["look"].value = 0
    shown.controls["sentence"].value = "a left hand"
    assert shown.status.value == given_features.ONLY


@pytest.mark.parametrize(
    "command",
    [
        ["identify", "RUN", "PHOTO"],
        ["embed", "RUN", "11k=DATA", "--out", "PLACE/none.npz"],
        ["export", "RUN", "--out", "PLACE/none"],
        ["across", "RUN", "--outputs", "PLACE/out"],
    ],
)
def test_what_needs_the_network_is_refused_in_one_line(made, command, capsys):
    place, frozen, mine = made
    photo = next((frozen.data_root / "Hands").iterdir())
    words = {"RUN": mine.folder, "DATA": frozen.data_root, "PLACE": place, "PHOTO": photo}
    for word, stands in words.items():
        command = [each.replace(word, str(stands)) for each in command]
    assert main(command) == 2
    assert capsys.readouterr().err == f"clipreid: {mine.folder.name}: {given_features.ONLY}\n"
    assert not list(place.glob("none*"))


def test_scored_again_there_is_nothing_to_do(made, monkeypatch, capsys):
    place, _, mine = made
    before = read_all(mine.folder)
    monkeypatch.setattr(Chain, "_execute", lambda *_: pytest.fail("a notebook is executed again"))
    assert main(["score", str(place / "mine.npz"), "--as", "mine", *settings(place / "out")]) == 0
    assert "nothing to do" in capsys.readouterr().out and read_all(mine.folder) == before


def test_every_format_is_the_same_run_and_other_features_are_another(made, tmp_path):
    place, frozen, mine = made
    ends = [".csv", ".safetensors"] + ([".parquet"] if importlib.util.find_spec("pyarrow") else [])
    options = [*DATA, f"outputs_root={place / 'out'}"]
    for end in ends:
        feature_files.embed("embedded", f"11k={frozen.data_root}", str(tmp_path / f"mine{end}"))
        (params,), lines = external.prepare(str(tmp_path / f"mine{end}"), "mine", options)
        assert params.run_id == mine.folder.name
        assert lines == [f"{params.run_id}: features of 128 images, 640 numbers each"]
    table = pd.read_csv(tmp_path / "mine.csv")
    table["embedding_0"] += 0.001
    table.to_csv(tmp_path / "other.csv", index=False)
    (other,), _ = external.prepare(str(tmp_path / "other.csv"), "mine", [*DATA, f"outputs_root={tmp_path}"])
    assert other.run_id != mine.folder.name and other.run_id.startswith("demo-mine-dorsal_r-external-s0-")
    kept = given_features.load(other.folder, other, mine.table, mine.photographs)
    np.testing.assert_array_equal(
        kept.given.of(mine.manifest.test)[:, 0].numpy(),
        table.set_index("path")["embedding_0"][mine.manifest.test["path"]].to_numpy(np.float32),
    )


def test_a_strangers_csv_needs_a_path_and_numbered_columns(made, tmp_path):
    place, frozen, _ = made
    found = np.load(place / "mine.npz")
    table = pd.DataFrame(found["embedding"][:, :8], columns=[str(number) for number in range(8)])
    absolute = [str(frozen.data_root / path) if row % 2 else f"./{path}" for row, path in enumerate(found["path"])]
    table.insert(0, "path", absolute)
    table["person"] = found["identity"]  # would give everybody away, were it a feature
    table.loc[len(table)] = ["elsewhere/x.jpg", *[0.5] * 8, 3]
    table.to_csv(tmp_path / "own.csv", index=False)
    several = [*DATA, f"outputs_root={place / 'out'}", "protocol=[own, mba]", "experiment=pilot"]
    made_of, lines = external.prepare(str(tmp_path / "own.csv"), "x+1", several)
    assert [params.protocol for params in made_of] == ["own", "mba"] and made_of[0].run_id.startswith("pilot-")
    left = "; left out: 1 image that the data set has not, the first is elsewhere/x.jpg"
    assert all(line.endswith(f"features of 128 images, 8 numbers each{left}") for line in lines)


def test_what_lacks_features_is_left_out_of_other_protocols_and_of_the_map(made, tmp_path, drawn_hands):
    place, frozen, _ = made
    found, needed = np.load(place / "mine.npz"), set(frozen.manifest.in_tests["path"])
    keep = np.isin(found["path"], sorted(needed))
    np.savez(tmp_path / "few.npz", path=found["path"][keep], embedding=found["embedding"][keep])
    (params,), _ = external.prepare(str(tmp_path / "few.npz"), "few", [*DATA, f"outputs_root={tmp_path / 'out'}"])
    run = Run.open(params)
    fit, unfit = choose_protocols(run.table, run.manifest, run.params, run.seen_people)
    assert list(fit) == ["own", "cross_session"]
    assert unfit["mba"].startswith("48 images of it have no features, the first is Hands/")
    assert set(rankings.list_tested(run)["path"]) == needed
    with pytest.raises(UserError, match="flip_test: this run has features only"):
        loading.load_trained_encoder(run).embed(run.manifest.test, mirrored=True)
    (run.folder / schema.GIVEN).write_bytes(b"cut short")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        loading.load_trained_encoder(run)
    given_features.save(run.folder, Embeddings(["a.jpg"], torch.ones(1, 2)), "x.npz")
    with pytest.raises(UserError, match="holds other features than this run is of"):
        loading.load_trained_encoder(run)


def test_held_out_images_are_identified_by_the_nearest_image_alone(made, tmp_path):
    place, frozen, _ = made
    options = [*DATA, f"outputs_root={tmp_path / 'out'}", "validation=published"]
    (params,), _ = external.prepare(str(place / "mine.npz"), "mine", options)
    run = Run.open(params)
    published = Run.open(check.validate_params({**frozen.params.model_dump(), "validation": "published"}))
    theirs = embeddings.identify(published, loading.load_trained_encoder(published))
    named = embeddings.identify(run, loading.load_trained_encoder(run))
    assert named == {"nearest image": theirs["nearest image"]}
    found = np.load(place / "mine.npz")
    kept = found["path"] != run.manifest.train["path"].iloc[0]
    np.savez(tmp_path / "few.npz", path=found["path"][kept], embedding=found["embedding"][kept])
    with pytest.raises(UserError, match="has no features of 1 of 32 images that protocol own needs"):
        external.prepare(str(tmp_path / "few.npz"), "mine", options)


@pytest.fixture
def write(made, tmp_path):
    """Write a file of features, changed in one way, and return its name."""
    found = np.load(made[0] / "mine.npz")
    path, values = found["path"], found["embedding"][:, :4] + 1
    csv = pd.DataFrame(values, columns=[f"e{number}" for number in range(4)])
    csv.insert(0, "path", path)

    def spoil(frame: pd.DataFrame, row: int, column: str, value: object) -> pd.DataFrame:
        frame = frame.astype(object)
        frame.loc[row, column] = value
        return frame

    def put(how: str) -> str:
        tables = {
            "missing.csv": csv.iloc[:-1] if path[-1] in set(made[1].manifest.test["path"]) else csv.iloc[::5],
            "twice.csv": pd.concat([csv, csv.iloc[[3]]]),
            "nan.csv": spoil(csv, 2, "e1", np.nan),
            "word.csv": spoil(csv, 2, "e1", "much"),
            "inf.csv": spoil(csv, 2, "e1", np.inf),
            "zero.csv": csv.assign(**{f"e{number}": csv[f"e{number}"] * (csv.index != 2) for number in range(4)}),
            "nopath.csv": csv.rename(columns={"path": "file"}),
            "nonumbers.csv": csv[["path"]].assign(width=3.5),
            "stems.csv": csv.assign(label1=1),
            "other.csv": csv.assign(path="Somewhere/" + csv["path"]),
        }
        arrays = {
            "nopath.npz": {"embedding": values},
            "objects.npz": {"path": path.astype(object), "embedding": values},
            "bytes.npz": {"path": path.astype("S"), "embedding": values},
            "flat.npz": {"path": path, "embedding": values[:, 0]},
            "words.npz": {"path": path, "embedding": values.astype(str)},
            "rows.npz": {"path": path[:-1], "embedding": values},
            "large.npz": {"path": path, "embedding": values.astype(float) * 1e300},
            "set.npz": {**found, "embedding": values, "identity": found["identity"] + 1},
        }
        file = tmp_path / how
        if how in tables:
            tables[how].to_csv(file, index=False)
        elif how in arrays:
            np.savez(file, **arrays[how])
        elif how == "ragged.csv":
            file.write_text("path,e0,e1\na.jpg,1,2\nb.jpg,1,2,3\n")
        elif how == "short.csv":
            file.write_text("path,e0,e1\na.jpg,1,2\nb.jpg,1\n")
        elif how == "plain.safetensors":
            safetensors.numpy.save_file({"embedding": values}, file)
        elif how != "none.npz":
            file.write_bytes(b"\x00\xffneither text nor numbers")
        return str(file)

    return put


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("missing.csv", "images that protocol own needs, the first is Hands/Hand_"),
        ("twice.csv", "stands twice; give one row per image"),
        ("nan.csv", "row 4: e1 is empty or nan; it must be a number"),
        ("word.csv", "row 4: e1 is 'much'; it must be a number"),
        ("inf.csv", "are not all finite (1 row so)"),
        ("zero.csv", "are all 0 (1 row so)"),
        ("nopath.csv", "has no column path, which names each row's image"),
        ("nonumbers.csv", "has no columns of features, which are called alike and end in numbers"),
        ("stems.csv", "columns that end in numbers are called in 2 ways (e0, label1)"),
        ("other.csv", "none of its images is of this data set, whose paths are as 'Hands/Hand_0000001.jpg', not 'Some"),
        ("nopath.npz", "has no array path; path (N,) and embedding (N, D) are needed"),
        ("objects.npz", "cannot be read (Object arrays cannot be loaded"),
        ("bytes.npz", "path must be an array of text"),
        ("flat.npz", "embedding is of shape (128,), type float32; it must be a row of numbers per image"),
        ("words.npz", "it must be a row of numbers per image, all of one width"),
        ("rows.npz", "names 127 images and has 128 rows of features"),
        ("large.npz", "are not all finite (128 rows so)"),
        ("set.npz", "is of another data set: Hands/Hand_0000001.jpg has identity"),
        ("ragged.csv", "cannot be read ("),
        ("short.csv", "row 3: e1 is empty or nan"),
        ("plain.safetensors", "has no embedding, or no columns in its facts; `clipreid embed` writes both"),
        ("damaged.npz", "cannot be read ("),
        ("damaged.safetensors", "cannot be read ("),
        ("damaged.csv", "cannot be read ("),
        ("damaged.xlsx", "give a file that ends in .npz, .csv, .parquet or .safetensors"),
        ("none.npz", "is not there"),
    ],
)
def test_bad_features_cost_one_line_and_leave_no_run(made, write, tmp_path, how, told, capsys):
    file = write(how)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "demo_hands").symlink_to(made[0] / "out" / "demo_hands")
    assert main(["score", file, "--as", "mine", *settings(tmp_path / "out")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"clipreid: {file}: ") and told in said.err and said.err.count("\n") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["demo_hands"]


def test_parquet_says_what_it_needs_and_lists_have_one_width(tmp_path, monkeypatch):
    (tmp_path / "f.parquet").write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(UserError, match=r"f\.parquet: parquet needs pyarrow"):
            feature_files.read_features(tmp_path / "f.parquet")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    table = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "embedding": [[1.0, 2.0], [3.0, 4.0]]})
    monkeypatch.setattr(pd, "read_parquet", lambda path: table)
    assert feature_files.read_features(tmp_path / "f.parquet").values.tolist() == [[1, 2], [3, 4]]
    table["embedding"] = [[1.0, 2.0], [3.0]]
    with pytest.raises(UserError, match="embedding has rows of 1 and of 2 numbers; all must be of one width"):
        feature_files.read_features(tmp_path / "f.parquet")
    del table["embedding"]
    with pytest.raises(UserError, match="has no column embedding"):
        feature_files.read_features(tmp_path / "f.parquet")


@pytest.mark.parametrize(
    ("name", "option", "told"),
    [
        ("a/b", "draws=2", "--as a/b: write at most 80 letters, digits and . _ + -"),
        ("vitb16", "draws=2", "--as vitb16: is the name of a model that runs start from"),
        ("mine", "seed=1", "--set seed=1: says nothing of features; score takes allow_missing, aspect, burst_gap"),
        ("mine", "drawz=1", "--set drawz=1: unknown key 'drawz'; did you mean 'draws'?"),
        ("mine", "aspect=dorsal", "--set aspect=dorsal: aspect: demo has no 'dorsal'"),
    ],
)
def test_names_and_keys_that_do_not_fit_are_refused(made, name, option, told, capsys):
    assert main(["score", str(made[0] / "mine.npz"), "--as", name, "--set", option]) == 2
    err = capsys.readouterr().err
    assert told in err and err.count("\n") == 1


def test_run_and_papermill_point_to_score(made, tmp_path, capsys):
    _, _, mine = made
    (tmp_path / "mine.yaml").write_text("variant: external\n")
    for file in (tmp_path / "mine.yaml", mine.folder / "params.yaml"):
        for verb in ("run", "plan"):
            assert main([verb, str(file)]) == 2
            err = capsys.readouterr().err
            assert "`clipreid score FEATURES --as NAME` makes such a run" in err and err.count("\n") == 1
    with pytest.raises(UserError, match="clipreid score"):
        read.from_namespace({"variant": "external"})
    given = read.from_namespace({"variant": "external", "model": "x", "pretrained": "features 0123456789abcdef"})
    with pytest.raises(UserError, match="clipreid score"):
        Run.open(given.model_copy(update={"outputs_root": str(tmp_path)}))
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


def test_replaced_photographs_ask_for_new_features(tmp_path, hands):
    for number, path in enumerate(sorted((hands / "Hands").iterdir())[:24]):
        (tmp_path / "people" / f"p{number // 3}").mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "people" / f"p{number // 3}")
    feature_files.embed("embedded", str(tmp_path / "people"), str(tmp_path / "mine.npz"))
    options = ["dataset=folder", "aspect=hand", f"data_root={tmp_path / 'people'}", f"outputs_root={tmp_path / 'out'}"]
    (params,), _ = external.prepare(str(tmp_path / "mine.npz"), "mine", options)
    run = Run.open(params)
    first, second = run.manifest.test["path"].iloc[:2]
    (run.data_root / first).write_bytes((run.data_root / second).read_bytes())
    with pytest.raises(UserError, match="`clipreid score` takes features of the photographs as they are now"):
        Run.at(run.folder).manifest  # noqa: B018


def test_the_ids_of_all_other_runs_are_what_they_were():
    # As the version before `score` named them.
    ends = "frozen 309b4e40 classifier 9c5f7a66 clipid f3089945 clipid_no_text e72bb9fb inversion 46a56e61 "
    ends += "tip_adapter 57f1aa2c"
    words = ends.split()
    for variant, end in zip(words[::2], words[1::2], strict=True):
        params = check.validate_params({"dataset": "11k", "model": "vitb16", "variant": variant})
        assert params.run_id == f"11k-vitb16-dorsal_r-{variant}-s0-{end}" and params.data_id == "11k-dorsal_r-facacc15"
    other = check.validate_params({"dataset": "11k", "model": "rn50", "variant": "frozen", "protocol": "mba"})
    assert other.run_id == "11k-rn50-dorsal_r-frozen-s0-79ce3ba6"


def test_columns_without_a_name_are_no_features_and_paths_are_not_empty(tmp_path):
    table = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "f0": [1.0, 2.0], "f1": [0.5, 0.1]})
    table.to_csv(tmp_path / "index.csv")  # with pandas' index
    assert feature_files.read_features(tmp_path / "index.csv").values.tolist() == pytest.approx(
        np.array([[1, 0.5], [2, 0.1]])
    )
    table.drop(columns=["f0", "f1"]).to_csv(tmp_path / "none.csv")
    with pytest.raises(UserError, match="has no columns of features"):
        feature_files.read_features(tmp_path / "none.csv")
    table.assign(path=["a.jpg", None]).to_csv(tmp_path / "empty.csv", index=False)
    with pytest.raises(UserError, match="empty.csv: path is empty in row 2 of 2"):
        feature_files.read_features(tmp_path / "empty.csv")


def test_the_six_lines_of_the_first_page(hands, tmp_path, monkeypatch):
    page = (schema.ROOT / "README.md").read_text(encoding="utf-8").split("## Other networks than CLIP")[1]
    code = "\n".join(re.findall(r"^    (.*)$", page.split("    clipreid score")[0], flags=re.M))
    assert '"PATH"' in code and '"resnet50", pretrained=True' in code and code.count("\n") == 5
    monkeypatch.chdir(tmp_path)
    exec(code.replace("PATH", str(hands)).replace('"resnet50", pretrained=True', '"test_resnet", pretrained=False'), {})
    found, told = external.match(
        feature_files.read_features(tmp_path / "resnet50.npz"), load_images("11k", hands), hands, "resnet50.npz"
    )
    assert len(found.paths) == len(load_images("11k", hands)) and "left out" not in told
