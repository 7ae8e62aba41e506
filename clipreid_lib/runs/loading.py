"""Loads a run's backbone, and its image encoder before and after training."""

from functools import cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import file_sha
from clipreid_lib.clip import backbone
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.device import compute_repeatably
from clipreid_lib.method import few_weights
from clipreid_lib.method.clipid_model import HEADS
from clipreid_lib.method.promptsg import Composer
from clipreid_lib.params.schema import EXTERNAL, HAND
from clipreid_lib.runs.machine import choose_device
from clipreid_lib.runs.run import Run
from clipreid_lib.scores import given_features
from clipreid_lib.scores.encoder import Encoder, join_necks


class Network(NamedTuple):
    """An image encoder: the backbone, the hash or tag of its weights, and neck and composer of Encoder, if any."""

    backbone: Backbone
    sha: str
    neck: dict[str, torch.Tensor] | None = None
    composer: nn.Module | None = None


def load_backbone(run: Run) -> Backbone:
    """Load the run's pretrained CLIP onto its device, frozen.

    Raises:
        UserError: unknown model, unfitting weights, a shape the model cannot take, or more blocks to train than
            it has.
    """
    params = run.params
    shape = params.image_size, params.patch_stride, params.last_stride
    weights = params.weights or params.pretrained
    clip = backbone.load(params.model, weights, *shape, params.normalisation, params.activation, params.positions)
    if params.pretrained and params.weights:
        _say(f"{Path(params.pretrained).name}: {clip.assumed}")
    if params.side_info != "none":
        values = sorted(run.manifest.train[params.side_info].unique().tolist())
        if len(values) < 2:  # a vector that all training images share would only mark images of other cameras
            told = f"the training images have one {params.side_info} alone, {values[0]!r}"
            raise UserError(f"side_info: {told}; use none")
        clip.add_side_information(params.side_info, values)
    few_weights.choose(clip.clip.visual, params.train)  # refuses more blocks than there are before anything is trained
    device = choose_device(params.device)
    if device.startswith("cuda"):
        compute_repeatably()
    return clip.to(device)


@cache
def _say(line: str) -> None:
    print(line)  # once in a notebook, however often its weights are loaded


def load_pretrained_encoder(run: Run) -> Encoder:
    """Load the run's encoder as it was before any training: stage 0.

    Raises:
        UserError: as :func:`load_backbone`.
    """
    if run.params.variant == EXTERNAL:
        return given_features.load(run.folder, run.params, run.table, run.photographs)
    return _keep_features(run, _load_pretrained(run))


def load_trained_encoder(run: Run) -> Encoder:
    """Load the encoder as the run's last stage left it; as it was pretrained where no stage trains it.

    Raises:
        UserError: as :func:`load_network`; the data has changed since the run began.
    """
    if run.params.trains_encoder:
        run.manifest  # noqa: B018  refuses
    if run.params.variant == EXTERNAL:
        return load_pretrained_encoder(run)
    return _keep_features(run, load_network(run))


def load_network(run: Run) -> Network:
    """Load what :func:`load_trained_encoder` does without the run's data, which need not be on this machine.

    Raises:
        UserError: the encoder was not trained yet, or its checkpoint belongs to another backbone or data; the run has
            features alone.
    """
    if run.params.variant == EXTERNAL:
        raise UserError(f"{run.folder.name}: {given_features.ONLY}")
    if not run.params.trains_encoder:
        return _load_pretrained(run)
    clip = load_backbone(run)
    path = run.models / "encoder.safetensors"
    if not path.exists():
        raise UserError(f"{path}: no trained encoder there; run notebook 03 with the same params first")
    tensors, facts = checkpoints.load(path, "encoder")
    kept = run.folder / "manifest.csv"
    wanted = {**backbone.describe(clip), "resize": run.params.resize, "variant": run.params.variant}
    wanted |= {"manifest_sha": file_sha(kept) if kept.is_file() else ""}
    checkpoints.require(path, facts, wanted)
    clip.clip.visual.load_state_dict(_pick(tensors, "visual."))
    neck = composer = None
    if run.params.composes != "none":
        composer = Composer(clip, run.params.composes, run.params.noun or HAND).to(clip.device).eval()
        composer.load_state_dict(_pick(tensors, "composer."))
        composer.requires_grad_(False)
    if run.params.test_features == "after_neck":
        neck = join_necks(part for head in HEADS if (part := _pick(tensors, f"{head}.norm.")))
    return Network(clip, file_sha(path), neck, composer)


def _load_pretrained(run: Run) -> Network:
    clip = load_backbone(run)
    return Network(clip, backbone.describe(clip)["pretrained"])


def _pick(tensors: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    """Return a part of a checkpoint: the tensors whose names begin so, under the rest of their names."""
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _keep_features(run: Run, network: Network) -> Encoder:
    """Return the encoder with the folder of features that all runs with the same outputs folder share."""
    where = run.features, run.table, run.photographs
    return Encoder(network.backbone, network.sha, *where, network.neck, network.composer)
