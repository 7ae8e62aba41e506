"""What everything stands on: errors, files, checkpoints, seeds, and imports that need help."""
