"""CLIP itself: any open_clip ViT or ModifiedResNet, its towers, its shape, and a faster text prefix."""

from clipreid_lib import _compat  # noqa: F401  torchvision must come in through the repaired door, before open_clip
