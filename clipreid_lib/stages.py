"""What the ladder's stages start from and leave behind: the run's backbone, pretrained and trained."""

from dataclasses import dataclass

import pandas as pd
import torch

from clipreid_lib import backbone, checkpoints, features
from clipreid_lib.backbone import Backbone
from clipreid_lib.errors import UserError
from clipreid_lib.features import Embeddings
from clipreid_lib.files import file_sha
from clipreid_lib.prompt_bank import scaled_pair
from clipreid_lib.prompt_learning import load_prompts
from clipreid_lib.runs import Run, choose_device
from clipreid_lib.tip_adapter import cache_logits
from clipreid_lib.training_set import load_training_set


@dataclass(frozen=True)
class Trained:
    """A backbone as a run's last stage left it, and the hash (or tag) of the weights that says so."""

    backbone: Backbone
    sha: str


def load_backbone(run: Run) -> Backbone:
    """Load the run's pretrained CLIP onto its device, frozen.

    Raises:
        UserError: unknown model, unfitting weights, or a shape the model cannot take.
    """
    params = run.params
    stride = params.last_stride
    clip = backbone.load(
        params.model, params.weights or params.pretrained, params.image_size, params.patch_stride, stride
    )
    if params.side_info != "none":
        torch.manual_seed(0)  # the same start in every notebook of a run
        clip.add_side_information(params.side_info, sorted(run.manifest.train[params.side_info].unique().tolist()))
    return clip.to(choose_device(params.device))


def load_trained(run: Run) -> Trained:
    """Load the backbone as the run's last stage left it.

    A run that trains no image encoder leaves it as it was pretrained.

    Raises:
        UserError: the encoder was not trained yet, or its checkpoint belongs to another backbone or data.
    """
    clip = load_backbone(run)
    if "03_encoder_finetune" not in run.params.notebooks:
        return Trained(clip, backbone.describe(clip)["pretrained"])
    path = run.models / "encoder.safetensors"
    if not path.exists():
        raise UserError(f"{path}: no trained encoder there; run notebook 03 with the same params first")
    tensors, facts = checkpoints.load(path, "encoder")
    wanted = {**backbone.describe(clip), "variant": run.params.variant, "manifest_sha": run.manifest.sha}
    checkpoints.require(path, facts, wanted)
    visual = {n.removeprefix("visual."): t for n, t in tensors.items() if n.startswith("visual.")}
    clip.clip.visual.load_state_dict(visual)
    return Trained(clip, file_sha(path))


def embed(run: Run, trained: Trained, images: pd.DataFrame) -> dict[str, Embeddings]:
    """Encode images once and return every embedding they can be compared by; the run's own scores stand on the first.

    ``image`` is CLIP-ReID's: ``f`` and ``f_proj`` side by side. ``profile`` says how alike an image is to each of the
    run's learned anchors, as shares that sum to one: the text at work in the test, chosen by nobody's label.
    ``tip_adapter`` is the same with votes of the training images in place of anchors.

    Args:
        run: the run.
        trained: its backbone, from :func:`load_trained`.
        images: rows of the image table.

    Returns:
        Name to embeddings: ``tip_adapter`` where that is the variant, ``image``, and ``profile`` for ``clipid``.
    """
    clip = trained.backbone
    paths, image = features.embed_table(clip, images, run.photographs)
    made = {}
    if run.params.variant == "tip_adapter":
        data = load_training_set(run, clip)
        keys = features.encode(clip, data.pixels, data.side).f_proj
        votes = cache_logits(image.f_proj, keys, data.rows, len(data.identities))
        made["tip_adapter"] = Embeddings(paths, votes)
    made["image"] = Embeddings(paths, image.embedding)
    if run.prompts.exists() and run.params.variant == "clipid":
        anchors = load_prompts(run, clip).anchors(clip).cpu()
        pair = scaled_pair(image.f_proj, anchors, "cosine", clip.logit_scale)
        made["profile"] = Embeddings(paths, (pair[0] @ pair[1].T).softmax(dim=1))
    return made
