"""Import torchvision, working around two problems of its import.

PyPI's torchvision wheels are CUDA builds. Beside a CPU-only torch their extension cannot load, and
the import dies with ``operator torchvision::nms does not exist`` although nothing we use needs that
operator (https://github.com/pytorch/vision/issues/8985). Declaring the two missing schemas is enough.

The garbage collector would search torch's half a million lasting objects again and again, 0.6 s of the 4.6 s that a
notebook's imports take. So it pauses while torchvision is imported, and leaves alone whatever is there afterwards.
"""

import gc
import sys
import warnings

import torch

gc.disable()
try:
    import torchvision  # noqa: F401
except RuntimeError as error:
    if "torchvision::nms does not exist" not in str(error):
        raise
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    schemas = torch.library.Library("torchvision", "DEF")  # it forgets its schemas once it is collected
    schemas.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    schemas.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its image extension cannot load either; Pillow decodes for us
        import torchvision  # noqa: F401
finally:
    gc.freeze()
    gc.enable()
