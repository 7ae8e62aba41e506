"""Asking with a photograph: from the shell, from a recogniser that is loaded, and of a million enrolled images.

The ten thousand are small blurs, enrolled before anything is timed, so a question is a second one. The million has
made-up embeddings of the embedded CLIP's width and no pictures, which stay on the disk until they are drawn.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from rows import Row, in_turn, peak, seconds

from clipreid_lib import Recognizer
from clipreid_lib.params.schema import ROOT
from clipreid_lib.scores.enrolled import Gallery

AIM_SHELL, AIM_LOADED, AIM_GIB = 4, 0.2, 4  # seconds, seconds, as the ranking of a million
PEOPLE, EACH, ROUNDS = 1000, 10, 5
IMPORTS = "of it, importing torch, torchvision and open_clip takes the most"


def draw_people(folder: Path) -> Path:
    """Write PERSON/IMAGE, and return one more image."""
    random = np.random.default_rng(0)
    for person in range(PEOPLE):
        (folder / f"{person:04d}").mkdir(parents=True)
        blur = random.integers(0, 255, (6, 6, 3))
        for number in range(EACH + (person == 0)):
            seen = np.clip(blur + random.integers(-40, 40, (6, 6, 3)), 0, 255).astype(np.uint8)
            place = folder.parent / "asks.jpg" if number == EACH else folder / f"{person:04d}" / f"{number}.jpg"
            Image.fromarray(seen).resize((96, 96), Image.Resampling.BICUBIC).save(place)
    return folder.parent / "asks.jpg"


def compare_plainly(gallery: Gallery, asked: torch.Tensor) -> np.ndarray:
    """Take every cosine and sort, in float32."""
    return np.argsort(-(gallery.embeddings.numpy() @ asked.numpy()[0]))


def million(recognizer: Recognizer, photograph: Path) -> Row:
    """Ask a million images, and look at the most that the process ever held."""
    width = recognizer.embed(photograph).shape[1]
    table = pd.DataFrame({"path": [f"{n}.jpg" for n in range(10**6)], "identity": np.arange(10**6) // 4})
    shelf = torch.empty(10**6, width)
    for part in shelf.split(65_536):
        torch.nn.functional.normalize(part.normal_(), dim=1, out=part)
    gallery = Gallery(table.assign(aspect="hand"), shelf, [b""] * 10**6, recognizer.key)
    took, _ = seconds(lambda: recognizer.identify(photograph, gallery))
    note = f"{width} numbers an image; took {took:.1f} s"
    return peak("a photograph against a million", "the embeddings alone", shelf.nbytes / 2**30, AIM_GIB, note)


def rows() -> list[Row]:
    """The million first, since it is the process's peak that tells its memory."""
    recognizer = Recognizer.load("embedded", "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "bench"
        photograph = draw_people(folder)
        found = [million(recognizer, photograph)]
        gallery = recognizer.enrol(folder)
        asked, what = recognizer.embed(photograph), f"a photograph against {len(gallery):,}"
        pairs, _ = in_turn(
            lambda _: compare_plainly(gallery, asked), lambda _: recognizer.identify(photograph, gallery), ROUNDS
        )
        loaded = Row(what, "its cosines and a sort", "from a recogniser", pairs, AIM_LOADED, about="itself")
        given = "identify", "embedded", str(photograph), "--gallery", str(folder), "--out", f"{scratch}/sheets"
        commands = ("-c", "import torch"), ("-m", "clipreid_lib", *given)
        ways = [lambda _, each=each: subprocess.run([sys.executable, *each], cwd=ROOT, capture_output=True, check=True)
                for each in commands]  # fmt: skip
        pairs, _ = in_turn(*ways, ROUNDS)
        ours = "the whole command, with its sheet"
        shell = Row(what, "import torch, nothing else", ours, pairs, AIM_SHELL, about="itself", reason=IMPORTS)
        gallery.files[0].unlink()
    return [*found, loaded, shell]
