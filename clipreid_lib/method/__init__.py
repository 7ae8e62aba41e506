"""The ladder's stages, on anybody's images and labels: prompts, models, losses, batches, the training loop."""
