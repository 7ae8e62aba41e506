"""What the ladder's stages start from and leave behind: the run's backbone, pretrained and trained."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch.nn import functional

from clipreid_lib import backbone, checkpoints, features
from clipreid_lib.backbone import Backbone
from clipreid_lib.errors import UserError
from clipreid_lib.features import Embeddings
from clipreid_lib.files import file_sha
from clipreid_lib.prompt_bank import text_logits
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
    weights = params.weights or params.pretrained
    clip = backbone.load(params.model, weights, params.image_size, params.patch_stride, params.last_stride)
    if params.side_info != "none":
        values = sorted(run.manifest.train[params.side_info].unique().tolist())
        if len(values) < 2:  # a vector that all training images share would only mark the distractors of other aspects
            raise UserError(
                f"side_info: the training images have one {params.side_info} alone, {values[0]!r}; use none"
            )
        clip.add_side_information(params.side_info, values)
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
    wanted = {**backbone.describe(clip), "resize": run.params.resize}
    wanted |= {"variant": run.params.variant, "manifest_sha": run.manifest.sha}
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
        likeness = text_logits(image.f_proj, anchors, "cosine", clip.logit_scale)  # (N, identities)
        made["profile"] = Embeddings(paths, likeness.softmax(dim=1))
    return made


def identify(run: Run, trained: Trained) -> dict[str, float]:
    """Identify the held-out images of training people: the closed set, where everybody is known.

    Args:
        run: with ``validation: published``; others hold out nobody who is trained on.
        trained: its backbone.

    Returns:
        Share of right answers of ``nearest image`` (the training image of highest cosine), ``cache`` (Tip-Adapter's
        votes of all training images) and, for ``clipid``, ``anchors`` (the nearest learned anchor). Empty where no
        such images are held out.
    """
    held_out, clip = run.manifest.validation, trained.backbone
    if held_out.empty or run.manifest.validates_people:
        return {}
    data = load_training_set(run, clip)
    truth = torch.tensor([data.identities.index(identity) for identity in held_out["identity"]])
    known = features.encode(clip, data.pixels, data.side)
    pixels = torch.from_numpy(run.photographs.load(held_out, clip.image_size))
    asked = features.encode(clip, pixels, clip.side_rows(held_out))
    unit = [functional.normalize(each.embedding, dim=1) for each in (asked, known)]
    named = {
        "nearest image": data.rows[(unit[0] @ unit[1].T).argmax(dim=1)],
        "cache": cache_logits(asked.f_proj, known.f_proj, data.rows, len(data.identities)).argmax(dim=1),
    }
    if run.params.variant == "clipid":
        anchors = load_prompts(run, clip).anchors(clip).cpu()
        named["anchors"] = text_logits(asked.f_proj, anchors, "cosine", clip.logit_scale).argmax(dim=1)
    return {how: float((rows == truth).float().mean()) for how, rows in named.items()}
