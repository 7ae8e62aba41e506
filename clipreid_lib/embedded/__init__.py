"""The embedded world: drawn hands, and the small CLIP that was pretrained on them."""
