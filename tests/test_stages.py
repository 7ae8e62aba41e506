import copy
import shutil
from dataclasses import replace

import pandas as pd
import pytest
import torch
from small_runs import finetune, learn

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import file_sha
from clipreid_lib.clip import backbone
from clipreid_lib.data.datasets import load_images
from clipreid_lib.method import augment
from clipreid_lib.method.clipid_model import ClipidModel
from clipreid_lib.method.encoder_finetune import EncoderSettings
from clipreid_lib.method.encoder_finetune import finetune as finetune_anything
from clipreid_lib.method.loss_terms import IdentityLoss, Term
from clipreid_lib.method.resume import Keep
from clipreid_lib.method.training_loop import Loop
from clipreid_lib.runs import loading, training

pytestmark = pytest.mark.training


def moved(before: dict, after: dict) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def state(clip) -> dict:
    return copy.deepcopy(clip.clip.state_dict())


def test_stage_2a_moves_prompts_and_nothing_else(open_run):
    run = open_run(variant="clipid")
    clip = loading.load_backbone(run)
    before = state(clip)
    _, bank, log = learn(run, clip)
    assert moved(before, clip.clip.state_dict()) == set()
    tensors, facts = checkpoints.load(run.models / "prompts.safetensors", "prompts")
    assert facts["identities"] == sorted(run.manifest.train["identity"].unique())
    assert torch.equal(tensors["codes"], bank.codes) and bank.codes.abs().max() > 0
    assert list(log["epoch"]) == [1, 2] and log["loss"].iloc[1] < log["loss"].iloc[0]
    assert {"image_to_text", "text_to_image", "text_accuracy"} <= set(log)


@pytest.mark.parametrize(
    ("variant", "terms"),
    [
        ("classifier", {"identity"}),
        ("clipid_no_text", {"identity", "triplet"}),
        ("clipid", {"identity", "triplet", "image_to_text"}),
    ],
)
def test_the_encoder_stages_move_the_image_tower_and_nothing_else(open_run, variant, terms):
    run = open_run(variant=variant)
    if variant == "clipid":
        learn(run)
        prompts = file_sha(run.prompts)
    clip = loading.load_backbone(run)
    before = state(clip)
    _, _, log = finetune(run, clip)
    changed = moved(before, clip.clip.state_dict())
    assert changed and all(name.startswith("visual.") for name in changed)
    trainable = {name for name, p in clip.clip.named_parameters() if name.startswith("visual.")}
    assert trainable <= changed | {n for n in trainable if "num_batches" in n}  # every one of them learns
    assert set(log) - {"epoch", "lr", "loss", "seconds"} == terms
    assert log["loss"].to_numpy() == pytest.approx(log[sorted(terms)].sum(axis=1).to_numpy(), rel=1e-5)
    if variant == "clipid":
        assert file_sha(run.prompts) == prompts
    trained = loading.load_trained_encoder(run)
    assert moved(clip.clip.state_dict(), trained.backbone.clip.state_dict()) == set()
    assert trained.sha == file_sha(run.models / "encoder.safetensors")


def test_same_seed_same_numbers_and_another_seed_others(open_run, tmp_path):
    logs = [
        finetune(open_run(fresh=tmp_path / str(place), variant="clipid_no_text", seed=seed, encoder_epochs=1))[2]
        for place, seed in enumerate((0, 0, 1))
    ]
    assert logs[0]["loss"].tolist() == logs[1]["loss"].tolist() != logs[2]["loss"].tolist()


def test_all_variants_see_the_same_batches(open_run, tmp_path, monkeypatch):
    seen = {}
    for variant in ("classifier", "clipid_no_text", "inversion", "promptsg"):
        batches = seen.setdefault(variant, [])
        spoil = augment.Augment.__call__
        monkeypatch.setattr(
            augment.Augment, "__call__", lambda self, b, to=batches, do=spoil: to.append(do(self, b)) or to[-1]
        )
        finetune(open_run(fresh=tmp_path, variant=variant, encoder_epochs=1))
        monkeypatch.undo()
    assert len(seen["classifier"]) > 1
    for first, *others in zip(*seen.values(), strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_a_run_writes_its_state_once_a_minute(open_run, monkeypatch):
    monkeypatch.delenv("CLIPREID_SAVE_EVERY")
    run = open_run(variant="classifier")
    assert [keep.every for keep in (training.keep_prompts(run), training.keep_encoder(run))] == [60, 60]


class Killed(BaseException):
    """What a kill looks like from inside: nothing catches it."""


@pytest.mark.parametrize("stage", ["prompts", "encoder"])
def test_a_killed_run_goes_on_and_ends_with_the_same_weights(open_run, tmp_path, monkeypatch, stage):
    def start(place):
        run = open_run(fresh=tmp_path / place, variant="clipid" if stage == "prompts" else "clipid_no_text")
        return run, (learn if stage == "prompts" else finetune)

    run, train = start("whole")
    train(run)
    whole, _ = checkpoints.load(run.models / f"{stage}.safetensors", "prompts" if stage == "prompts" else "encoder")

    run, train = start("killed")
    step, steps = torch.optim.Adam.step, []

    def dies(self, *args, **kwargs):
        steps.append(1)
        if len(steps) == total - 1:  # in the middle of the last epoch
            raise Killed
        return step(self, *args, **kwargs)

    total = sum(1 for _ in range(2)) * steps_per_epoch(run, stage)
    monkeypatch.setattr(torch.optim.Adam, "step", dies)
    with pytest.raises(Killed):
        train(run)
    monkeypatch.undo()
    assert (run.models / f"{stage}.resume.pt").exists()
    assert len(pd.read_csv(run.logs / f"{stage}.csv")) == 1
    train(run)
    again, _ = checkpoints.load(run.models / f"{stage}.safetensors", "prompts" if stage == "prompts" else "encoder")
    assert moved(whole, again) == set()
    assert len(train(run)[2]) == 2  # called once more it trains nothing: the state is kept ...
    run.finish("02_prompt_learning" if stage == "prompts" else "03_encoder_finetune")
    assert not (run.models / f"{stage}.resume.pt").exists()  # ... until the notebook has finished


def steps_per_epoch(run, stage) -> int:
    from clipreid_lib.method.sampler import identity_batches

    train = run.manifest.train
    if stage == "prompts":
        return -(-len(train) // run.params.batch_size)
    p = run.params
    return len(identity_batches(train["identity"].to_numpy(), p.batch_size, p.images_per_identity, 1, p.seed))


def test_a_resume_state_that_cannot_be_used_is_announced_with_the_reason(open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="clipid", prompt_epochs=1)
    run.models.mkdir(parents=True)
    state, said = run.models / "prompts.resume.pt", []
    state.write_bytes(b"cut off")
    _, _, log = learn(run, watch=said.append)
    assert len(log) == 1 and "starts again from epoch 1" in said[0] and "prompts.resume.pt: cannot be read" in said[0]
    kept = torch.load(state, weights_only=True)
    torch.save(kept | {"key": "another run's"}, state)
    said.clear()
    learn(run, watch=said.append)
    assert "prompts.resume.pt: is of other settings or data" in said[0] and "epoch 1/1" in said[1]


def test_a_state_of_other_settings_or_terms_is_not_gone_on_from(tmp_path):
    clip, said = backbone.load("embedded"), []
    images, labels = torch.randint(0, 255, (8, 3, 96, 96), dtype=torch.uint8), [0, 0, 1, 1, 2, 2, 3, 3]
    keep = Keep(tmp_path / "log.csv", tmp_path / "resume.pt")
    settings = EncoderSettings(epochs=2, batch_size=8, images_per_identity=2)
    terms = {"identity": Term(1.0, IdentityLoss())}

    def train(terms, settings):
        said.clear()
        finetune_anything(clip, images, labels, terms, settings, keep=keep, watch=said.append)
        return said[1]  # after the number of steps

    train(terms, settings)
    assert "going on after epoch 2 of 2" in train(terms, settings)
    assert "is of other settings or data" in train(terms, replace(settings, lr=1e-3))
    assert "is of other settings or data" in train({"identity": Term(0.5, IdentityLoss())}, settings)
    assert "is of other settings or data" in train({"identity": Term(0.5, IdentityLoss(0.0))}, settings)


def test_prompts_of_other_people_are_refused(open_run, tmp_path):
    run = open_run(variant="clipid")
    clip, bank, _ = learn(run)
    tensors, facts = checkpoints.load(run.prompts, "prompts")
    theirs = tmp_path / "prompts.safetensors"
    checkpoints.save(theirs, tensors, facts | {"identities": [1, 2, 3]})
    other = open_run(variant="clipid", mode="img_encoder_finetune", resume_prompt=str(theirs))
    with pytest.raises(UserError, match="its identities is \\[1, 2, 3\\], this run has"):
        training.load_prompts(other, clip)
    checkpoints.save(theirs, tensors, facts)
    assert torch.equal(training.load_prompts(other, clip).anchors(clip), bank.anchors(clip))


@pytest.mark.parametrize(
    ("theirs", "told"),
    [
        ({"aspect": "palmar_r"}, "its aspect is 'palmar_r', this run has 'dorsal_r'"),
        ({"demo_seed": 5}, "its demo_seed is 5, this run has 0"),  # other people under the same numbers
        ({"num_prompts": 2}, "its num_prompts is 2, this run has 4"),
        ({"prompt_dim": 8}, "its prompt_dim is 8, this run has None"),
        ({"prompt_form": "shared"}, "its prompt_form is 'shared', this run has 'learned'"),
    ],
)
def test_prompts_of_other_params_are_refused(theirs, told, open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="clipid", prompt_epochs=1, **theirs)
    clip, *_ = learn(run)
    other = open_run(variant="clipid", mode="img_encoder_finetune", resume_prompt=str(run.prompts))
    with pytest.raises(UserError, match=f"prompts.safetensors: {told}"):
        training.load_prompts(other, clip)


def test_prompts_of_another_folders_people_are_refused(open_run, hands, tmp_path):
    table = load_images("11k", hands)
    runs = []
    for who in ("Ada", "Bo"):
        for name, rows in table[table["aspect"] == "dorsal_r"].groupby("identity"):
            (tmp_path / who / f"{who} {name}").mkdir(parents=True)
            for path in rows["path"]:
                shutil.copy(hands / path, tmp_path / who / f"{who} {name}")
        mine = {"dataset": "folder", "aspect": "hand", "data_root": str(tmp_path / who), "variant": "clipid"}
        runs.append((mine, open_run(fresh=tmp_path / f"{who}'s", prompt_epochs=1, **mine)))
    (_, run), (its, _) = runs
    clip, *_ = learn(run)
    other = open_run(fresh=tmp_path / "2b", **its, mode="img_encoder_finetune", resume_prompt=str(run.prompts))
    with pytest.raises(UserError, match="prompts.safetensors: was learned for people of other names"):
        training.load_prompts(other, clip)
    facts = checkpoints.load(run.prompts, "prompts")[1]
    assert "Ada" not in str({**facts, "params": ""})


def test_missing_parents_are_told(open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="clipid")
    with pytest.raises(UserError, match="no learned prompts there; run notebook 02"):
        finetune(run)
    with pytest.raises(UserError, match="no trained encoder there; run notebook 03"):
        loading.load_trained_encoder(run)


def test_validation_people_are_scored_every_epoch(open_run, tmp_path):
    run = open_run(
        fresh=tmp_path, variant="classifier", validation="identity_disjoint", demo_people=20, encoder_epochs=1
    )
    log = finetune(run)[2]
    assert log["validation_rank1"].between(0, 1).all() and log["validation_map"].between(0, 1).all()


def test_a_loss_that_is_no_number_is_told(open_run, tmp_path):
    run = open_run(fresh=tmp_path, variant="classifier", encoder_lr=1e30)
    with pytest.raises(UserError, match="encoder: the loss is .* in epoch .; lower the learning rate"):
        finetune(run)


def test_biases_learn_at_their_own_rate():
    model = ClipidModel(backbone.load("embedded"), 3)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = model.parameter_groups(1e-3, 1e-2, bias_factor=2.0)
    learning = [p for p in model.parameters() if p.requires_grad]
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in learning)
    for group in groups:
        for p in group["params"]:
            head, bias = "head" in names[id(p)], "bias" in names[id(p)]
            assert group["peak"] == (1e-2 if head else 1e-3) * (2.0 if bias else 1.0)


def test_accumulated_batches_make_the_step_of_their_mean_gradient():
    def train(accumulate):
        learner = torch.nn.Linear(2, 1, bias=False)
        torch.nn.init.ones_(learner.weight)
        group = {"params": list(learner.parameters()), "lr": 0.1, "peak": 0.1}
        return learner, Loop(
            name="any", epochs=1, seed=0, learner=learner, optimiser=torch.optim.SGD([group]), measure=dict,
            rate=lambda epoch, epochs, peak: peak, batches=lambda epoch: [1.0, 2.0, 3.0, 4.0],
            losses=lambda batch: {"any": (learner(torch.full((1, 2), batch))).square().sum()}, accumulate=accumulate,
        )  # fmt: skip

    learner, loop = train(4)
    loop._train_epoch(0, torch.amp.GradScaler("cpu", enabled=False))
    # gradient of (b w1 + b w2)^2 is 2 b^2 (w1 + w2) = 4 b^2 at first; mean over 1, 4, 9, 16 is 7.5 times 4
    torch.testing.assert_close(learner.weight.detach(), torch.full((1, 2), 1 - 0.1 * 4 * 7.5))


def test_a_bar_moves_where_a_person_watches_and_a_batch_run_prints_lines_alone(open_run, tmp_path, monkeypatch, capsys):
    for place, session in (("batch", None), ("lab", "02_prompt_learning.ipynb")):
        monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
        if session:
            monkeypatch.setenv("JPY_SESSION_NAME", session)
        learn(open_run(fresh=tmp_path / place, variant="clipid", prompt_epochs=1))
        out, err = capsys.readouterr()
        assert out.count("epoch 1/1") == (0 if session else 1) and ("\rprompts: epoch 1.0 of 1" in out) == bool(session)
        assert "text_accuracy" in out and err == ""  # Jupyter shows what is on stderr as an error


def test_a_last_group_of_fewer_batches_is_averaged_over_those():
    seen = []
    learner = torch.nn.Linear(1, 1, bias=False)
    optimiser = torch.optim.SGD([{"params": list(learner.parameters()), "lr": 0.0, "peak": 0.0}])
    optimiser.register_step_pre_hook(lambda *_: seen.append(float(learner.weight.grad)))
    loop = Loop(
        name="any", epochs=1, seed=0, learner=learner, optimiser=optimiser, measure=dict, accumulate=4,
        rate=lambda epoch, epochs, peak: peak, batches=lambda epoch: [1.0, 1.0, 3.0, 3.0, 5.0],
        losses=lambda batch: {"any": learner(torch.tensor([[batch]])).sum()},
    )  # fmt: skip
    loop._train_epoch(0, torch.amp.GradScaler("cpu", enabled=False))
    assert seen == [2.0, 5.0]


def test_side_information_needs_two_values_and_a_stage_that_learns_it(open_run):
    with pytest.raises(UserError, match="side_info: frozen, mode full, trains no image encoder"):
        open_run(variant="frozen", model="vitb32", pretrained="random", side_info="camera")
    run = open_run(variant="classifier", model="ViT-S-32", pretrained="random", side_info="camera")
    with pytest.raises(UserError, match="the training images have one camera alone, 0; use none"):
        loading.load_backbone(run)


def test_prompts_of_another_resize_rule_are_refused(open_run):
    run = open_run(variant="clipid")
    clip, _, _ = learn(run)
    other = open_run(variant="clipid", mode="img_encoder_finetune", resume_prompt=str(run.prompts), resize="crop")
    with pytest.raises(UserError, match="its resize is 'squash', this run has 'crop'"):
        training.load_prompts(other, clip)


def test_bf16_and_checkpointing_train_too(open_run, tmp_path):
    exact = finetune(open_run(fresh=tmp_path / "a", variant="clipid_no_text", encoder_epochs=1))[2]
    coarse = finetune(open_run(fresh=tmp_path / "b", variant="clipid_no_text", encoder_epochs=1, precision="bf16"))[2]
    frugal = finetune(open_run(fresh=tmp_path / "c", variant="clipid_no_text", encoder_epochs=1, checkpointing=True))[2]
    assert coarse["loss"].iloc[0] == pytest.approx(exact["loss"].iloc[0], rel=0.1)
    assert coarse["loss"].iloc[0] != exact["loss"].iloc[0]
    assert frugal["loss"].iloc[0] == pytest.approx(exact["loss"].iloc[0], rel=1e-3)


def test_checkpoints_describe_themselves(open_run):
    run = open_run(variant="clipid")
    learn(run)
    finetune(run)
    for path, kind in ((run.prompts, "prompts"), (run.models / "encoder.safetensors", "encoder")):
        _, facts = checkpoints.load(path, kind)
        assert facts["identities"] == sorted(run.manifest.train["identity"].unique())
        assert facts["params"] == run.params.model_dump() and facts["versions"]["torch"] and facts["seed"] == 0
        assert facts["manifest_sha"] == run.manifest.sha and facts["image_size"] == "96" and facts["last_stride"] == 2
    assert facts["prompts_sha"] == file_sha(run.prompts)
    _, facts = checkpoints.load(run.prompts, "prompts")
    assert facts["sentences"] == ["a photo of a x x x x hand."] and len(facts["token_ids"][0]) > 8
    changed = open_run(variant="clipid", image_size="80", mode="img_encoder_finetune", resume_prompt=str(run.prompts))
    with pytest.raises(UserError, match="its image_size is '96', this run has '80'"):
        finetune(changed)
