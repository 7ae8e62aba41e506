"""`clipreid export`: open_clip alone, and onnxruntime alone, give what the library gives."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import safetensors
import small_models
import torch
from small_runs import TINY, finetune
from torch.nn.functional import normalize

from clipreid_lib.__main__ import main
from clipreid_lib.base import import_fixes
from clipreid_lib.clip import backbone
from clipreid_lib.clip.encode import normalise
from clipreid_lib.params import check
from clipreid_lib.runs import export, loading
from clipreid_lib.runs.results import write_metrics
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import assessment

VIT = {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RN = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 32}
ODD = {  # everything another way than the defaults
    **{"model": "export-vit", "pretrained": "random", "image_size": "64x32", "activation": "quick_gelu"},
    **{"normalisation": "imagenet", "test_resize": "bilinear", "variant": "classifier"},
    **{"test_features": "after_neck", "encoder_epochs": 1},
}
# What a program does that knows open_clip and nothing of this project.
ALONE = """
import json, runpy, sys
kept = runpy.run_path({fix!r})  # some torchvisions cannot be imported as they are
import torch, open_clip
from PIL import Image
folder, photographs = sys.argv[1], json.loads(sys.argv[2])
model, prepare = open_clip.create_model_from_pretrained(f"local-dir:{{folder}}")
pixels = torch.stack([prepare(Image.open(path)) for path in photographs])
with torch.no_grad():
    features = model.eval().encode_image(pixels)
    texts = model.encode_text({tokenizer}(["a photo of a hand"]))
{card}
if {name!r}:
    open_clip.add_model_config({models!r})
    file = f"{{folder}}/open_clip_model.safetensors"
    again = open_clip.create_model({name!r}, pretrained=file, force_image_size=(64, 32), force_quick_gelu=True)
    with torch.no_grad():
        assert torch.equal(again.eval().encode_image(pixels), features)
assert "clipreid_lib" not in sys.modules
torch.save([features, embedding, texts], sys.argv[3])
"""


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    small_models.register(place, {"export-vit": VIT, "export-rn": RN})
    return place


def assess(run: Run) -> Run:
    """Do what notebook 04 does to a run's metrics."""
    encoder = loading.load_trained_encoder(run)
    found = assessment.assess({"image": encoder.embed(run.manifest.in_tests)}, run.manifest, run.params)
    write_metrics(run, {"own": found}, encoder, {}, {})
    return run


@pytest.fixture(scope="module", params=["embedded", "vit"])
def exported(request, tmp_path_factory, shared_outputs, models):
    """A trained run of either family, and the folder it was exported to."""
    more = {"variant": "clipid_no_text", "resize": "crop"} if request.param == "embedded" else ODD
    params = {**TINY, "outputs_root": str(shared_outputs), "experiment": f"export-{request.param}", **more}
    run = Run.open(check.validate_params(params))
    finetune(run)
    folder = tmp_path_factory.mktemp("exported") / request.param
    said = export.export(str(assess(run).folder), str(folder))
    assert said[0].startswith(f"{folder}: README.md") and "16 photographs" in said[1]
    assert re.fullmatch(r".* [0-9]e-0[7-9] of .* and [0-9]e-0[7-9] where open_clip resizes .*", said[1])
    return run, folder


@pytest.mark.training
def test_open_clip_alone_gives_the_same_features(exported, tmp_path, models):
    run, folder = exported
    card, images = (folder / "README.md").read_text(), run.manifest.test.drop_duplicates("path").head(5)
    code, tokenizer = re.search("```python\n(.*?)```", card, re.S)[1], re.search("`(open_clip.get_tok.*?)`", card)[1]
    name = "" if run.params.model == "embedded" else run.params.model
    tokenizer = tokenizer.replace(
        '"export-vit"', '"ViT-B-16", context_length=16'
    )  # which a program alone does not know
    fix = import_fixes.__file__
    program = ALONE.format(fix=fix, card=code, tokenizer=tokenizer, name=name, models=str(models))
    photographs = json.dumps([str(run.data_root / path) for path in images["path"]])
    command = [sys.executable, "-I", "-c", program, str(folder), photographs, str(tmp_path / "out.pt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    features, embedding, texts = torch.load(tmp_path / "out.pt")
    encoder = loading.load_trained_encoder(run)
    wanted, mine = encoder.encode(images).of(images)[:, -features.shape[1] :], encoder.embed(images).of(images)
    assert float(((features - wanted).norm(dim=1) / wanted.norm(dim=1)).max()) < 1e-6
    assert float((embedding - normalize(mine, dim=1)).abs().max()) < 1e-6
    assert float((embedding[0] - embedding[1:]).abs().max()) > 1e-4  # they are not all one
    torch.testing.assert_close(texts, encoder.backbone.encode_texts(["a photo of a hand"]), atol=1e-5, rtol=1e-5)


@pytest.mark.training
def test_the_folder_says_what_it_holds_and_nothing_of_this_machine(exported, tmp_path):
    run, folder = exported
    card, config = (folder / "README.md").read_text(), json.loads((folder / "open_clip_config.json").read_text())
    odd = run.params.model == "export-vit"
    assert config["model_cfg"]["quick_gelu"] is odd
    seen = config["preprocess_cfg"]
    assert seen["size"] == ([64, 32] if odd else [96, 96]) and seen["resize_mode"] == ("squash" if odd else "shortest")
    assert seen["interpolation"] == ("bilinear" if odd else "bicubic")
    assert tuple(seen["mean"]) == loading.load_network(run).backbone.normalisation[0]
    assert ("neck.safetensors" in card) is odd is (folder / "neck.safetensors").exists()
    assert ("merges.txt.gz" in card) is (not odd) is (folder / "merges.txt.gz").exists()
    for heading in ("Model", "Out of scope", "Ethical considerations", "Licences", "The embedding that is compared"):
        assert f"\n## {heading}\n" in card
    assert "drawn here in 11k Hands' layout" in card and "text tower is as it was pretrained" in card
    with safetensors.safe_open(folder / "open_clip_model.safetensors", framework="pt") as file:
        said = str(file.metadata())
    assert run.folder.name in said
    for path in (run.data_root, run.params.outputs_root, tmp_path.parent):
        assert str(path) not in card + said


@pytest.mark.training
def test_a_run_may_start_from_exported_weights(exported):
    run, folder = exported
    shape = (run.params.image_size, None, None) if run.params.model == "export-vit" else (None, None, None)
    again = backbone.load(run.params.model, str(folder / "open_clip_model.safetensors"), *shape)
    mine = loading.load_network(run).backbone
    assert again.activation == mine.activation and again.normalisation == mine.normalisation
    pixels = torch.randint(0, 256, (2, 3, *mine.image_size), dtype=torch.uint8)
    images = normalise(pixels, *mine.normalisation)
    with torch.no_grad():
        assert torch.equal(again.image_features(images).f_proj, mine.image_features(images).f_proj)


@pytest.mark.training
def test_onnxruntime_gives_the_same_embeddings(exported, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    run, _ = exported
    said = export.export(str(run.folder), str(tmp_path / "with"), onnx=True)
    assert "Of 16 photographs, onnxruntime's embeddings are " in said[-1]
    images = run.manifest.test.drop_duplicates("path").head(5)
    encoder = loading.load_trained_encoder(run)
    pixels, mine = run.photographs.load(images, encoder.backbone.image_size), encoder.embed(images).of(images)
    session = runtime.InferenceSession(tmp_path / "with" / "image_encoder.onnx", providers=["CPUExecutionProvider"])
    for part in (slice(0, 1), slice(1, 5)):
        (found,) = session.run(["embedding"], {"pixels": pixels[part]})
        np.testing.assert_allclose(found, normalize(mine[part], dim=1).numpy(), atol=1e-4)
    assert "(batch, 3, " in (tmp_path / "with" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shape", "told"),
    [
        ({"model": "export-vit", "patch_stride": 6}, "patch_stride 6 with patches of 8 pixels"),
        ({"model": "export-rn", "last_stride": 1}, "last_stride 1"),
        ({"model": "export-rn", "last_stride": 2, "image_size": "96x64"}, "image_size 96x64 of a ResNet"),
    ],
)
def test_a_shape_that_open_clip_cannot_say_is_refused_or_onnx_alone(shape, told, open_run, tmp_path, capsys):
    run = assess(open_run(variant="frozen", pretrained="random", experiment="shape", **shape))
    assert main(["export", str(run.folder), "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert f"open_clip's configuration cannot say {told}" in err and "--onnx" in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
    pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    pytest.importorskip("onnxscript", reason="the extra onnx is not installed")
    assert main(["export", str(run.folder), "--out", str(tmp_path / "out"), "--onnx"]) == 0
    assert "exported are the frozen weights" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"README.md", "image_encoder.onnx"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert told in card and "local-dir" not in card


def test_what_has_no_embedding_no_scores_or_no_room_is_refused(open_run, tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("kept")
    votes, fresh = assess(open_run(variant="tip_adapter")), open_run(variant="frozen", seed=7)
    for arguments, told in [
        ([str(votes.folder), "--out", str(tmp_path / "out")], "tip_adapter compares the votes"),
        ([str(fresh.folder), "--out", str(tmp_path / "out")], "has no scores to report"),
        (["embedded", "--out", str(tmp_path / "out")], "embedded: is no run's folder"),
        ([str(votes.folder), "--out", str(tmp_path / "full")], "full: holds something already; give a new folder"),
        ([str(votes.folder)], "the following arguments are required: --out"),
    ]:
        assert main(["export", *arguments]) == 2
        err = capsys.readouterr().err
        assert told in err and err.count("\n") == 1
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["export", str(fresh.folder), "--out", str(tmp_path / "out"), "--onnx"]) == 2
    assert '--onnx: needs onnx, onnxruntime, onnxscript; pip install -e ".[onnx]"' in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_weights_that_came_out_otherwise_are_never_left_behind(open_run, tmp_path, capsys, monkeypatch):
    run, real = assess(open_run(variant="frozen")), export.open_clip.create_model_from_pretrained

    def damaged(*arguments):
        clip, prepare = real(*arguments)
        clip.visual.attnpool.c_proj.bias.data += 1e-3
        return clip, prepare

    monkeypatch.setattr(export.open_clip, "create_model_from_pretrained", damaged)
    assert main(["export", str(run.folder), "--out", str(tmp_path / "out")]) == 2
    assert "open_clip's features differ from the run's by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
