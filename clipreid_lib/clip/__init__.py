"""CLIP itself: any open_clip ViT or ModifiedResNet, its towers, its shape, and a faster text prefix."""

from clipreid_lib.base import import_fixes  # noqa: F401  import torchvision with its repair, before open_clip does
