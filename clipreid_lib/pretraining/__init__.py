"""How the embedded CLIP was trained on captions of synthetic hands."""
