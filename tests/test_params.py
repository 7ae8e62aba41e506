import re

import pytest
import yaml

from clipreid_lib.base.errors import UserError
from clipreid_lib.params import check, read, recipes, run_params, schema

USERS_OWN = """
experiment: stage2_clipid_vitb16_11k_dorsal_r
dataset: 11k
aspect: dorsal_r
model: vitb16
variant: clipid
mode: prompt_learn
epochs: 20
lr: 0.0001
prompt_dim: 16
num_prompts: 8
batch_size: 32
resume_prompt: null
output_dir: train_logs/
save_dir: saved_models/
"""


def test_the_users_own_file_is_accepted_as_it_stands(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(USERS_OWN)
    (run,) = read.expand(*read.compose([file]))
    run = run.resolved()
    assert (run.prompt_epochs, run.prompt_lr, run.prompt_dim) == (20, 1e-4, 16)
    assert run.notebooks == ("02_prompt_learning", "04_evaluation", "05_retrieval_visualisation")
    assert run.run_id.startswith("stage2_clipid_vitb16_11k_dorsal_r-")


def test_base_yaml_holds_every_key_with_its_default_and_a_comment():
    file = schema.ROOT / "params" / "base.yaml"
    defaults = {key: field.default for key, field in run_params.Params.model_fields.items()}
    assert yaml.safe_load(file.read_text()) == defaults
    for line in file.read_text().splitlines():
        if re.match(r"\w+:", line):
            assert " # " in line, f"{line} has no comment"


@pytest.mark.parametrize("file", sorted((schema.ROOT / "params").rglob("*.yaml")), ids=lambda file: file.stem)
def test_every_params_file_composes_with_base(file):
    runs = read.expand(*read.compose([schema.ROOT / "params" / "base.yaml", file]))
    assert runs
    for run in runs:
        for value in run.model_dump().values():
            assert not isinstance(value, list)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epohcs": 3}, "unknown key 'epohcs'; did you mean 'epochs'?"),
        ({"encoder_lr": "fast"}, "encoder_lr: .*number.*'fast'"),
        ({"aspect": False}, "aspect: is false; a word"),
        ({"num_prompts": True}, "num_prompts: is true; a word"),
        ({"aspect": "dorsal"}, "aspect: demo has no 'dorsal'; allowed: dorsal_r, dorsal_l, palmar_r, palmar_l"),
        ({"encoder_lr": float("nan")}, "encoder_lr"),
        ({"encoder_lr": -1}, "encoder_lr: .*greater than 0"),
        ({"variant": "frozen", "mode": "img_encoder_finetune"}, "mode: variant frozen trains nothing; use mode full"),
        ({"variant": "frozen", "side_info": "camera"}, "side_info: frozen, mode full, trains no image encoder"),
        ({"image_size": "5000"}, "image_size: 5000 is too large"),
        ({"image_size": "0224"}, "image_size: write the pixels of a square's side or HEIGHTxWIDTH"),
        ({"image_size": "large"}, "image_size: write the pixels of a square's side or HEIGHTxWIDTH"),
        ({"epochs": 3}, "epochs: belongs to mode .*prompt_epochs .* or encoder_epochs"),
        ({"mode": "img_encoder_finetune"}, "resume_prompt: .*prompts.safetensors"),
        ({"mode": "prompt_learn", "variant": "classifier"}, "mode: variant classifier learns no prompts"),
        ({"batch_size": 4}, "batch_size: .*two identities"),
        ({"save_dir": "../models"}, "save_dir: '../models' is no folder of its own inside the run's folder"),
        ({"save_dir": "a/../.."}, "save_dir: 'a/../..' is no folder"),
        ({"output_dir": "done"}, "output_dir: 'done' is no folder of its own"),
        ({"output_dir": "."}, "output_dir: '.' is no folder of its own"),
        ({"experiment": 101 * "x"}, "experiment: .*100"),
        ({"variant": ["frozen"]}, "variant: holds the list"),
        ({"demo_sessions": 12}, "demo_sessions: 12 sessions cannot share 9 images"),
        ({"experiment": "a/b"}, "experiment: "),
        ({"device": "gpu"}, "device: "),
    ],
)
def test_mistakes_are_told_in_one_line_that_names_file_and_key(values, message):
    with pytest.raises(UserError, match=message) as error:
        check.validate_params(values, "mine.yaml")
    assert str(error.value).startswith("mine.yaml: ")
    assert "\n" not in str(error.value)


def test_numbers_without_a_dot_count_as_numbers():
    assert yaml.safe_load("lr: 1e-4") == {"lr": "1e-4"}  # the trap: YAML 1.1 reads a word
    assert check.validate_params({"encoder_lr": "1e-4"}).encoder_lr == 1e-4


def test_text_keys_keep_what_was_written(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("dataset: folder\naspect: [010, 1_0, yes]\nexperiment: 1.10\nimage_size: 224\nsave_dir: 'null'\n")
    runs = read.expand(*read.compose([file]))
    assert [run.aspect for run in runs] == ["010", "1_0", "yes"]
    assert {(run.experiment, run.image_size, run.save_dir) for run in runs} == {("1.10", "224", "null")}


@pytest.mark.parametrize("text", ["010", "1:30", "2024_01", "0x1F", "0-4", "1,5", ".inf", "2024-01-01", "1e", "０"])
def test_number_keys_take_plain_decimals_alone(tmp_path, text):
    file = tmp_path / "mine.yaml"
    for key in ("draw_seed", "head_lr", "prompt_epochs"):
        file.write_text(f"{key}: {text}\n")
        for files, settings in (([file], []), ([], [f"{key}={text}"]), ([], [f"{key}=['{text}']"])):
            with pytest.raises(UserError, match=f"{key}: write a plain decimal number.*got {text!r}"):
                read.expand(*read.compose(files, settings))


@pytest.mark.parametrize(("text", "number"), [("1e-4", 1e-4), ("5.0e-06", 5e-6), ("+2.", 2), (".5", 0.5), ("30", 30)])
def test_plain_decimals_are_read_alike_in_a_file_and_by_set(tmp_path, text, number):
    file = tmp_path / "mine.yaml"
    file.write_text(f"head_lr: {text}\nflip_test: true\nepochs:\n")
    by_file, by_set = read.compose([file]), read.compose([], [f"head_lr={text}", "flip_test=true", "epochs=null"])
    for values, source in (by_file, by_set):
        (run,) = read.expand(values, source)
        assert (run.head_lr, run.flip_test, run.epochs) == (number, True, None)


def test_a_key_twice_is_refused_with_both_lines(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 1\n\nvariant: clipid\nseed: 2\n")
    with pytest.raises(UserError, match=r"mine.yaml: seed: stands in line 1 and again in line 4; keep one"):
        read.compose([file])
    file.write_text("seed: [1, 2]\nexclude:\n  - seed: 1\n    seed: 2\n")
    with pytest.raises(UserError, match="seed: stands in line 3 and again in line 4"):
        read.compose([file])


@pytest.mark.parametrize("setting", ["seed=[0,1", "aspect=[dorsal_r, palmar_r", "model=[vitb16, rn50"])
def test_a_list_that_is_not_closed_says_so(setting):
    with pytest.raises(UserError) as refused:
        read.compose([], [setting])
    assert str(refused.value) == f"--set {setting}: the closing bracket of the list is missing; write {setting}]"


def test_aspects_joined_by_a_comma_are_told_both_ways_to_have_several():
    with pytest.raises(UserError, match=r"write dorsal_r\+palmar_r for one run.*\[dorsal_r, palmar_r\] for a run on"):
        read.expand(*read.compose([], ["aspect=dorsal_r,palmar_r"]))


@pytest.mark.parametrize(
    ("setting", "others"),
    [
        ("train=lora-4", "classifier, clipid"),
        ("side_info=camera", "classifier, clipid"),
        ("test_features=after_neck", "classifier"),
    ],
)
def test_a_grid_with_a_variant_that_a_key_does_not_suit_is_told_the_way_out(setting, others):
    with pytest.raises(UserError) as refused:
        read.expand(*read.compose([], [setting, "variant=[frozen, classifier, clipid]"]))
    assert f"; --set 'variant=[{others}]' leaves frozen out of the grid" in str(refused.value)
    assert read.expand(*read.compose([], [setting, f"variant=[{others}]"]))
    with pytest.raises(UserError) as refused:  # one run is no grid
        read.expand(*read.compose([], [setting, "variant=frozen"]))
    assert "grid" not in str(refused.value)
    with pytest.raises(UserError) as refused:  # nor is the variant to blame for what no variant takes
        read.expand(*read.compose([], ["draws=0", "variant=[frozen, classifier]"]))
    assert "grid" not in str(refused.value)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("data_root=/data/hands #2", "/data/hands #2"),
        ("data_root=C:\\hands: new", "C:\\hands: new"),
        ("data_root=[old", "[old"),
        ("data_root=[old] # hands", "[old] # hands"),
        ("data_root={1}", "{1}"),
        ("data_root=- old", "- old"),
        ("data_root=-", "-"),
        ("data_root=~/hands", "~/hands"),
        ("data_root='/data/hands #2'", "/data/hands #2"),
        ("data_root='null'", "null"),
        ("data_root=null", None),
        ("experiment=1.10", "1.10"),
        ("experiment='010'", "010"),
    ],
)
def test_set_takes_text_as_it_stands(setting, value):
    (run,) = read.expand(*read.compose([], [setting]))
    assert getattr(run, setting.partition("=")[0]) == value


def test_lists_expand_into_their_product_and_each_file_answers_for_its_keys(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("variant: [frozen, classifier]\nseed: [0, 1, 2]\n")
    second.write_text("aspect: palmar\n")
    runs = read.expand(*read.compose([first]))
    assert [(run.variant, run.seed) for run in runs] == [
        (variant, seed) for variant in ("frozen", "classifier") for seed in (0, 1, 2)
    ]
    assert len({run.run_id for run in runs}) == 6
    with pytest.raises(UserError, match="b.yaml: aspect"):
        read.expand(*read.compose([first, second]))
    with pytest.raises(UserError, match="--set seed=\\[\\]: seed: the list is empty"):
        read.expand(*read.compose([first], ["seed=[]"]))
    with pytest.raises(UserError, match="write it as key=value"):
        read.compose([first], ["seed"])


@pytest.mark.parametrize(("text", "message"), [("- 1", "holds a list"), ("a: [", "is not YAML")])
def test_a_file_that_is_no_mapping_is_told(tmp_path, text, message):
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        read.compose([file])
    with pytest.raises(UserError, match="none.yaml: cannot be read"):
        read.compose([tmp_path / "none.yaml"])


def test_the_run_id_follows_what_changes_numbers_and_nothing_else(tmp_path):
    base = check.validate_params({})
    for same in (
        {"device": "cpu"},
        {"outputs_root": "elsewhere"},
        {"data_root": "there"},
        {"top_k": 3},
        {"photograph": "who.jpg"},
    ):
        assert check.validate_params(same).run_id == base.run_id
    for other in ({"seed": 1}, {"encoder_lr": 2e-3}, {"prompt_dim": 16}, {"draw_seed": 1}):
        assert check.validate_params(other).run_id != base.run_id
    assert base.resolved().run_id == base.run_id
    weights = tmp_path / "weights.pt"
    ids = []
    for content in (b"one", b"two"):
        weights.write_bytes(content)
        ids.append(check.validate_params({"pretrained": str(weights)}).run_id)
    assert len({*ids, base.run_id}) == 3  # other weights are another run, whatever the file is called
    assert base.resolved().resolved() == base.resolved()


def test_a_notebook_is_told_the_fewest_keys_that_make_the_run():
    assert check.validate_params({}).changed() == {}
    given = {"variant": "frozen", "seed": 3, "encoder_lr": 2e-3}
    run = check.validate_params(given | {"encoder_epochs": recipes.recipe_of("embedded").encoder_epochs}).resolved()
    assert run.changed() == given
    users = check.validate_params(yaml.safe_load(USERS_OWN))
    assert read.from_namespace(users.changed()) == users.resolved()
    assert "prompt_epochs" not in users.changed()


def test_runs_on_the_same_data_share_its_description():
    base = check.validate_params({"variant": "frozen", "seed": 4})
    assert base.data_id == base.data_only().data_id == check.validate_params({}).data_id
    assert base.data_only().changed() == {}
    assert check.validate_params({"draw_seed": 1}).data_id != base.data_id


def test_a_notebooks_names_are_checked_too():
    notebook = {"In": [], "_": 1, "run": object(), "variant": "frozen", "lr": None}
    assert read.from_namespace(notebook).variant == "frozen"
    with pytest.raises(UserError, match="unknown key 'varient'; did you mean 'variant'"):
        read.from_namespace(notebook | {"varient": "frozen"})


def test_the_notebooks_defaults_are_one_of_the_demos_runs():
    demo = read.expand(*read.compose([schema.ROOT / "params" / "demo.yaml"]))
    assert read.from_namespace({}).run_id in {run.run_id for run in demo}


def test_older_words_for_the_prompt_loss_are_read_and_runs_of_version_0_1_0_keep_their_names():
    old = [run_params.Params(prompt_loss=word) for word in ("cosine", "supcon", "infonce")]
    said = [(each.prompt_loss, each.prompt_logits) for each in old]
    assert said == [("supervised", "cosine"), ("supervised", "dot"), ("infonce", "cosine")]
    assert len({each.run_id for each in [*old, run_params.Params(prompt_loss="infonce", prompt_logits="dot")]}) == 4
    # what version 0.1.0 called it; the demo's runs have other names since the embedded weights were trained anew
    assert run_params.Params(dataset="11k", model="vitb16").run_id == "11k-vitb16-dorsal_r-clipid-s0-f3089945"
