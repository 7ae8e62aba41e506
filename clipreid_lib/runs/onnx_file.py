"""The image encoder as an ONNX file: photographs in, the embedding that is compared out, batches of any size."""

import logging
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from clipreid_lib.base.errors import UserError
from clipreid_lib.clip.encode import encode, normalise
from clipreid_lib.runs.loading import Network
from clipreid_lib.scores.encoder import pass_neck

NEAR = 1e-4  # that a number of an embedding of length one may differ by in onnxruntime


class EmbeddingNetwork(nn.Module):
    """From pixels to the embedding that is compared, as one graph."""

    def __init__(self, network: Network) -> None:
        """Wrap a network and its neck, if it has one."""
        super().__init__()
        self.backbone, self.neck = network.backbone, network.neck

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Turn (B, 3, H, W) uint8 into (B, D) of unit length."""
        features = self.backbone.image_features(normalise(pixels, *self.backbone.normalisation))
        return functional.normalize(pass_neck(features.embedding, self.neck), dim=1)


def write(path: Path, network: Network, pixels: torch.Tensor) -> str:
    """Write a network as ONNX, compare onnxruntime's embeddings with the library's, and say by how much they differ.

    Args:
        path: of the file.
        network: on the CPU.
        pixels: (N, 3, H, W) uint8, two photographs or more.

    Raises:
        UserError: a number differs by more than 1e-4.
    """
    import onnxruntime

    # Before the export, or a constant that is made once and kept would be made, and kept, by the exporter's tracing.
    mine = functional.normalize(pass_neck(encode(network.backbone, pixels).embedding, network.neck), dim=1).numpy()
    whole = EmbeddingNetwork(network).eval()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's exporter warns of its own parts
        torch.onnx.export(
            whole,
            (pixels[:2],),
            str(path),
            input_names=["pixels"],
            output_names=["embedding"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    apart = 0.0
    for part in (slice(0, 1), slice(0, len(pixels))):
        (found,) = session.run(None, {"pixels": pixels[part].numpy()})
        apart = max(apart, float(abs(found - mine[part]).max()))
    if not apart <= NEAR:
        raise UserError(f"--onnx: onnxruntime's embeddings differ from the run's by {apart:.1e}")
    return f"Of {len(pixels)} photographs, onnxruntime's embeddings are {apart:.0e} apart from the run's at most."
