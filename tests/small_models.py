"""Networks small enough to look into in a moment, known to open_clip by a name of their own."""

import json
from pathlib import Path

from clipreid_lib import clip  # noqa: F401  brings torchvision in before open_clip

import open_clip  # isort: skip

TEXT = {"context_length": 16, "width": 32, "heads": 2, "layers": 1}


def register(folder: Path, visions: dict[str, dict]) -> None:
    """Make models of these image towers and one text tower known to open_clip."""
    for name, vision in visions.items():
        (folder / f"{name}.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT}))
    open_clip.add_model_config(folder)
