"""CLIP itself: any open_clip ViT or ModifiedResNet, its towers, its shape, and a faster text prefix."""

from clipreid_lib.base import import_fixes  # noqa: F401  torchvision must come in through the repaired door, before open_clip
