"""CLIP itself: any open_clip ViT or ModifiedResNet, its towers, its shape, and a faster text prefix."""
