"""The embedded world: drawn hands, the small CLIP that was pretrained on them, and its weights.

Two things read from it: the demo data set, through :mod:`clipreid_lib.embedded.demo_hands`, which `runs` calls, and
the loader of the shipped weights, which reads the folder ``weights``. The rest is how both were made:

- ``hand_people``, ``hand_shape``, ``hand_lines``, ``hand_sessions``, ``hand_drawing``: a person, the geometry of a
  hand, its lines, its pose before a camera, its picture. ``synthetic_hands`` writes whole data sets.
- ``pretrain_embedded`` is the pretraining, ``pretrain_steps`` its loss and what precedes the first picture,
  ``captions`` and ``spoiled_pictures`` what it learns from, ``unseen_people`` how it is measured.
"""
