"""Weights for other programs: ``clipreid export`` writes what open_clip loads by itself, and an ONNX file."""

import contextlib
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image, ImageOps

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import write_json, write_text
from clipreid_lib.clip import tower_shapes
from clipreid_lib.clip.backbone import Backbone, name_in_open_clip
from clipreid_lib.clip.encode import encode, normalise
from clipreid_lib.data.photographs import Photographs
from clipreid_lib.pages import export_card
from clipreid_lib.params.recipes import EMBEDDED, MERGES, SHIPPED, WEIGHTS_CONFIG
from clipreid_lib.params.run_params import Params
from clipreid_lib.runs.loading import load_network
from clipreid_lib.runs.recognizer import VOTES
from clipreid_lib.runs.run import Run
from clipreid_lib.scores.finished_run import FinishedRun

import open_clip  # isort: skip

WEIGHTS, ONNX = "open_clip_model.safetensors", "image_encoder.onnx"
NEEDED = ("onnx", "onnxruntime", "onnxscript")  # packages, for --onnx
SEEN = 16  # photographs that exported files are checked on
NEAR = 1e-6  # of its length, that a feature of open_clip may differ by: rounding apart, it is the same network


def export(run: str, out: str, onnx: bool = False) -> list[str]:
    """Write a run's encoder with its model card into a new folder, check it, and return what to print.

    Args:
        run: folder of an evaluated run.
        out: the folder to write; it must be empty or not there yet.
        onnx: write the image encoder as ONNX too. A network that open_clip's configuration cannot describe is written
            as ONNX alone.

    Raises:
        UserError: the run has no scores, no encoder of its own kind, or a shape that open_clip does not know; its
            photographs are not there to check with; a file differs from the run's encoder; the folder holds files.
    """
    target = Path(out).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"--out {out}: holds something already; give a new folder")
    if onnx and (lacking := [name for name in NEEDED if not importlib.util.find_spec(name)]):
        raise UserError(f'--onnx: needs {", ".join(lacking)}; pip install -e ".[onnx]" in the project\'s folder')
    finished = FinishedRun.open(Path(run).expanduser())
    params = finished.params
    if params.variant == "tip_adapter":
        raise UserError(f"{run}: {VOTES}")
    if params.composes != "none":
        raise UserError(
            f"{run}: promptsg composes features, which open_clip cannot; clipreid embed writes its embeddings"
        )
    if params.side_info != "none":
        told = f"was trained with a vector for each {params.side_info}, which no other program would add"
        raise UserError(f"{run}: {told}; train it with side_info: none")
    here = Run(params.model_copy(update={"device": "cpu"}), finished.folder)
    network = load_network(here)
    clip = network.backbone
    lost = _find_lost(clip)
    if lost and not onnx:
        raise UserError(f"{run}: {lost}; --onnx writes the image encoder alone")
    images = finished.manifest.test.drop_duplicates("path").head(SEEN)
    pixels = torch.from_numpy(Photographs(here.data_root, rule=here.rule).load(images, clip.image_size))
    told = f"{finished.name} trains no image encoder; exported are the frozen weights it began with"
    said = [] if params.trains_encoder else [told]
    with _making(target) as folder:
        parity = written = ""
        if not lost:
            _write_open_clip(folder, params, clip, {"run": finished.name, "checkpoint": network.sha})
            if network.neck:
                content = safetensors.torch.save({name: each.contiguous() for name, each in network.neck.items()})
                (folder / "neck.safetensors").write_bytes(content)
            parity = _compare_open_clip(folder, clip, [here.data_root / path for path in images["path"]], pixels)
        if onnx:
            from clipreid_lib.runs import onnx_file

            written = onnx_file.write(folder / ONNX, network, pixels)
        card = export_card.write_card(finished, clip, bool(network.neck), lost, parity, written)
        write_text(folder / "README.md", card)
        names = sorted(path.name for path in folder.iterdir())
    return [*said, f"{target}: {', '.join(names)}", *filter(None, [parity, written])]


@contextlib.contextmanager
def _making(target: Path) -> Iterator[Path]:
    """Yield a folder beside ``target``; it becomes ``target`` if the block ends well."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as place:
            folder = Path(place) / "made"
            folder.mkdir()
            yield folder
            os.replace(folder, target)  # an empty folder gives way
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error})") from None


def _find_lost(clip: Backbone) -> str:
    """Say why open_clip alone would not compute what this network does; empty where it would."""
    visual, (height, width) = clip.clip.visual, clip.image_size
    if clip.is_timm or (clip.is_vit and not clip.has_class_token):
        return f"open_clip alone does not give the features that are compared of {clip.name}"
    odd = ""
    if clip.is_vit:
        stride, patch = visual.conv1.stride, tuple(visual.patch_size)
        odd = "" if stride == patch else f"patch_stride {stride[0]} with patches of {patch[0]} pixels"
    elif visual.layer4[0].stride != 2:
        odd = f"last_stride {visual.layer4[0].stride}"
    elif height != width or tower_shapes.grid_of(visual, (height, width)) != (height // 32, width // 32):
        odd = f"image_size {height}x{width} of a ResNet, only squares of a multiple of 32"
    quietly = "and it would quietly load these weights into another network"
    return odd and f"open_clip's configuration cannot say {odd}, {quietly}"


def _write_open_clip(folder: Path, params: Params, clip: Backbone, facts: dict) -> None:
    checkpoints.save(folder / WEIGHTS, clip.clip.state_dict(), {"kind": "open_clip", **facts})
    network: dict[str, Any] = open_clip.get_model_config(name_in_open_clip(params.model))
    height, width = clip.image_size
    network["vision_cfg"]["image_size"] = height if height == width else [height, width]
    network["quick_gelu"] = clip.activation == "quick_gelu"
    mean, std = clip.normalisation
    seen = {"size": [height, width], "mode": "RGB", "mean": mean, "std": std, "interpolation": params.test_resize}
    resize = {"squash": "squash", "crop": "shortest"}[params.resize]
    write_json(folder / WEIGHTS_CONFIG, {"model_cfg": network, "preprocess_cfg": {**seen, "resize_mode": resize}})
    if params.model == EMBEDDED:
        shutil.copyfile(SHIPPED / MERGES, folder / MERGES)


def _compare_open_clip(folder: Path, clip: Backbone, photographs: list[Path], pixels: torch.Tensor) -> str:
    """Load what was written as any program would, compare image features, and say by how much they differ."""
    loaded, prepare = open_clip.create_model_from_pretrained(f"local-dir:{folder}")
    loaded.eval()
    prepared = torch.stack([prepare(ImageOps.exif_transpose(Image.open(path))) for path in photographs])
    mine = encode(clip, pixels).in_text_space
    apart = []
    with torch.no_grad():
        for images in (normalise(pixels, *clip.normalisation), prepared):
            found = loaded.encode_image(images)
            apart.append(float(((found - mine).norm(dim=1) / mine.norm(dim=1)).max()))
    if not apart[0] <= NEAR:
        raise UserError(f"export: open_clip's features differ from the run's by {apart[0]:.1e} of their length")
    return (
        f"Of {len(pixels)} photographs, open_clip's image features are {apart[0]:.0e} of their length apart from the "
        f"run's, and {apart[1]:.0e} where open_clip resizes them too."
    )
