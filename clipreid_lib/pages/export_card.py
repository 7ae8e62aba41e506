"""The README.md beside exported weights: model card, files, the embedding that is compared, licences, origin.

What it says stands in ``export_card.txt``.
"""

import torch

from clipreid_lib.clip.backbone import Backbone, name_in_open_clip
from clipreid_lib.pages import model_card, repeat_command, report_origin
from clipreid_lib.pages.filled_texts import fill
from clipreid_lib.params.recipes import EMBEDDED, MERGES
from clipreid_lib.scores.finished_run import FinishedRun

# How a picture gets to the network's size, by `resize`.
RESIZED = {"squash": "the whole picture resized", "crop": "resized until it covers the size, then its centre"}


def write_card(run: FinishedRun, backbone: Backbone, neck: bool, lost: str, parity: str, onnx: str) -> str:
    """Return the text of the README, in Markdown.

    Args:
        run: an evaluated run.
        backbone: its image encoder as it is exported.
        neck: whether embeddings pass a batch norm before they are compared.
        lost: why there are no weights in open_clip's form; empty where there are.
        parity: how near open_clip's features are to the library's.
        onnx: what the ONNX file is; empty without one.
    """
    params, model = run.params, run.params.model
    height, width_in = backbone.image_size
    seen = backbone.image_features(torch.zeros(1, 3, height, width_in))
    named = f'"{name_in_open_clip(model)}"'
    if model == EMBEDDED:  # open_clip knows the name only beside the folder
        named = f'f"local-dir:{{folder}}", bpe_path=f"{{folder}}/{MERGES}"'
    return fill(
        "export_card.txt",
        width=seen.f.shape[1],
        embed_dim=0 if seen.f_proj is None else seen.f_proj.shape[1],
        name=run.name,
        scores=[f"- {title}: {said}" for title, said in run.describe().items()],
        card=report_origin.fill_card(run),
        activation=backbone.activation,
        reads_text=not backbone.mute,
        trained=params.trains_encoder,
        vit=backbone.has_class_token,
        resnet=hasattr(backbone.clip.visual, "layer4"),
        height=height,
        width_in=width_in,
        resized=f"{RESIZED[params.resize]} ({params.test_resize})",
        neck=neck,
        lost=lost,
        parity=parity,
        onnx=onnx,
        merges=MERGES if model == EMBEDDED else "",
        tokenizer=f"open_clip.get_tokenizer({named})",
        licences=report_origin.list_licences(run),
        origin=report_origin.list_provenance(run),
        command=repeat_command.repeat_run(params),
        cited=model_card.CITED,
    )
