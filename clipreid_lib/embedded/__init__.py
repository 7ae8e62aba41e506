"""The embedded world: drawn hands, the small CLIP that was pretrained on them, and its weights.

A run calls ``synthetic_hands.draw_demo``; the loader of the backbone reads the folder ``weights``. The other modules
are how a hand is drawn (``hand_*``) and how the weights were made (``pretrain_embedded`` and what it imports).
"""
