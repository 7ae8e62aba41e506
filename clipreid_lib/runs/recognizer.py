"""Put to use: a trained run, or a frozen backbone, that embeds photographs, enrols galleries and names people.

::

    recognizer = Recognizer.load("outputs/runs/RUN")
    gallery = recognizer.enrol("photos")                  # PERSON/IMAGE; encoded once, then kept
    recognizer.identify("who.jpg", gallery)               # JupyterLab shows the sheet
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

from clipreid_lib.base.errors import UserError, counted
from clipreid_lib.clip import backbone
from clipreid_lib.clip.encode import encode
from clipreid_lib.data import folder as own_folder
from clipreid_lib.data.manifest import Manifest
from clipreid_lib.data.photographs import RULES, fit, is_blank, on_all_cores, open_rgb, turn_to_rgb
from clipreid_lib.params.recipes import ALIASES, EMBEDDED
from clipreid_lib.params.schema import project_path
from clipreid_lib.runs.answer import Answer
from clipreid_lib.runs.enrolment import Enrolment
from clipreid_lib.runs.loading import Network, load_network
from clipreid_lib.runs.machine import choose_device
from clipreid_lib.runs.run import Run
from clipreid_lib.scores.encoder import pass_neck
from clipreid_lib.scores.enrolled import Gallery
from clipreid_lib.scores.identification import search, set_bar
from clipreid_lib.scores.thresholds import read_thresholds

Picture = str | Path | Image.Image | np.ndarray | torch.Tensor
CHUNK = 512  # photographs decoded and encoded at once: 77 MB of pixels at 224
VOTES = "tip_adapter compares the votes of its training images, which are no embedding of an image; take a frozen run"


class Recognizer:
    """A network that is ready to compare photographs of hands.

    Several threads may ask it at once, but none while an answer is drawn: maps are taken from the network's layers.

    Attributes:
        name: the run's, or the backbone's.
        backbone: the network.
        checkpoint: hash or tag of its weights, as thresholds name it.
        key: tells embeddings that may be compared from others: network, weights, sizes, how pictures get to them.
        thresholds: what notebook 04 learned for this run, or None.
        run: None of a frozen backbone.
    """

    def __init__(self, name: str, network: Network, run: Run | None = None) -> None:
        """Make one of a network; :meth:`load` finds the parts."""
        self.name, self.run = name, run
        self.backbone, self.checkpoint, self._neck, self._composer = network
        self._rule = run.rule if run else "squash"
        self.thresholds = read_thresholds(run.folder) if run else None
        facts = [backbone.describe(self.backbone), self.checkpoint, RULES[self._rule], self._neck is not None]
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
        self.key = f"{self.backbone.name} {digest}"

    @classmethod
    def load(cls, source: str | Path, device: str | None = None) -> "Recognizer":
        """Load a trained run, or a frozen backbone. The data that a run was trained on is not needed.

        Args:
            source: a run's folder, or ``embedded``, ``vitb16``, ``vitb32``, ``vitl14``, ``rn50``.
            device: as in params, such as ``cpu`` or ``cuda:1``; None takes the run's own, or ``auto``.

        Raises:
            UserError: it is neither, is not trained yet, or compares more than two photographs show.
        """
        if str(source) in (EMBEDDED, *ALIASES) and not Path(source).is_dir():
            clip = backbone.load(str(source)).to(choose_device(device or "auto"))
            return cls(str(source), Network(clip, backbone.describe(clip)["pretrained"]))
        if not Path(source).is_dir():
            raise UserError(f"{source}: is no run's folder and no backbone ({', '.join([EMBEDDED, *ALIASES])})")
        run = Run.at(Path(source))
        if device:
            run = Run(run.params.model_copy(update={"device": device}), run.folder)
        seen, name = run.params.side_info, run.folder.name
        if run.params.variant == "tip_adapter":
            raise UserError(f"{name}: {VOTES}")
        if seen != "none":
            raise UserError(f"{name}: was trained with each image's {seen}, which a photograph does not say")
        return cls(name, load_network(run), run)

    def embed(self, images: Picture | Iterable[Picture]) -> torch.Tensor:
        """Embed photographs.

        Args:
            images: one or several: paths, PIL images, uint8 arrays (H, W, 3) or (N, H, W, 3), uint8 tensors (3, H, W)
                or (N, 3, H, W), of any size, RGB. Files and PIL images are turned upright.

        Returns:
            (N, D) float32 of unit length, on the CPU.

        Raises:
            UserError: an image cannot be read, or is none.
        """
        opened = on_all_cores(self._open, _list(images))
        parts = list(self._encode(fit(image, self.backbone.image_size, self._rule) for _, image in opened))
        if not parts:
            raise UserError("images: none are given")
        return torch.cat(parts)

    def enrol(self, source: str | Path | None = None, again: bool = False) -> Gallery:
        """Enrol photographs, or read what was enrolled of them before.

        What is enrolled is kept in the run's folder, or in ``outputs/enrolled/`` for a frozen backbone:
        :attr:`Gallery.files` names the file. Images that cannot be read, or are of one colour, are left out and told.

        Args:
            source: a folder (``PERSON/IMAGE``, ``PERSON/ASPECT/IMAGE``, or one CSV), ``DATASET[:ASPECT]=FOLDER``, a
                gallery's file, or None for the gallery that the run is tested with (draw 0, without distractors).
            again: enrol although it was done before.

        Raises:
            UserError: the source cannot be read or has nobody in it; what was kept is of another checkpoint or of
                other photographs.
        """
        if source is not None and Path(source).suffix == ".safetensors":
            if again:
                raise UserError(
                    f"{source}: is a gallery's file, which has no photographs to enrol again; give the folder"
                )
            gallery = Gallery.load(source)
            self._require(gallery, str(source), "enrol its photographs again")
            return gallery
        found = Enrolment.find(source, self.run, self.name)
        place = self.run.folder if self.run else project_path("outputs")
        file = found.choose_file(place / "enrolled", self.backbone.name)
        name, hint = f"{file.parent.name}/{file.name}", "--again (again=True) enrols its photographs again"
        if file.exists() and not again:
            gallery = Gallery.load(file)
            self._require(gallery, name, hint)
            if gallery.stamp != found.stamp:
                raise UserError(f"{name}: its photographs have changed since they were enrolled; {hint}")
        else:
            gallery = found.enrol(self._encode, self.backbone.image_size, self._rule, self.key)
            gallery.save(file)
        gallery.root = found.root
        return gallery

    def identify(
        self,
        images: Picture | Iterable[Picture],
        gallery: Gallery,
        top: int = 5,
        fpir: float = 0.01,
        together: bool = False,
    ) -> Answer:
        """Say who of a gallery is on photographs, or that it is nobody enrolled.

        Args:
            images: one or several, as for :meth:`embed`.
            gallery: people enrolled by this very network.
            top: people to name, at most.
            fpir: the share of searches for people who are not enrolled that may name somebody: 0.1, 0.03, 0.01, 0.003
                or 0.001.
            together: all photographs show one unknown person; else each is asked alone.

        Raises:
            UserError: an image cannot be read or is of one colour; the gallery is empty or of another checkpoint; no
                threshold exists for such a rate.
        """
        self._require(gallery, "gallery", "enrol its photographs again")
        if not len(gallery):
            raise UserError("gallery: nobody is enrolled in it")
        if top < 1:
            raise UserError(f"top: {top} people; ask for at least 1")
        bar = set_bar(self.thresholds, self.checkpoint, fpir, gallery, self.name)
        listed = _list(images)
        opened = [
            (name or f"photograph {place}", image)
            for place, (name, image) in enumerate(on_all_cores(self._open, listed), 1)
        ]
        if not opened:
            raise UserError("photographs: none are given")
        pixels = [fit(image, self.backbone.image_size, self._rule) for _, image in opened]
        for (name, _), each in zip(opened, pixels, strict=True):
            if is_blank(each):
                raise UserError(f"{name}: is of one colour; it shows no hand")
        embeddings, names = torch.cat([*self._encode(iter(pixels))]), [name for name, _ in opened]
        searches = search(gallery, names, embeddings, bar, top, together)
        notes = [*bar.notes, *self._warn(gallery, listed)]
        photographs = [image for _, image in opened]
        return Answer(searches, bar, notes, gallery, photographs, self.name, self.backbone, self._rule)

    def _open(self, image: Picture) -> tuple[str, Image.Image]:
        """Return an image's file name, if it has one, and its picture, upright and RGB."""
        if isinstance(image, str | Path):
            return Path(image).name, open_rgb(image, max(self.backbone.image_size))
        if isinstance(image, Image.Image):
            return "", turn_to_rgb(image, "photograph")
        wanted = "uint8, (H, W, 3) arrays or (3, H, W) tensors"
        if not isinstance(image, torch.Tensor | np.ndarray):
            raise UserError(f"image: {type(image).__name__}; give a path, a PIL image, or {wanted}")
        array = image.movedim(0, -1).cpu().numpy() if isinstance(image, torch.Tensor) else image
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
            raise UserError(f"image: {array.dtype} of shape {tuple(image.shape)}; give {wanted}")
        return "", Image.fromarray(np.ascontiguousarray(array))

    def _encode(self, pixels: Iterator[np.ndarray]) -> Iterator[torch.Tensor]:
        """Encode images of the network's size, (3, H, W) uint8 each: yield (N, D) of unit length for some at a time."""
        while chunk := list(islice(pixels, CHUNK)):
            found = encode(self.backbone, torch.from_numpy(np.stack(chunk)), composer=self._composer).embedding
            yield functional.normalize(pass_neck(found, self._neck), dim=1)

    def _require(self, gallery: Gallery, name: str, hint: str) -> None:
        if gallery.checkpoint != self.key:
            raise UserError(f"{name}: was enrolled by {gallery.checkpoint}, not by {self.key}; {hint}")

    def _warn(self, gallery: Gallery, images: list[Picture]) -> list[str]:
        """Say in a sentence each what a run does not know: another aspect; and whom it knows already."""
        if self.run is None:
            return []
        mine = self.run.params.aspect
        known = {own_folder.ASPECT, mine, *mine.split("+")}
        aspects = gallery.table.set_index("path")["aspect"]
        how = "trained" if self.run.params.trains_encoder else "tested"
        others = sorted({*aspects} - known)
        told = [f"The run was {how} on {mine}, the gallery shows {', '.join(others)}."] if others else []
        if "+" in mine and self.thresholds:
            told.append("What the run learned of scores, thresholds and LLR, is of photographs of its aspects mixed.")
        told += [*self._tell_population(gallery), *self._list_trained(gallery)]
        for image in images:
            if gallery.root and isinstance(image, str | Path) and Path(image).resolve().is_relative_to(gallery.root):
                path = Path(image).resolve().relative_to(gallery.root).as_posix()
                if path in aspects and aspects[path] not in known:
                    told.append(f"The run was {how} on {mine}, {Path(image).name} shows {aspects[path]}.")
        return told

    def _tell_population(self, gallery: Gallery) -> list[str]:
        """Say on what the run learned its threshold and LLR, where the gallery is of other data."""
        if self.run is None or not self.thresholds or self._is_own(gallery):
            return []
        mine = self.run.params.dataset
        learned = {"demo": "drawn hands", "folder": "another folder"}.get(mine, f"photographs of {mine}")
        return [f"The run learned thresholds and LLR on {learned}; for other people and cameras they may be far off."]

    def _is_own(self, gallery: Gallery) -> bool:
        """Whether a gallery is of the data set that the run was tested on."""
        if self.run is None or gallery.root is None:
            return False
        if self.run.params.dataset == "demo" and "demo_hands" not in gallery.root.parts:  # data_root would draw them
            return False
        return gallery.root.resolve() == self.run.data_root.resolve()

    def _list_trained(self, gallery: Gallery) -> list[str]:
        """Say how many of a gallery's people the run has trained on, where both are of one data set."""
        run = self.run
        if run is None or not run.params.trains_encoder or not self._is_own(gallery):
            return []
        if not (kept := run.folder / "manifest.csv").is_file():
            return []
        known = gallery.table["identity"].isin(Manifest.load(kept).learned_from["subject"]).to_numpy()
        if not known.any():
            return []
        number = counted(len({*gallery.people[known]}), "person")
        told = "It knows them too well: a threshold learned from this gallery is too low for strangers."
        return [f"The run was trained on {number} of those enrolled. {told}"]


def _list(images: Picture | Iterable[Picture]) -> list[Picture]:
    """Return one image, several, or an array of several as a list."""
    if isinstance(images, str | bytes | Path | Image.Image) or getattr(images, "ndim", 0) in (2, 3):
        return [images]  # type: ignore[list-item]
    return list(images)
