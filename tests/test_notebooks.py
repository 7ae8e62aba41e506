"""The five notebooks: their form, and every one of them run through papermill on a tiny ladder."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from papermill.inspection import inspect_notebook
from small_runs import run

from clipreid_lib.params import check, run_params, schema
from clipreid_lib.params.read import from_namespace, read_yaml
from clipreid_lib.runs.chain import Chain
from clipreid_lib.runs.run import Run

NOTEBOOKS = sorted((schema.ROOT / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]
each = pytest.mark.parametrize("notebook", NOTEBOOKS, ids=NAMES)


def parameters_cell(notebook) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    (cell,) = [cell for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    return cell.source


def code_of(notebook) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def test_there_are_five():
    assert NAMES == [
        "01_data_exploration",
        "02_prompt_learning",
        "03_encoder_finetune",
        "04_evaluation",
        "05_retrieval_visualisation",
    ]


@each
def test_no_outputs_and_the_plain_kernel(notebook):
    content = nbformat.read(notebook, as_version=4)
    nbformat.validate(content)
    for cell in content.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
        assert set(cell.metadata) <= {"tags"}
    assert content.metadata.kernelspec.name == "python3"
    assert set(content.metadata) == {"kernelspec", "language_info"}


@each
def test_it_defines_nothing_and_stays_thin(notebook):
    content, code = nbformat.read(notebook, as_version=4), code_of(notebook)
    defined = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef, ast.Lambda)
    assert not [node for node in ast.walk(ast.parse(code)) if isinstance(node, defined)]
    lines = [line for line in code.splitlines() if line.strip()]
    assert len(lines) - len(parameters_cell(notebook).splitlines()) <= 60
    assert content.cells[0].cell_type == "markdown" and content.cells[0].source.startswith("# 0")
    for before, cell in zip(content.cells, content.cells[1:], strict=False):
        if cell.cell_type == "code":
            assert before.cell_type == "markdown", "every call is introduced by a sentence"


@each
def test_its_parameters_are_commented_literals_with_the_schemas_defaults(notebook):
    cell = parameters_cell(notebook)
    for line in cell.splitlines():
        # papermill loses a line with a second equals sign from its help and then calls the name unknown
        assert line.count("=") == 1 and re.fullmatch(r"\w+ = .+  # .+", line), line
    given = {node.targets[0].id: ast.literal_eval(node.value) for node in ast.parse(cell).body}
    assert given == {key: run_params.Params.model_fields[key].default for key in given}
    assert set(inspect_notebook(str(notebook))) == set(given)


@each
def test_a_figure_that_is_saved_is_shown(notebook):
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code" and (saved := re.findall(r"style\.save_\w+\(", cell.source)):
            last = ast.parse(cell.source).body[-1]  # Jupyter shows this alone, and only if it is an expression
            assert isinstance(last, ast.Expr) and ast.unparse(last).count("style.save_") == len(saved) == 1, cell.source


def test_the_four_notebooks_of_a_run_share_their_parameters_and_open_it_alike():
    assert len({parameters_cell(notebook) for notebook in NOTEBOOKS[1:]}) == 1
    for notebook in NOTEBOOKS[1:]:
        assert "run = Run.open(from_namespace(globals()))" in code_of(notebook).splitlines()


def test_the_ladder_runs_and_prints_one_table(ladder):
    place, done = ladder
    assert done.returncode == 0, done.stdout + done.stderr
    for variant in ("frozen", "clipid"):  # five means over all galleries, and rank-1 over the draws
        assert re.search(rf"^{variant}( +\d+\.\d){{5}} +\d+\.\d ± \d+\.\d$", done.stdout, re.M)
    assert "draws: mean ± standard deviation over draws, as papers print" in done.stdout
    assert [done.stdout.count(name) for name in ("/gallery.html", "/report.html", "/reports/tiny.html")] == [2, 2, 1]
    board = pd.read_csv(place / "out" / "leaderboard.csv")
    promised = (
        "experiment,dataset,aspect,model,variant,stage,protocol,seed,over,queries,gallery,identities,rank1,rank1_low,"
        "rank1_high,rank1_per_person,rank5,rank10,map,map_per_person,map_trapezoid,minp,eer,eer_low,eer_high,"
        "rank1_draws,rank1_draws_std,map_draws,map_draws_std,map_trapezoid_draws,checkpoint_sha,manifest_sha"
    ).split(",")
    assert set(promised) <= set(board.columns)
    assert board["variant"].tolist() == ["clipid"] * 3 + ["frozen"] * 3
    assert board["protocol"].tolist() == ["own", "mba", "cross_session"] * 2
    assert board["stage"].tolist() == ["img_encoder_finetune"] * 3 + ["frozen"] * 3


def test_a_run_leaves_what_it_promises(ladder):
    place, _ = ladder
    (folder,) = (place / "out" / "runs").glob("tiny-dorsal_r-clipid-*")
    for name in (
        "params.yaml provenance.json manifest.csv metrics.json per_draw.csv per_query.csv subgroups.csv gallery.html "
        "thresholds.json "
        "report.html figures/looked_at.png figures/anchor_map.png figures/who_is_it.png "
        "train_logs/prompts.csv train_logs/encoder.csv saved_models/prompts.safetensors "
        "saved_models/encoder.safetensors figures/cmc.png figures/roc_det.png figures/hardest.png"
    ).split():
        assert (folder / name).stat().st_size > 0, name
    for kind in (".ipynb", ".html"):
        assert sorted(p.stem for p in (folder / "notebooks").glob(f"*{kind}")) == NAMES[1:]
    assert sorted(p.stem for p in (folder / "done").iterdir()) == NAMES[1:]
    executed = [*folder.glob("notebooks/*.ipynb"), *place.glob("out/data/*/notebooks/*.ipynb")]
    assert sorted(path.stem for path in executed) == NAMES
    assert not [path.stem for path in executed if "stderr" in path.read_text()]  # no warnings
    metrics = json.loads((folder / "metrics.json").read_text())
    draws = pd.read_csv(folder / "per_draw.csv")
    queries = pd.read_csv(folder / "per_query.csv")
    for protocol, scores in metrics["protocols"].items():
        mine, asked = (table[table["protocol"] == protocol] for table in (draws, queries))
        assert scores["over"] == "all galleries"
        for score in ("rank1", "rank5", "map", "map_trapezoid"):
            assert scores[score] == pytest.approx(np.average(asked[score], weights=asked["weight"]))
            sums = (asked[score] * asked["weight"]).groupby(asked["identity"]).sum()
            people = sums / asked["weight"].groupby(asked["identity"]).sum()
            assert scores[f"{score}_per_person"] == pytest.approx(people.mean())
            assert scores[f"{score}_draws"] == pytest.approx(mine[score].mean())
            assert scores[f"{score}_draws_std"] == pytest.approx(mine[score].std())
            assert scores[f"{score}_low"] <= scores[score] <= scores[f"{score}_high"]
        for end in ("", "_draws"):
            both = scores[f"map{end}"] + scores[f"rank1{end}"]
            assert scores[f"map_trapezoid{end}"] == pytest.approx(both / 2)
        assert scores["eer"] == f"not measurable: needs 100 genuine pairs; there are {scores['genuine_pairs']}"
        assert {"definitions", "versions", "device", "seconds", "checkpoint_sha", "manifest_sha"} <= set(metrics)
    assert metrics["rank1"] == metrics["protocols"]["own"]["rank1"]
    assert not [name for name in os.listdir(folder / "saved_models") if "resume" in name]


@pytest.mark.heavy
def test_prompts_of_one_run_serve_the_fine_tuning_of_another(ladder):
    place, _ = ladder
    (prompts,) = (place / "as made" / "runs").glob("tiny-dorsal_r-clipid-*/saved_models/prompts.safetensors")
    given = {"variant": "clipid", "mode": "img_encoder_finetune", "resume_prompt": str(prompts), "epochs": 1}
    second = Run.open(check.validate_params(read_yaml(place / "mine.yaml") | given | {"experiment": "second"}))
    assert "02_prompt_learning" not in second.params.notebooks
    assert Chain(second, ("03_encoder_finetune",)).do() is None
    assert second.is_done("03_encoder_finetune") and (second.models / "encoder.safetensors").exists()


def run_of(place: Path, variant: str) -> Path:
    (folder,) = (place / "as made" / "runs").glob(f"tiny-dorsal_r-{variant}-*")
    return place / "out" / "runs" / folder.name


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def again(ladder):
    """The ladder's frozen run without its last record, and before it a run that has the prompts of clipid and fails."""
    place, _ = ladder
    (run_of(place, "frozen") / "done" / "05_retrieval_visualisation.json").unlink()
    grid = place / "grid.yaml"
    grid.write_text(
        "variant: [clipid, frozen]\nencoder_lr: [1.0e-4, 1.0e+30]\n"
        "exclude:\n  - {variant: clipid, encoder_lr: 1.0e-4}\n  - {variant: frozen, encoder_lr: 1.0e+30}\n"
    )
    before = stamps(run_of(place, "clipid"))
    done = run(place, str(place / "mine.yaml"), str(grid))
    assert stamps(run_of(place, "clipid")) == before  # other params are another run
    return place, done


@pytest.mark.heavy
def test_a_failing_run_is_named_in_one_line_and_stops_no_other(again):
    place, done = again
    assert done.returncode == 1
    frozen, clipid = run_of(place, "frozen").name, run_of(place, "clipid").name
    failed = r"tiny-dorsal_r-clipid-\S+: 03_encoder_finetune FAILED: .*lower the learning rate"
    assert re.search(rf"{failed}.*{frozen}: 05_retrieval_visualisation done", done.stdout, re.S)
    assert done.stderr.count("\n") == 1 and "1 of 2 runs failed: tiny-dorsal_r-clipid" in done.stderr
    assert f"02_prompt_learning copied from {clipid}" in done.stdout and "Traceback" not in done.stdout
    started = re.findall(r": (\S+) starts", done.stdout)
    assert started == ["03_encoder_finetune", "05_retrieval_visualisation"]


@pytest.mark.heavy
def test_running_again_does_nothing(again):
    place, _ = again
    before = stamps(place / "out" / "runs")
    done = run(place, str(place / "mine.yaml"))
    assert done.returncode == 0 and done.stdout.count("nothing to do") == 3
    assert " starts" not in done.stdout and stamps(place / "out" / "runs") == before


# 01 as a person's papermill executes it, the others, which open a run alike, in this process: a kernel's start costs
# more than the cells.
@pytest.mark.parametrize("notebook", NOTEBOOKS[1:], ids=NAMES[1:])
def test_cells_leave_nothing_behind_that_passes_for_a_param(ladder, tmp_path, monkeypatch, notebook):
    place, _ = ladder
    files = ("params/base.yaml", place / "mine.yaml", "params/variants/clipid.yaml")
    monkeypatch.chdir(tmp_path)
    namespace = {}
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)
        if "parameters" in cell.metadata.get("tags", ()):
            for file in files:
                namespace |= read_yaml(schema.ROOT / file)
    assert from_namespace(namespace).run_id == namespace["run"].params.run_id
    assert list(tmp_path.iterdir()) == []


@pytest.mark.heavy
def test_plain_papermill_runs_a_notebook_from_any_folder_and_again_in_one_kernel(ladder, tmp_path):
    place, _ = ladder
    content = nbformat.read(NOTEBOOKS[0], as_version=4)
    # A person changes a parameter and runs all cells again: nothing a cell leaves behind may pass for a param.
    again = "print('read again', from_namespace(globals()).data_id == run.params.data_id)"
    content.cells.append(nbformat.v4.new_code_cell(again))
    nbformat.write(content, tmp_path / "again.ipynb")
    command = [sys.executable, "-m", "papermill", "again.ipynb", "out.ipynb", "-k", "python3"]
    command += ["-f", str(schema.ROOT / "params" / "base.yaml"), "-f", str(place / "mine.yaml")]
    command += ["-f", str(schema.ROOT / "params" / "variants" / "clipid.yaml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    out = (tmp_path / "out.ipynb").read_text()
    assert "read again True" in out and "stderr" not in out  # no warnings either
