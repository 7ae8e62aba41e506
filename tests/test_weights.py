"""Files of weights as people have them: which load, how they were trained, and what is said of the others."""

import argparse
import json
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from small_models import TEXT, register
from torch import nn

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.clip import backbone, weights
from clipreid_lib.method.prompt_bank import PromptBank
from clipreid_lib.params import check
from clipreid_lib.runs import loading

VIT = {"image_size": 48, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}  # 6 x 6 places
RN = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}


@pytest.fixture(scope="module", autouse=True)
def _models(tmp_path_factory):
    register(tmp_path_factory.mktemp("models"), {"file-vit": VIT, "file-rn": RN})


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    """A whole CLIP under open_clip's names, in numbers that float16 holds as well."""
    state = backbone.load("file-vit", "random").clip.state_dict()
    return {name: tensor.half().float() for name, tensor in state.items()}


def write_archive(state: dict[str, torch.Tensor], path) -> None:
    """Write TorchScript as OpenAI does: half precision, and three more numbers."""
    top, more = nn.Module(), {"input_resolution": 48, "context_length": 16, "vocab_size": 49408}
    for name, tensor in ({key: value.half() for key, value in state.items()} | more).items():
        *parents, last = name.split(".")
        part = top
        for parent in parents:
            if parent not in dict(part.named_children()):
                part.add_module(parent, nn.Module())
            part = getattr(part, parent)
        part.register_buffer(last, torch.as_tensor(tensor))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(top).save(path)


def write_clip_reid(path, model: str, parallel: bool = False, **shape) -> backbone.Backbone:
    """Write what CLIP-ReID's code saves of a person model of this shape; return the tower in it."""
    clip = backbone.load(model, "random", **shape)
    state = {f"image_encoder.{name}": tensor for name, tensor in clip.clip.visual.state_dict().items()}
    text = {name: each for name, each in clip.clip.state_dict().items() if name.startswith(("transformer.", "ln_"))}
    state |= {f"text_encoder.{name}": tensor for name, tensor in text.items()}
    state |= {"classifier.weight": torch.zeros(5, 64), "bottleneck.num_batches_tracked": torch.tensor(3)}
    state["prompt_learner.cls_ctx"] = torch.zeros(5, 4, 32)
    torch.save({f"module.{name}" if parallel else name: tensor for name, tensor in state.items()}, path)
    return clip


def features(clip) -> torch.Tensor:
    with torch.no_grad():
        pixels = torch.randn(2, 3, *clip.image_size, generator=torch.Generator().manual_seed(0))
        return clip.image_features(pixels).embedding


def test_openais_archive_loads_with_its_own_activation_whatever_the_name(whole, tmp_path):
    write_archive(whole, tmp_path / "ViT.pt")
    torch.save(whole, tmp_path / "plain.pt")
    clip = backbone.load("file-vit", str(tmp_path / "ViT.pt"))
    same = backbone.load("file-vit", str(tmp_path / "plain.pt"), activation="quick_gelu")
    assert all(torch.equal(one, other) for one, other in zip(clip.parameters(), same.parameters(), strict=True))
    assert torch.equal(features(clip), features(same))
    assert torch.equal(clip.encode_texts(["a hand"]), same.encode_texts(["a hand"]))
    assert clip.activation == "quick_gelu" and "quick_gelu (as OpenAI's archive says)" in clip.assumed
    assert not torch.equal(features(clip), features(backbone.load("file-vit", str(tmp_path / "plain.pt"))))


@pytest.mark.parametrize("numpy", ["numpy._core", "numpy.core"])  # as version 2 and version 1 write
def test_a_training_checkpoint_with_numpy_scalars_loads(whole, tmp_path, numpy):
    optimizer = {"lr": np.float64(1e-4), "step": np.int64(3), "on": np.bool_(True), "state": np.arange(3)}
    wrapped = {f"module.{name}": tensor for name, tensor in whole.items()}
    torch.save({"epoch": 3, "name": "mine", "state_dict": wrapped, "optimizer": optimizer}, tmp_path / "new.pt")
    with zipfile.ZipFile(tmp_path / "new.pt") as new, zipfile.ZipFile(tmp_path / "epoch_3.pt", "w") as old:
        for entry in new.namelist():
            content = new.read(entry)
            old.writestr(entry, content.replace(b"numpy._core", numpy.encode()) if "data.pkl" in entry else content)
    clip = backbone.load("file-vit", str(tmp_path / "epoch_3.pt"))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in clip.clip.state_dict().items())


class Trap:
    def __reduce__(self):
        return (print, ("this ran",))


def test_no_file_runs_its_code(whole, tmp_path, capsys):
    for held in (Trap(), argparse.Namespace(epochs=3)):
        torch.save({"state_dict": whole, "args": held}, tmp_path / "a.pt")
        with pytest.raises(UserError, match="a.pt: holds other objects than weights .*state_dict alone"):
            backbone.load("file-vit", str(tmp_path / "a.pt"))
    assert "this ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "shape", "said"),
    [
        ("file-vit", {"image_size": "64x32"}, "mean 0.5 0.5 0.5 and deviation 0.5 0.5 0.5"),
        ("file-vit", {"image_size": "64x32", "patch_stride": 6}, "mean 0.5 0.5 0.5"),
        ("file-vit", {}, "mean 0.5 0.5 0.5"),
        ("file-rn", {"image_size": "96x64", "last_stride": 1}, "mean 0.485 0.456 0.406"),
    ],
)
def test_clip_reids_image_encoder_loads_in_the_shape_it_was_trained_in(tmp_path, model, shape, said):
    theirs = write_clip_reid(tmp_path / "ViT-B-16_60.pth", model, parallel=bool(shape), **shape)
    clip = backbone.load(model, str(tmp_path / "ViT-B-16_60.pth"), **shape)
    state = theirs.clip.visual.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in clip.clip.visual.state_dict().items())
    assert clip.activation == "quick_gelu" and said in clip.assumed and "CLIP-ReID's checkpoint says" in clip.assumed
    with pytest.raises(UserError, match="holds an image encoder alone, which reads no sentences; use variant frozen"):
        PromptBank(clip, [1, 2], 4)
    with pytest.raises(UserError, match="reads no sentences"):
        clip.encode_texts(["a hand"])


def test_clip_reids_tables_and_vectors_that_do_not_fit_are_told(tmp_path):
    path = tmp_path / "ViT-B-16_60.pth"
    write_clip_reid(path, "file-vit", image_size="64x40")
    with pytest.raises(UserError, match="embeddings for 40 places, file-vit has 36 here; give image_size"):
        backbone.load("file-vit", str(path))
    with pytest.raises(UserError, match="40 places, file-vit has 32 here"):
        backbone.load("file-vit", str(path), image_size="64x32")
    torch.save(torch.load(path) | {"cv_embed": torch.zeros(6, 64)}, path)
    with pytest.raises(UserError, match="trained with vectors of cameras or views"):
        backbone.load("file-vit", str(path), image_size="64x40")


def test_a_larger_square_table_is_kept_where_its_size_is_asked_for_and_told_where_not(tmp_path):
    large = backbone.load("file-vit", "random", image_size=64)
    torch.save(large.clip.state_dict(), tmp_path / "large.pt")
    kept = backbone.load("file-vit", str(tmp_path / "large.pt"), image_size=64)
    assert torch.equal(features(kept), features(large)) and "interpolated" not in kept.assumed
    smaller = backbone.load("file-vit", str(tmp_path / "large.pt"))
    assert "position embeddings of 64 places interpolated to 36" in smaller.assumed


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is an empty file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 3\n", "is a git-lfs pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html>\n", "is a web page"),
        (b"/annex/objects/SHA256E-s3--1.pt\n", "is no file of weights, or is cut short"),
        (b"PK\x03\x04", "is cut short or damaged"),
        ({}, "holds no weights by name, but nothing"),
        ({"token_embedding.weight": torch.zeros(3)}, "has no image tower"),
        ({"epoch": 3, "model": "ViT"}, "holds no weights by name, but epoch, model"),
        ({"vision_model.embeddings.class_embedding": torch.zeros(3)}, "is a CLIP as the transformers library names it"),
        ({"head_proj.weight": torch.zeros(3)}, "is an image encoder that a run of this project trained"),
        ({"a": torch.tensor([1.0, float("nan")]), "b": torch.ones(2)}, "1 of its 2 tensors hold NaN or infinity.* a;"),
        ({"a": torch.tensor([float("inf")]).half()}, "1 of its 1 tensors hold NaN or infinity"),
    ],
)
@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_what_is_no_file_of_weights_is_named_for_what_it_is(tmp_path, content, message, suffix):
    path = tmp_path / f"w.{suffix}"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif suffix == "pt" or not all(isinstance(each, torch.Tensor) for each in content.values()):
        torch.save(content, path)
    else:
        safetensors.torch.save_file(content, path)
    with pytest.raises(UserError, match=f"^pretrained: .*w.{suffix}: {message}") as error:
        backbone.load("file-vit", str(path))
    assert "\n" not in str(error.value)


def test_large_numbers_are_no_infinity(tmp_path):
    torch.save({"a": torch.full((3,), 3e38), "b": torch.full((3,), 6e4).half()}, tmp_path / "large.pt")
    assert len(weights.read(str(tmp_path / "large.pt"), "file-vit").tensors) == 2


def test_a_file_that_is_cut_short_is_told(whole, tmp_path):
    for name, save in (("w.pt", torch.save), ("w.safetensors", safetensors.torch.save_file)):
        save(whole, tmp_path / name)
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:9000])
        with pytest.raises(UserError, match=f"{name}: is cut short or damaged.*; copy or download it again"):
            backbone.load("file-vit", str(tmp_path / name))


def test_the_configuration_beside_a_file_is_honoured_and_a_key_counts_more(whole, tmp_path):
    torch.save(whole, tmp_path / "mine.pt")
    plain = backbone.load("file-vit", str(tmp_path / "mine.pt"))
    assert plain.activation == "gelu" and plain.assumed.count("(the model's own)") == 2
    network = {"embed_dim": 16, "vision_cfg": VIT, "text_cfg": TEXT, "quick_gelu": True}
    pixels = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic"}
    beside = tmp_path / "open_clip_config.json"
    beside.write_text(json.dumps({"model_cfg": network, "preprocess_cfg": pixels}))
    told = backbone.load("file-vit", str(tmp_path / "mine.pt"))
    assert told.activation == "quick_gelu" and told.normalisation == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert told.assumed.count("(as open_clip_config.json says)") == 2
    assert not torch.equal(features(told), features(plain))
    given = backbone.load("file-vit", str(tmp_path / "mine.pt"), activation="gelu", normalisation="imagenet")
    assert torch.equal(features(given), features(plain)) and given.normalisation[0] == (0.485, 0.456, 0.406)
    assert given.assumed.count("(as params say)") == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "cannot be read as open_clip's configuration"),
        ("[1]", "cannot be read as open_clip's configuration"),
        ({"preprocess_cfg": {"mean": [0.5], "std": [0.5]}}, "mean and std are three numbers each"),
        ({"preprocess_cfg": {"mean": [0.5] * 3, "std": [0.0] * 3}}, "mean and std are three numbers each"),
        (
            {"model_cfg": {"vision_cfg": VIT | {"head_width": 16}, "text_cfg": TEXT}},
            "is of another network: its vision_cfg.head_width is 16, that of file-vit 32",
        ),
        (
            {"model_cfg": {"vision_cfg": VIT, "text_cfg": TEXT | {"heads": 4}}},
            "is of another network: its text_cfg.heads is 4, that of file-vit 2",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(whole, tmp_path, config, message):
    torch.save(whole, tmp_path / "mine.pt")
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "open_clip_config.json").write_text(text)
    with pytest.raises(UserError, match=f"open_clip_config.json.*{message}"):
        backbone.load("file-vit", str(tmp_path / "mine.pt"))


def test_checkpoints_of_another_activation_or_normalisation_do_not_fit_and_older_ones_still_do(tmp_path):
    own = backbone.describe(backbone.load("file-vit", "random"))
    quick = backbone.describe(backbone.load("file-vit", "random", activation="quick_gelu"))
    other = backbone.describe(backbone.load("file-vit", "random", normalisation="inception"))
    assert own["model"] == "file-vit"  # as before there was a choice
    for found, wanted in ((own, quick), (quick, own)):
        with pytest.raises(UserError, match="its model is 'file-vit( with quick_gelu)?', this run has 'file-vit"):
            checkpoints.require(tmp_path, found, wanted)
    with pytest.raises(UserError, match="its mean is"):
        checkpoints.require(tmp_path, own, other)


def test_words_and_tags_that_contradict_are_refused():
    with pytest.raises(UserError, match="activation: 'relu' is unknown; use gelu, quick_gelu"):
        backbone.load("file-vit", "random", activation="relu")
    with pytest.raises(UserError, match="normalisation: 'none' is unknown; use clip, imagenet, inception"):
        backbone.load("file-vit", "random", normalisation="none")
    with pytest.raises(UserError, match="activation: .* were trained with quick_gelu, not gelu"):
        backbone.load("vitb16", activation="gelu")


def test_the_keys_and_the_configuration_beside_a_file_make_another_run(tmp_path):
    (tmp_path / "mine.pt").write_bytes(b"one")
    given = {"model": "ViT-B-16", "pretrained": str(tmp_path / "mine.pt")}
    ids = [check.validate_params(given).run_id]
    ids += [check.validate_params(given | more).run_id for more in ({"activation": "gelu"}, {"normalisation": "clip"})]
    for text in ("{}", '{"preprocess_cfg": {}}'):
        (tmp_path / "open_clip_config.json").write_text(text)
        ids.append(check.validate_params(given).run_id)
    assert len(set(ids)) == 5


def test_a_run_says_once_what_is_assumed_of_a_file(open_run, tmp_path, capsys):
    torch.save(backbone.load("embedded").clip.state_dict(), tmp_path / "mine.pt")
    run = open_run(variant="frozen", pretrained=str(tmp_path / "mine.pt"), normalisation="imagenet")
    assert loading.load_pretrained_encoder(run).backbone.normalisation[0] == (0.485, 0.456, 0.406)
    loading.load_backbone(run)
    said = capsys.readouterr().out
    assert said.count("mine.pt: activation ") == 1 and "mean 0.485 0.456 0.406" in said
    loading.load_backbone(open_run(variant="frozen"))
    assert capsys.readouterr().out == ""
