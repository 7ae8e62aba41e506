"""Files of weights as people have them: reads them without running their code, and says how they were trained.

Read are open_clip's state dicts, safetensors and training checkpoints, OpenAI's own TorchScript archives, and the image
encoder of a checkpoint of CLIP-ReID's code. Whatever else lies under such a name is refused by what it is.
"""

import json
import math
import re
import warnings
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch

from clipreid_lib.base.errors import UserError
from clipreid_lib.params.recipes import WEIGHTS_CONFIG

import open_clip  # isort: skip
from open_clip import constants, model  # isort: skip

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # channel means and deviations, of values in [0, 1]

ACTIVATIONS = ("gelu", "quick_gelu")
NORMALISATIONS: dict[str, Statistics] = {
    "clip": (constants.OPENAI_DATASET_MEAN, constants.OPENAI_DATASET_STD),
    "imagenet": (constants.IMAGENET_MEAN, constants.IMAGENET_STD),
    "inception": (constants.INCEPTION_MEAN, constants.INCEPTION_STD),
}
OPENAI_ALONE = {"input_resolution", "context_length", "vocab_size"}  # numbers that only OpenAI's archives hold
ENCODER = "image_encoder."  # how names begin in CLIP-ReID's checkpoints
TABLES = ("visual.positional_embedding", "visual.attnpool.positional_embedding")  # of a ViT, of a ResNet
# What cannot be loaded, by how names in it begin.
OTHERS = {
    "vision_model.": "is a CLIP as the transformers library names it; take open_clip's or OpenAI's file of that model",
    "cv_embed": "its CLIP-ReID was trained with vectors of cameras or views (SIE); take one trained without them",
    "head_proj.": "is an image encoder that a run of this project trained; `clipreid across RUN` tests it",
}
# What is no file of weights at all, by its first bytes.
IMPOSTORS = {
    b"version https://git-lfs": "is a git-lfs pointer, not the weights themselves; `git lfs pull` fetches them",
    b"<!doctype": "is a web page, not weights; download the file itself",
    b"<html": "is a web page, not weights; download the file itself",
}
FETCH = "copy or download it again"
NO_CHANGE = {"image_size", "patch_dropout", "hf_tokenizer_name", "tokenizer_kwargs"}  # same network, whatever they say
# A checkpoint of a training may hold its learning rate as a NumPy number, named as NumPy 1 or 2 does.
_MAKERS = [np.float64(0).__reduce__()[0], np.array(0).__reduce__()[0]]
NUMPY: list = [
    *((make, f"numpy.{core}.multiarray.{make.__name__}") for make in _MAKERS for core in ("core", "_core")),  # type: ignore[union-attr]
    *(np.dtype, np.ndarray, *{type(np.dtype(code)) for code in "?bhilqBHILQefd"}),
]


@dataclass(frozen=True)
class Weights:
    """What a file holds, and what is known of its training: its activation and statistics, None where nothing is.

    Attributes:
        path: of the file.
        tensors: by open_clip's names.
        told_by: what says so.
        activation: ``gelu`` or ``quick_gelu``.
        normalisation: channel means and deviations.
        image_only: whether it lacks the text tower.
    """

    path: str
    tensors: dict[str, torch.Tensor]
    told_by: str
    activation: str | None = None
    normalisation: Statistics | None = None
    image_only: bool = False


def read(path: str, name: str) -> Weights:
    """Read a file of weights for the open_clip model of this name.

    CLIP-ReID's files do not say how they were trained; taken is what its configs for people say (QuickGELU; mean and
    deviation 0.5 for ViTs, ImageNet's for ResNets).

    Raises:
        UserError: it is no file of weights or one of another kind, its numbers are not finite, or the configuration
            beside it is of another network.
    """
    tensors = read_tensors(path)
    for start, what in OTHERS.items():
        if any(key.startswith(start) for key in tensors):
            raise UserError(f"pretrained: {path}: {what}")
    if OPENAI_ALONE & tensors.keys():
        own = {key: tensor for key, tensor in tensors.items() if key not in OPENAI_ALONE}
        return Weights(path, own, "OpenAI's archive", "quick_gelu", NORMALISATIONS["clip"])
    if f"{ENCODER}conv1.weight" in tensors:
        usual = NORMALISATIONS["inception" if f"{ENCODER}class_embedding" in tensors else "imagenet"]
        own = {key.replace(ENCODER, "visual.", 1): each for key, each in tensors.items() if key.startswith(ENCODER)}
        return Weights(path, own, "CLIP-ReID's checkpoint", "quick_gelu", usual, image_only=True)
    return Weights(path, tensors, WEIGHTS_CONFIG, *_read_config(path, name))


def settle(
    file: Weights | None, tag: dict, activation: str | None, normalisation: str | None
) -> tuple[dict[str, Any], dict[str, str]]:
    """Decide on activation and normalisation: what is given counts first, then what a file says, then the model's own.

    Args:
        file: of the weights; None where open_clip finds or makes them.
        tag: what open_clip knows of their tag, empty without one.
        activation: ``gelu``, ``quick_gelu`` or None.
        normalisation: a key of ``NORMALISATIONS`` or None.

    Returns:
        What ``open_clip.create_model`` is to be told, and for each of the two who says so.

    Raises:
        UserError: another word, or an activation that the weights of a tag were not trained with.
    """
    check_words(activation, normalisation)
    if tag and activation not in (None, own := name_activation(tag)):
        raise UserError(f"activation: open_clip's weights of this tag were trained with {own}, not {activation}")
    settings: dict[str, Any] = {}
    said = dict.fromkeys(("activation", "normalisation"), "the model's own")
    if chosen := activation or (file and file.activation):
        said["activation"] = "as params say" if activation or not file else f"as {file.told_by} says"
        settings |= {"force_quick_gelu": True} if chosen == "quick_gelu" else {"quick_gelu": False}
    if statistics := NORMALISATIONS.get(normalisation or "") or (file and file.normalisation):
        said["normalisation"] = "as params say" if normalisation or not file else f"as {file.told_by} says"
        settings["force_preprocess_cfg"] = dict(zip(("mean", "std"), statistics, strict=True))
    return settings, said


def check_words(activation: str | None = None, normalisation: str | None = None) -> None:
    """Refuse words for activation and normalisation that nobody knows.

    Raises:
        UserError: naming those that are known.
    """
    for key, word, known in (("activation", activation, ACTIVATIONS), ("normalisation", normalisation, NORMALISATIONS)):
        if word not in (None, *known):
            raise UserError(f"{key}: {word!r} is unknown; use {', '.join(known)}")


def name_activation(config: dict) -> str:
    """Return the activation of a network that open_clip describes."""
    return "quick_gelu" if config.get("quick_gelu") else "gelu"


def fill(clip: Any, weights: Weights, name: str) -> None:
    """Load weights into a network whose image tower has their shape, or a ViT's another square grid (interpolated).

    Raises:
        UserError: the table of position embeddings is of another shape.
        RuntimeError: the weights are of another network (torch's own words).
    """
    state = dict(weights.tensors)
    if not hasattr(clip, "positional_embedding"):
        state = model.convert_to_custom_text_state_dict(state)
    its, here = count_places(state), count_places(clip.state_dict())
    if not any(key.startswith("visual.") for key in state):
        raise UserError(f"pretrained: {weights.path}: has no image tower; give the weights of a whole CLIP")
    if its != here and (math.isqrt(its) ** 2 != its or not hasattr(clip.visual, "grid_size")):
        raise UserError(
            f"pretrained: {weights.path}: has position embeddings for {its} places, {name} has {here} here; give "
            "image_size (CLIP-ReID: 256x128 for people), patch_stride and last_stride as it was trained"
        )
    if weights.image_only:
        state = {key: kept for key, kept in clip.state_dict().items() if not key.startswith("visual.")} | state
    model.resize_pos_embed(state, clip)
    clip.load_state_dict(state)


def count_places(tensors: dict[str, torch.Tensor]) -> int:
    """Count the places that a network's table of position embeddings has; 0 without a table."""
    return next((len(tensors[table]) - 1 for table in TABLES if table in tensors), 0)


def read_tensors(path: str) -> dict[str, torch.Tensor]:
    """Read a file's tensors by name.

    Raises:
        UserError: it is no file of weights, or its numbers are not finite.
    """
    tensors = _unpack(path)
    # A sum is quick and shows every NaN and infinity; where it overflows by itself, the second look tells.
    odd = [key for key, tensor in tensors.items() if not tensor.sum(dtype=torch.float32).isfinite()]
    if broken := [key for key in odd if not tensors[key].isfinite().all()]:
        told = f"{len(broken)} of its {len(tensors)} tensors hold NaN or infinity, the first {broken[0]}"
        raise UserError(f"pretrained: {path}: {told}; it is damaged, or its training diverged")
    return tensors


def _unpack(path: str) -> dict[str, torch.Tensor]:
    with open(path, "rb") as file:
        head = file.read(64)
    for start, what in IMPOSTORS.items():
        if head.lstrip().lower().startswith(start):
            raise UserError(f"pretrained: {path}: {what}")
    content: Any
    if not head:
        raise UserError(f"pretrained: {path}: is an empty file; its download or copy has failed")
    if head[8:9] == b"{":
        try:
            content = safetensors.torch.load_file(path)
        except safetensors.SafetensorError as error:
            raise UserError(f"pretrained: {path}: is cut short or damaged ({error}); {FETCH}") from error
    elif head.startswith(b"PK") and not zipfile.is_zipfile(path):
        raise UserError(f"pretrained: {path}: is cut short or damaged; {FETCH}")
    elif _is_archive(path):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            content = torch.jit.load(path, map_location="cpu").state_dict()
    else:
        content = _unpickle(path)
    if not isinstance(content, dict):
        raise UserError(f"pretrained: {path}: holds no weights by name, but a {type(content).__name__}")
    named = content["state_dict"] if isinstance(content.get("state_dict"), dict) else content
    tensors = {str(key).removeprefix("module."): each for key, each in named.items() if isinstance(each, torch.Tensor)}
    if not tensors:
        held = ", ".join(map(str, named)) or "nothing"
        raise UserError(f"pretrained: {path}: holds no weights by name, but {held[:100]}")
    return tensors


def _is_archive(path: str) -> bool:
    """Tell TorchScript, which ``torch.load`` refuses, from what ``torch.save`` writes."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return any(entry.rpartition("/")[2] == "constants.pkl" for entry in file.namelist())


def _unpickle(path: str) -> Any:
    try:
        with torch.serialization.safe_globals(NUMPY), open(path, "rb") as file:  # a path's ending would mislead torch
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        found = re.search(r"GLOBAL (\S+) was not", str(error))
        if found is None:
            what = "is no file of weights, or is cut short"
            raise UserError(f"pretrained: {path}: {what}; give safetensors or what torch.save wrote") from error
        raise UserError(
            f"pretrained: {path}: holds other objects than weights ({found[1]}), which are not read because that may "
            "run code; if you trust it, save its state_dict alone with torch.save"
        ) from error


def _read_config(path: str, name: str) -> tuple[str | None, Statistics | None]:
    """Return the activation and statistics that open_clip's configuration beside a file states."""
    beside = Path(path).with_name(WEIGHTS_CONFIG)
    if not beside.is_file():
        return None, None
    try:
        config = json.loads(beside.read_text(encoding="utf-8"))
        network, pixels = config.get("model_cfg", config), config.get("preprocess_cfg", {})
        activation = name_activation(network) if "vision_cfg" in network else None
        mean, std = ([float(number) for number in pixels.get(key) or ()] for key in ("mean", "std"))
        if len(mean) != len(std) or len(mean) not in (0, 3) or not all(number > 0 for number in std):
            raise ValueError("mean and std are three numbers each")
        if activation:
            _refuse_another_network(beside, name, network)
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{beside}: cannot be read as open_clip's configuration ({error})") from error
    return activation, (tuple(mean), tuple(std)) if mean else None


def _refuse_another_network(beside: Path, name: str, network: dict) -> None:
    """Refuse what shapes of weights do not show, such as other heads."""
    here = open_clip.get_model_config(name)
    for part, form in (("vision_cfg", model.CLIPVisionCfg), ("text_cfg", model.CLIPTextCfg)):
        usual = asdict(form())
        mine, its = usual | here[part], usual | network.get(part, {})
        for key in sorted((mine.keys() | its.keys()) - NO_CHANGE):
            if mine.get(key) != its.get(key):
                told = f"its {part}.{key} is {its.get(key)!r}, that of {name} {mine.get(key)!r}"
                raise UserError(f"model: {beside} is of another network: {told}")
