"""Loads a run's backbone, and its image encoder before and after training."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import file_sha
from clipreid_lib.clip import backbone
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.clip.device import compute_repeatably
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.runs.machine import choose_device
from clipreid_lib.runs.run import Run
from clipreid_lib.scores.encoder import STATISTICS, Encoder


def load_backbone(run: Run, manifest: Manifest | None = None) -> Backbone:
    """Load the run's pretrained CLIP onto its device, frozen; ``manifest`` as for :func:`load_trained`.

    Raises:
        UserError: unknown model, unfitting weights, or a shape the model cannot take.
    """
    params = run.params
    shape = params.image_size, params.patch_stride, params.last_stride
    weights = params.weights or params.pretrained
    clip = backbone.load(params.model, weights, *shape, params.normalisation, params.activation, params.positions)
    if params.pretrained and params.weights:
        _say(f"{Path(params.pretrained).name}: {clip.assumed}")
    if params.side_info != "none":
        values = sorted((manifest or run.manifest).train[params.side_info].unique().tolist())
        if len(values) < 2:  # a vector that all training images share would only mark images of other cameras
            told = f"the training images have one {params.side_info} alone, {values[0]!r}"
            raise UserError(f"side_info: {told}; use none")
        clip.add_side_information(params.side_info, values)
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
    clip = load_backbone(run)
    return _keep_features(run, clip, backbone.describe(clip)["pretrained"])


def load_trained_encoder(run: Run) -> Encoder:
    """Load the encoder as the run's last stage left it; as it was pretrained where no stage trains it.

    Raises:
        UserError: the encoder was not trained yet, or its checkpoint belongs to another backbone or data.
    """
    clip, sha, neck = load_trained(run, run.manifest)
    return replace(_keep_features(run, clip, sha), neck=neck)


def load_trained(run: Run, manifest: Manifest) -> tuple[Backbone, str, dict[str, torch.Tensor] | None]:
    """Load what :func:`load_trained_encoder` loads, without the run's images.

    Args:
        run: the run.
        manifest: its own, or the one kept in its folder where its data is not at hand.

    Returns:
        The backbone, the hash or tag of its weights, and the neck, as :class:`~clipreid_lib.scores.encoder.Encoder`
        has them.

    Raises:
        UserError: as :func:`load_trained_encoder`.
    """
    clip = load_backbone(run, manifest)
    if not run.params.trains_encoder:
        return clip, backbone.describe(clip)["pretrained"], None
    path = run.models / "encoder.safetensors"
    if not path.exists():
        raise UserError(f"{path}: no trained encoder there; run notebook 03 with the same params first")
    tensors, facts = checkpoints.load(path, "encoder")
    wanted = {**backbone.describe(clip), "resize": run.params.resize}
    wanted |= {"variant": run.params.variant, "manifest_sha": manifest.sha}
    checkpoints.require(path, facts, wanted)
    clip.clip.visual.load_state_dict(_pick(tensors, "visual."))
    neck = None
    if run.params.test_features == "after_neck":
        parts = [_pick(tensors, f"{head}.norm.") for head in ("head", "head_proj")]
        neck = {name: torch.cat([part[name] for part in parts]) for name in STATISTICS}
    return clip, file_sha(path), neck


def _pick(tensors: dict[str, torch.Tensor], start: str) -> dict[str, torch.Tensor]:
    """Return a part of a checkpoint: the tensors whose names begin so, under the rest of their names."""
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _keep_features(run: Run, clip: Backbone, sha: str) -> Encoder:
    """Return the encoder with the folder of features that all runs with the same outputs folder share."""
    return Encoder(clip, sha, run.features, run.table, run.photographs)
