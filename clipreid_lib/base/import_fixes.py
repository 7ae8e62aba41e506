"""Import what open_clip stands on, mended where it would fail, chatter or dawdle: torchvision and tqdm.

PyPI's torchvision wheels are CUDA builds. Beside a CPU-only torch their extension cannot load, and
the import dies with ``operator torchvision::nms does not exist`` although nothing we use needs that
operator (https://github.com/pytorch/vision/issues/8985). Declaring the two missing schemas is enough.
Machines with matching wheels never reach the remedy.

With torch and torchvision, half a million objects are there that stay as long as the process. The garbage collector
would search them again and again, for a good tenth of the time that a notebook's imports take, so it pauses while
torchvision is imported, and afterwards leaves alone whatever is there by then (garbage too, should there be any).
"""

import gc
import sys
import warnings

import torch

_schemas = None  # a torch Library forgets its schemas once collected, so the module keeps it alive


def import_torchvision() -> None:
    """Import torchvision, declaring its two missing operators first where the plain import fails.

    Raises:
        RuntimeError: torchvision fails for any other reason.
    """
    global _schemas
    try:
        import torchvision  # noqa: F401
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _schemas = torch.library.Library("torchvision", "DEF")
        _schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _schemas.define(
            "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its image extension cannot load either; Pillow decodes for us
            import torchvision  # noqa: F401


collects = gc.isenabled()
gc.disable()
try:
    import_torchvision()
    gc.freeze()
finally:
    if collects:
        gc.enable()
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # in a notebook without ipywidgets it warns, though we draw no bar with it
    import tqdm.auto  # noqa: E402, F401
