"""Records of notebooks, and the keys that say when one outcome stands for another."""

import os
import time

import pytest
import small_runs
import torch
from small_runs import TINY, finish

from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import read_json, write_json
from clipreid_lib.params import check
from clipreid_lib.params.run_ids import NOT_IN_ID
from clipreid_lib.params.run_params import Params
from clipreid_lib.params.schema import NOTEBOOKS
from clipreid_lib.runs import records
from clipreid_lib.runs.chain import Chain
from clipreid_lib.runs.records import AFTER_PROMPTS, notebook_key
from clipreid_lib.runs.run import Run

SURVEY, PROMPTS, ENCODER, SCORES, GALLERY = NOTEBOOKS
TRAINED = NOTEBOOKS[1:]


def tiny(**more) -> Params:
    return check.validate_params({**TINY, **more})


# ------------------------------------------------------------------------------------------------ records


def test_a_notebook_is_done_when_its_record_says_so_under_the_same_key(tmp_path):
    mine = tiny()
    assert not records.is_done(mine, tmp_path, ENCODER)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / f"{ENCODER}.ipynb").write_text("{}")  # an executed notebook proves nothing
    assert not records.is_done(mine, tmp_path, ENCODER)
    finish(mine, tmp_path, ENCODER, rank1=0.5)
    assert records.is_done(mine, tmp_path, ENCODER)
    assert records.read(tmp_path, ENCODER)["rank1"] == 0.5
    assert records.is_done(tiny(top_k=3, experiment="other"), tmp_path, ENCODER)
    assert not records.is_done(tiny(encoder_epochs=3), tmp_path, ENCODER)
    records.forget(tmp_path, ENCODER)
    records.forget(tmp_path, ENCODER)
    assert not records.is_done(mine, tmp_path, ENCODER)


@pytest.mark.parametrize("notebook", TRAINED)
def test_a_product_cut_short_or_gone_makes_its_notebook_unfinished(tmp_path, notebook):
    mine = tiny()
    for product in records.list_products(mine, tmp_path, notebook):
        finish(mine, tmp_path, notebook)
        os.truncate(product, 3)
        assert not records.is_done(mine, tmp_path, notebook)
        finish(mine, tmp_path, notebook)
        product.unlink()
        assert not records.is_done(mine, tmp_path, notebook)
    finish(mine, tmp_path, notebook)
    assert records.is_done(mine, tmp_path, notebook)


@pytest.mark.parametrize("content", ["", "{", '{"finished": "2026-01-01", "ke', "[]", "null", "{}", '{"key": 1}'])
def test_a_damaged_record_is_none(tmp_path, content):
    mine = tiny()
    finish(mine, tmp_path, SCORES)
    (tmp_path / "done" / f"{SCORES}.json").write_text(content)
    assert not records.is_done(mine, tmp_path, SCORES)


def count_as_before(folder):
    """Leave the record of notebook 04 as it was when scores were means of draws."""
    path = folder / "done" / f"{SCORES}.json"
    record = read_json(path)
    assert record.pop("scores") == 2
    write_json(path, record)


def test_scores_counted_in_another_way_are_not_done_and_nothing_else_is_undone(tmp_path):
    mine, other = (tiny(outputs_root=str(tmp_path), seed=seed) for seed in (0, 1))
    for run in (mine, other):
        finish(run, run.folder, *run.notebooks)
    assert records.list_outdated([mine, other]) == []
    count_as_before(mine.folder)
    assert records.read(mine.folder, SCORES) is None
    done = [records.is_done(mine, mine.folder, name) for name in TRAINED]
    assert done == [True, True, False, True] and records.state(mine, mine.folder) == ("started", SCORES, "")
    assert records.is_done(other, other.folder, SCORES)
    told = "are means of draws, of an older version; 04 and 05 are done again for means over all galleries"
    assert records.list_outdated([mine, other, tiny(seed=2)]) == [f"the scores of {mine.run_id} {told}"]
    count_as_before(other.folder)
    assert records.list_outdated([mine, other]) == [f"the scores of {mine.run_id}, {other.run_id} {told}"]
    finish(mine, mine.folder, SCORES)
    assert records.is_done(mine, mine.folder, SCORES)
    assert "scores" not in read_json(mine.folder / "done" / f"{ENCODER}.json")  # no other notebook counts any


def test_a_notebook_without_all_its_files_cannot_be_recorded(tmp_path):
    mine = tiny()
    with pytest.raises(FileNotFoundError):
        records.write_record(mine, tmp_path, ENCODER, {})
    assert not records.is_done(mine, tmp_path, ENCODER)


def test_products_in_a_folder_elsewhere(tmp_path):
    mine = tiny(save_dir=str(tmp_path / "on a bigger disk"))
    folder = tmp_path / "outputs" / "runs" / mine.run_id
    log, weights = records.list_products(mine, folder, ENCODER)
    assert log == folder / "train_logs" / "encoder.csv"
    assert weights == tmp_path / "on a bigger disk" / mine.run_id / "encoder.safetensors"
    finish(mine, folder, ENCODER)
    assert records.is_done(mine, folder, ENCODER)
    os.truncate(weights, 1)
    assert not records.is_done(mine, folder, ENCODER)


def test_the_state_of_a_run(tmp_path):
    mine = tiny()
    assert records.state(mine, tmp_path) == ("waiting", PROMPTS, "")
    records.begin(tmp_path, PROMPTS)
    assert records.state(mine, tmp_path) == ("running", PROMPTS, "")
    finish(mine, tmp_path, PROMPTS)
    records.clear_running(tmp_path, PROMPTS, None)
    assert records.state(mine, tmp_path) == ("started", ENCODER, "")
    records.begin(tmp_path, ENCODER)
    records.clear_running(tmp_path, ENCODER, "the disk is full")
    assert records.state(mine, tmp_path) == ("failed", ENCODER, "the disk is full")
    records.begin(tmp_path, ENCODER)
    assert records.state(mine, tmp_path) == ("running", ENCODER, "")
    records.clear_running(tmp_path, ENCODER, None)
    for notebook in TRAINED[1:]:
        finish(mine, tmp_path, notebook)
    assert records.state(mine, tmp_path) == ("done", "", "")
    records.begin(tmp_path, GALLERY)  # left by a runner killed between the record and the end
    assert records.state(mine, tmp_path) == ("done", "", "")


def test_a_notebook_without_a_sign_of_life_was_killed(tmp_path):
    mine = tiny()
    records.begin(tmp_path, PROMPTS)
    now = time.time()

    def state_after(seconds: float) -> tuple[str, str, str]:
        os.utime(tmp_path / "running.json", (now - seconds, now - seconds))
        return records.state(mine, tmp_path)

    assert state_after(records.SILENT / 2) == ("running", PROMPTS, "")
    killed = ("killed", PROMPTS, "no sign of life for more than 60 s")
    assert state_after(records.SILENT + 60) == killed
    assert state_after(-5) == ("running", PROMPTS, "")  # two machines' clocks never agree quite
    assert state_after(-86400) == killed  # the clock was set back
    records.beat(tmp_path)
    assert records.state(mine, tmp_path) == ("running", PROMPTS, "")


def test_a_failure_that_cannot_be_written_down_leaves_nothing_running(tmp_path, monkeypatch):
    def full(path, value):
        raise UserError(f"{path}: cannot be written (No space left on device)")

    records.begin(tmp_path, PROMPTS)
    monkeypatch.setattr(records, "write_json", full)
    with pytest.raises(UserError):
        records.clear_running(tmp_path, PROMPTS, "the disk is full")
    assert records.state(tiny(), tmp_path)[0] == "waiting"


def test_a_twin_that_is_being_done_again_is_not_copied(tmp_path, open_run):
    mine, twin = open_run(fresh=tmp_path, seed=1), open_run(fresh=tmp_path, seed=2)
    finish(twin.params, twin.folder, PROMPTS, manifest_sha=mine.manifest.sha)
    record = twin.folder / "done" / f"{PROMPTS}.json"
    write_json(record, read_json(record) | {"key": notebook_key(mine.params, PROMPTS)})
    assert Chain(mine, (PROMPTS,))._copy_from_other(PROMPTS) == twin.folder.name
    records.forget(mine.folder, PROMPTS)
    records.forget(twin.folder, PROMPTS)
    assert Chain(mine, (PROMPTS,))._copy_from_other(PROMPTS) == "" and records.read(mine.folder, PROMPTS) is None


# ------------------------------------------------------------------------------------------------ keys


def changed_by(base: Params | None = None, **more) -> list[str]:
    """Return the notebooks whose keys some params change."""
    before, after = base or tiny(), tiny(**more)
    return [name for name in NOTEBOOKS if notebook_key(before, name) != notebook_key(after, name)]


@pytest.mark.parametrize(
    "more",
    [
        {"encoder_lr": tiny().resolved().encoder_lr},  # the recipe's, written out
        {"device": "auto"},
        {"experiment": "another"},
        {"outputs_root": "/elsewhere"},
        {"checkpointing": True},
        {"allow_missing": True},
        {"variant": "clipid"},  # the default, likewise
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_changes_no_number_changes_no_key(more):
    assert changed_by(**more) == []


@pytest.mark.parametrize(
    ("more", "changed"),
    [
        ({"encoder_lr": 1e-2}, [ENCODER, SCORES, GALLERY]),
        ({"encoder_epochs": 3}, [ENCODER, SCORES, GALLERY]),
        ({"variant": "clipid_no_text"}, [ENCODER, SCORES, GALLERY]),
        ({"flip_test": True}, [SCORES, GALLERY]),
        ({"top_k": 3}, [GALLERY]),
        ({"photograph": "who.jpg"}, [GALLERY]),
        ({"gallery_root": "photos"}, [GALLERY]),
        ({"prompt_lr": 1e-3}, list(TRAINED)),
        ({"seed": 1}, list(TRAINED)),
        ({"demo_seed": 1}, list(NOTEBOOKS)),
        ({"draws": 3}, list(NOTEBOOKS)),
        ({"aspect": "palmar_l"}, list(NOTEBOOKS)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_key_changes_the_notebooks_it_acts_on(more, changed):
    assert changed_by(**more) == changed


def test_other_weights_change_every_notebook_but_the_survey(tmp_path):
    one, other = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    shipped = tiny().weights
    one.write_bytes(open(shipped, "rb").read())
    other.write_bytes(b"others")
    assert changed_by(pretrained=str(one)) == []  # the same weights under another name
    assert changed_by(pretrained=str(other)) == list(TRAINED)


# For every key that is said to act after stage 2a alone, what changes it (mode and variant among others' values).
AFTER = {
    "variant": {"variant": "clipid_no_text"},
    "mode": {"mode": "prompt_learn"},
    "epochs": {"mode": "prompt_learn", "prompt_epochs": 7, "epochs": TINY["prompt_epochs"]},
    "lr": {"mode": "prompt_learn", "prompt_lr": 0.5, "lr": tiny().resolved().prompt_lr},
    "encoder_epochs": {"encoder_epochs": 3},
    "encoder_lr": {"encoder_lr": 1e-2},
    "head_lr": {"head_lr": 1e-2},
    "images_per_identity": {"images_per_identity": 2},
    "id_weight": {"id_weight": 3.0},
    "triplet_weight": {"triplet_weight": 0.0},
    "triplet_margin": {"triplet_margin": 0.9},
    "text_weight": {"text_weight": 0.0},
    "label_smoothing": {"label_smoothing": 0.5},
    "text_logits": {"text_logits": "dot"},
    "weight_decay": {"weight_decay": 0.5},
    "accumulate": {"accumulate": 2},
    "precision": {"precision": "bf16"},
    "flip_train": {"flip_train": True},
    "padding": {"padding": "enlarge"},
    "erasing": {"erasing": "none"},
    "sampler": {"sampler": "shuffled"},
    "schedule": {"schedule": "clip_handid"},
    "bias_factor": {"bias_factor": 2.0},
    "train": {"train": "last-1"},
    "test_features": {"variant": "clipid_no_text", "test_features": "after_neck"},
    "output_dir": {"output_dir": "logs/"},
    "save_dir": {"save_dir": "weights/"},
}
# And for every other that changes a run, one that changes the prompts' key.
BEFORE = {
    **{"burst_gap": 3, "aspect": "palmar_r", "protocol": "mba", "validation": "identity_disjoint", "draws": 3},
    **{"draw_seed": 1, "model": "rn50", "image_size": "32x32", "resize": "crop", "patch_stride": 4, "last_stride": 1},
    **{"side_info": "camera", "prompt_dim": 8, "num_prompts": 2, "batch_size": 12, "prompt_form": "shared"},
    **{"prompt_loss": "infonce", "prompt_logits": "dot", "prompt_epochs": 3, "prompt_lr": 1e-3, "seed": 1},
    **{"test_resize": "bilinear", "positions": "bilinear", "noun": "person."},
    **{"activation": "quick_gelu", "normalisation": "inception"},
    **{"demo_people": 9, "demo_images": 5, "demo_sessions": 1, "demo_difficulty": 0.1, "demo_seed": 1},
}


def test_every_key_that_changes_a_run_acts_on_the_prompts_or_after_them():
    assert set(AFTER) == AFTER_PROMPTS
    assert set(BEFORE) == set(Params.model_fields) - NOT_IN_ID - AFTER_PROMPTS - {"dataset"}


@pytest.fixture(scope="module")
def learned():
    """Train stage 2a and return what was learned."""

    def learn(run) -> dict[str, torch.Tensor]:
        torch.manual_seed(len(str(run.params)))  # whatever was drawn before must not matter
        _, bank, _ = small_runs.learn(run)
        return bank.state_dict()

    return learn


@pytest.fixture(scope="module")
def plain_prompts(learned, shared_outputs):
    return learned(Run.open(tiny(outputs_root=str(shared_outputs), experiment="plain-prompts")))


@pytest.mark.parametrize("key", AFTER)
def test_what_acts_after_the_prompts_leaves_them_as_they_are(key, learned, plain_prompts, open_run):
    assert PROMPTS not in changed_by(**AFTER[key])
    prompts = learned(open_run(**AFTER[key], experiment=f"changed-{key}"))
    assert prompts.keys() == plain_prompts.keys()
    assert all(torch.equal(prompts[name], plain_prompts[name]) for name in prompts)


@pytest.mark.parametrize("key", BEFORE)
def test_what_acts_on_the_prompts_is_in_their_key(key):
    assert PROMPTS in changed_by(**{key: BEFORE[key]})


@pytest.mark.parametrize(
    "key", ["prompt_lr", "prompt_epochs", "seed", "num_prompts", "batch_size", "prompt_loss", "prompt_logits"]
)
def test_and_changes_them(key, learned, plain_prompts, open_run):
    prompts = learned(open_run(**{key: BEFORE[key]}, experiment=f"changed-{key}"))
    assert any(
        prompts[name].shape != plain_prompts[name].shape or not torch.equal(prompts[name], plain_prompts[name])
        for name in prompts
    )
