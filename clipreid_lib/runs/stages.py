"""What the ladder's stages start from and leave behind: the run's backbone, pretrained and trained."""

from dataclasses import dataclass

import pandas as pd
import torch
from torch.nn import functional

from clipreid_lib.base import checkpoints
from clipreid_lib.base.errors import UserError
from clipreid_lib.base.files import file_sha
from clipreid_lib.clip import backbone
from clipreid_lib.clip.backbone import Backbone
from clipreid_lib.method.labels import map_labels
from clipreid_lib.method.prompt_bank import text_logits
from clipreid_lib.method.tip_adapter import cache_logits
from clipreid_lib.params.schema import project_path
from clipreid_lib.runs.machine import choose_device
from clipreid_lib.runs.run import Run
from clipreid_lib.runs.training import load_prompts
from clipreid_lib.scores.feature_store import FeatureStore
from clipreid_lib.scores.features import Embeddings


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
        if len(values) < 2:  # a vector that all training images share would only mark images of other cameras
            raise UserError(
                f"side_info: the training images have one {params.side_info} alone, {values[0]!r}; use none"
            )
        clip.add_side_information(params.side_info, values)
    return clip.to(choose_device(params.device))


def pretrained(run: Run) -> Trained:
    """Load the run's backbone as it was before any training: stage 0.

    Raises:
        UserError: as :func:`load_backbone`.
    """
    clip = load_backbone(run)
    return Trained(clip, backbone.describe(clip)["pretrained"])


def load_trained(run: Run) -> Trained:
    """Load the backbone as the run's last stage left it.

    A run that trains no image encoder leaves it as it was pretrained.

    Raises:
        UserError: the encoder was not trained yet, or its checkpoint belongs to another backbone or data.
    """
    start = pretrained(run)
    if not run.params.trains_encoder:
        return start
    clip = start.backbone
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


def store_of(run: Run) -> FeatureStore:
    """Return the feature store that all runs with the same outputs folder share."""
    return FeatureStore(project_path(run.params.outputs_root) / "features", run.table, run.photographs)


def embed(run: Run, trained: Trained, images: pd.DataFrame) -> dict[str, Embeddings]:
    """Return every embedding that images can be compared by; the run's own scores stand on the first.

    ``image`` is CLIP-ReID's: ``f`` and ``f_proj`` side by side. ``profile`` says how alike an image is to each of the
    run's learned anchors, as shares that sum to one: the text at work in the test, chosen by nobody's label.
    ``tip_adapter`` is the same with votes of the training images in place of anchors. ``stage 0`` is the encoder's
    before any training, for comparison. ``mirrored`` adds the features of each image's mirror image, where
    ``flip_test`` asks for it.

    Args:
        run: the run.
        trained: its backbone, from :func:`load_trained`.
        images: rows of the image table or of a manifest; each is encoded once and kept in the run's feature store.

    Returns:
        Name to embeddings: ``tip_adapter`` where that is the variant, ``image``, ``profile`` for ``clipid``,
        ``mirrored`` with ``flip_test``, ``stage 0`` where the run trains the encoder.
    """
    clip = trained.backbone
    store = store_of(run)
    image = store.embed(clip, trained.sha, images)
    made = {"tip_adapter": _votes(run, trained, image)} if run.params.variant == "tip_adapter" else {}
    made["image"] = image
    if run.prompts.exists() and run.params.variant == "clipid":
        anchors = load_prompts(run, clip).anchors(clip).cpu()
        likeness = text_logits(projected(image, clip), anchors, "cosine", clip.logit_scale)  # (N, identities)
        made["profile"] = Embeddings(image.paths, likeness.softmax(dim=1))
    if run.params.flip_test:
        print(
            "flip_test: a mirrored right hand looks like a left hand, and the other hands of people are among the "
            "distractors of protocol mba; compare the rows before you use it"
        )
        made["mirrored"] = store.embed(clip, trained.sha, images, mirrored=True)
    if run.params.trains_encoder:
        made["stage 0"] = embed_by(run, pretrained(run), images)
    return made


def embed_by(run: Run, trained: Trained, images: pd.DataFrame) -> Embeddings:
    """Return CLIP-ReID's embedding of images by any encoder: ``f`` and ``f_proj`` side by side, (N, D).

    Args:
        run: whose data and feature store are used.
        trained: any backbone.
        images: rows of the image table or of a manifest.
    """
    return store_of(run).embed(trained.backbone, trained.sha, images)


def own_embedding(run: Run, trained: Trained, images: pd.DataFrame) -> Embeddings:
    """Return the embedding that the run's own scores stand on: the image's, or Tip-Adapter's votes, (N, D).

    Args:
        run: the run.
        trained: its backbone, from :func:`load_trained`.
        images: rows of the image table or of a manifest.
    """
    image = embed_by(run, trained, images)
    return _votes(run, trained, image) if run.params.variant == "tip_adapter" else image


def _votes(run: Run, trained: Trained, image: Embeddings) -> Embeddings:
    clip = trained.backbone
    identities, rows = map_labels(run.manifest.train["identity"])
    keys = embed_by(run, trained, run.manifest.train)
    votes = cache_logits(projected(image, clip), projected(keys, clip), rows, len(identities))
    return Embeddings(image.paths, votes)


def projected(embeddings: Embeddings, clip: Backbone) -> torch.Tensor:
    """Return the part of image embeddings that lies in the space shared with text, (N, embed_dim)."""
    return embeddings.values[:, -clip.clip.visual.output_dim :]


def identify(run: Run, trained: Trained) -> dict[str, float]:
    """Identify the held-out images of training people: the closed set, where everybody is known.

    Args:
        run: with ``validation: published``; others hold out nobody who is trained on.
        trained: its backbone.

    Returns:
        Share of right answers of ``nearest image`` (the training image of highest cosine), ``tip_adapter``
        (the votes of all training images) and, for ``clipid``, ``anchors`` (the nearest learned anchor). Empty where no
        such images are held out.
    """
    held_out, clip = run.manifest.validation, trained.backbone
    if held_out.empty or run.manifest.validates_people:
        return {}
    identities, rows = map_labels(run.manifest.train["identity"])
    known, asked = (store_of(run).embed(clip, trained.sha, part) for part in (run.manifest.train, held_out))
    truth = torch.tensor([identities.index(identity) for identity in held_out["identity"]])
    unit = [functional.normalize(each.values, dim=1) for each in (asked, known)]
    votes = cache_logits(projected(asked, clip), projected(known, clip), rows, len(identities))
    named = {
        "nearest image": rows[(unit[0] @ unit[1].T).argmax(dim=1)],
        "tip_adapter": votes.argmax(dim=1),
    }
    if run.params.variant == "clipid":
        anchors = load_prompts(run, clip).anchors(clip).cpu()
        named["anchors"] = text_logits(projected(asked, clip), anchors, "cosine", clip.logit_scale).argmax(dim=1)
    return {how: float((rows == truth).float().mean()) for how, rows in named.items()}
