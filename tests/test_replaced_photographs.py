"""Photographs that are replaced by others of the same names: what stands on them is done again, and nobody is misled.

Notebooks are replaced by their records here.
"""

import re
import shutil

import pytest
from small_runs import TINY

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import read_json, write_json
from clipreid_lib.data.datasets import load_images
from clipreid_lib.params import check
from clipreid_lib.params.schema import EVALUATION, NOTEBOOKS
from clipreid_lib.runs import chain, local, plan, records, status, training
from clipreid_lib.runs.run import Run


@pytest.fixture
def executed(monkeypatch):
    """Replace every notebook by its record and its files; return (run, the notebook's number) as they are executed."""
    begun = []

    def execute(self, name, locks):
        begun.append((self.run.folder.name, name[:2]))
        run = Run(self.run.params, self.run.folder, self.run.fixed)  # as the child opens it
        for path in records.list_products(run.params, run.folder, name):
            write_json(path, {"manifest_sha": run.manifest.sha} if path.name == "metrics.json" else {})
        run.finish(name)

    monkeypatch.setattr(chain.Chain, "_execute", execute)
    return begun


@pytest.fixture
def params(hands, tmp_path):
    """A run on a copy of the hands."""
    root = shutil.copytree(hands, tmp_path / "hands")
    return check.validate_params(
        {**{key: value for key, value in TINY.items() if not key.startswith("demo_")}, "dataset": "11k"}
        | {"protocol": "common", "data_root": str(root), "outputs_root": str(tmp_path / "out"), "experiment": "mine"}
    )


def do(params, executed, failed=None) -> list[str]:
    executed.clear()
    assert local.Local([params]).do() == (failed or {})
    return [number for _, number in executed]


def replace_photograph(params, role: str) -> str:
    """Put another picture in the place of an image of this role; return its path."""
    images = Run.open(params).manifest.images
    path = images.loc[images["role"] == role, "path"].iloc[0]
    root = params.data_folder
    other = next(file for file in sorted((root / "Hands").iterdir()) if file.read_bytes() != (root / path).read_bytes())
    shutil.copyfile(other, root / path)
    return path


@pytest.mark.parametrize(("role", "again"), [("train", ["02", "03", "04", "05"]), ("test", ["04", "05"])])
def test_what_stands_on_a_replaced_photograph_is_told_and_done_again(params, executed, capsys, role, again):
    assert do(params, executed) == ["01", "02", "03", "04", "05"]
    assert do(params, executed) == []
    path = replace_photograph(params, role)
    with pytest.raises(UserError, match=f"1 photograph changed since this run, the first is {path}; `clipreid run`"):
        Run.at(params.folder).manifest  # noqa: B018
    plan.print_plan([params])
    said = capsys.readouterr().out
    assert f"{params.run_id}: 1 photograph changed since; what stands on them will" in said
    assert f"{params.run_id}  {', '.join(again)}\n" in said
    assert f"1 run, 0 done; {len(again) + 1} notebooks to execute, 0 to copy" in said
    status.print_status(params.folder.parent.parent)
    assert "1 photograph changed since; `clipreid run` does what stands on them again" in capsys.readouterr().out
    assert do(params, executed) == ["01", *again]
    told = f"{params.run_id}: 1 photograph changed since this run, the first is {path}; what stands on them is done"
    assert told in capsys.readouterr().out
    assert (params.folder / "metrics.before.json").exists()
    assert do(params, executed) == [] and Run.at(params.folder).manifest


def test_a_deleted_photograph_of_an_evaluated_run_is_no_change(params, executed):
    do(params, executed)
    images = Run.open(params).manifest.images
    (params.data_folder / images.loc[images["role"] == "test", "path"].iloc[0]).unlink()
    assert do(params, executed) == []
    assert Run.at(params.folder).manifest.sha == read_json(params.folder / "metrics.json")["manifest_sha"]


def test_an_unfinished_training_does_not_go_on_with_other_pictures(params, executed):
    do(params, executed)
    before = training.keep_prompts(Run.at(params.folder)).key
    replace_photograph(params, "train")
    do(params, executed)
    assert training.keep_prompts(Run.at(params.folder)).key != before


def test_results_of_other_pictures_are_not_copied(params, executed):
    do(params, executed)
    twin = params.model_copy(update={"experiment": "twin"})
    assert do(twin, executed) == ["04", "05"]  # the trainings were copied
    shutil.rmtree(twin.folder)
    replace_photograph(params, "train")
    assert do(twin, executed) == ["01", "02", "03", "04", "05"]


def test_a_finished_run_of_an_older_version_stays_finished(params, executed):
    do(params, executed)
    for folder in (params.folder, params.survey_folder):
        (folder / "photographs.json").unlink()
    for name in NOTEBOOKS[1:]:
        record = read_json(params.folder / "done" / f"{name}.json")
        write_json(params.folder / "done" / f"{name}.json", {k: v for k, v in record.items() if k != "photographs"})
    replace_photograph(params, "train")
    assert do(params, executed) == [] and Run.at(params.folder).manifest


def test_another_root_with_the_same_names_keeps_off_the_runs_folder(params, executed, tmp_path, capsys):
    do(params, executed)
    kept = (params.folder / "params.yaml").read_bytes()
    root = shutil.copytree(params.data_folder, tmp_path / "other")
    other = params.model_copy(update={"data_root": str(root)})
    one, another, *_ = sorted((root / "Hands").iterdir())
    shutil.copyfile(another, one)
    executed.clear()
    plan.print_plan([other])
    said = capsys.readouterr().out
    assert f"{params.run_id}: is of the photographs in {params.data_folder}, not {root}; `run` refuses" in said
    assert "done again" not in said
    with pytest.raises(UserError, match=f"{params.run_id}: is of the photographs in .*hands, not .*other; give this"):
        local.Local([other]).do()
    assert executed == [] and (params.folder / "params.yaml").read_bytes() == kept
    assert do(params, executed) == []
    assert do(other.model_copy(update={"experiment": "other"}), executed) == ["01", "02", "03", "04", "05"]


def test_a_data_set_that_was_moved_costs_nothing_again(params, executed, tmp_path):
    do(params, executed)
    params.data_folder.rename(tmp_path / "moved")
    moved = params.model_copy(update={"data_root": str(tmp_path / "moved")})
    assert do(moved, executed) == ["01"]  # which shows the folder, and has one of its own
    assert Run.at(params.folder).data_root == tmp_path / "moved"
    assert do(moved, executed) == [] and Run.at(params.folder).is_done(EVALUATION)


def relabel(root, edit) -> None:
    """Rewrite HandInfo.csv; ``edit`` gets its lines without the head, and returns others."""
    table = root / "HandInfo.csv"
    head, *lines = table.read_text().splitlines()
    table.write_text("\n".join([head, *edit(lines)]) + "\n")


def add_person(root) -> str:
    """Give the last person's pictures to a new one, besides; return a new file's name."""

    def edit(lines):
        (person,) = {line.split(",")[0] for line in lines[-3:]}
        new = [line.replace(person, '"0000099"').replace("Hand_", "Hand_9") for line in lines if person in line]
        for line in new:
            name = line.split(",")[7].strip('"')
            shutil.copyfile(root / "Hands" / name.replace("Hand_9", "Hand_"), root / "Hands" / name)
            names.append(name)
        return [*lines, *new]

    names: list[str] = []
    relabel(root, edit)
    return names[0]


def swap_two(root) -> None:
    """Call one picture of the last person the first person's."""
    relabel(root, lambda lines: [*lines[:-1], lines[-1].replace(lines[-1].split(",")[0], lines[0].split(",")[0])])


@pytest.mark.parametrize(("change", "told"), [(add_person, "came"), (swap_two, "show(s)? another person")])
def test_a_finished_run_is_refused_where_its_people_are_no_longer_the_data_sets(params, executed, capsys, change, told):
    params = params.model_copy(update={"aspect": "palmar_l"})  # the aspect of the last picture
    assert do(params, executed) == ["01", "02", "03", "04", "05"]
    change(params.data_folder)
    said = f"{params.data_folder}: \\d+ images? {told} since this run began, the first is Hands/Hand_\\d+.jpg; give the"
    plan.print_plan([params])
    assert re.search(f"{params.run_id}: {said}", capsys.readouterr().out)
    executed.clear()
    batch = local.Local([params])
    failed = batch.do()
    assert list(failed) == [params.run_id] and re.match(said, failed[params.run_id])
    assert [number for _, number in executed if number != "01"] == []
    local.print_summary(batch, failed, 0.0)
    out = capsys.readouterr().out
    assert re.search(said, out) and "report.html" not in out
    assert do(params.model_copy(update={"experiment": "anew"}), executed)[-1] == "05"


def test_numbers_that_move_when_a_person_is_deleted_are_no_change(params, executed, hands, tmp_path):
    root = tmp_path / "people"
    table = load_images("11k", hands)
    for path, identity in table.loc[table["aspect"] == "dorsal_r", ["path", "identity"]].itertuples(index=False):
        (root / f"p{identity}").mkdir(parents=True, exist_ok=True)
        shutil.copy(hands / path, root / f"p{identity}")
    given = {"dataset": "folder", "aspect": "hand", "protocol": "own", "variant": "frozen", "data_root": str(root)}
    params = check.validate_params(given | {"outputs_root": str(tmp_path / "out"), "draws": 2, "experiment": "theirs"})
    assert do(params, executed) == ["01", "04", "05"]
    kept = Run.open(params).manifest
    numbers = kept.images.drop_duplicates("name").set_index("name")["subject"]
    shutil.rmtree(root / f"{numbers.index[numbers.argmin()]}")
    now = Run(params.resolved(), params.survey_folder, fixed=False).build_manifest()
    moved = now.images.drop_duplicates("name").set_index("name")["subject"]
    assert (moved != numbers[moved.index]).all()
    assert "04" not in do(params, executed)
    (root / moved.index[0] / "another.jpg").write_bytes((hands / table["path"].iloc[0]).read_bytes())
    executed.clear()
    assert "1 image came since this run began" in local.Local([params]).do()[params.run_id]


def test_results_do_not_move_to_a_folder_that_holds_more(params, executed, tmp_path):
    do(params, executed)
    more = shutil.copytree(params.data_folder, tmp_path / "more")
    kept = (params.folder / "params.yaml").read_bytes()
    moved = params.model_copy(update={"data_root": str(shutil.copytree(more, tmp_path / "same"))})
    name = add_person(more)
    with pytest.raises(UserError, match=f"more: \\d+ images came since this run began, the first is Hands/{name}"):
        Run.open(params.model_copy(update={"data_root": str(more)}))
    assert (params.folder / "params.yaml").read_bytes() == kept
    assert do(moved, executed) == ["01"]
