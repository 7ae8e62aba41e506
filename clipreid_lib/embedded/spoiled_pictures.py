"""Pictures for the pretraining: drawn once, then spoiled anew at every step.

The network is shown synthetic people only but has to say something about photographs, so the spoiling is
wide: framing, light, colour, backdrop, sleeves, focus, noise, compression, things in the way.
"""

import io
from collections.abc import Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from PIL import Image

from clipreid_lib.embedded import synthetic_hands

STORED = 112  # side in pixels of the drawn squares: a little above the network's 96, room for zooming in


def draw_people(people: int, shots: int, seed: int) -> tuple[torch.Tensor, pd.DataFrame]:
    """Draw every person's four hands, ``shots`` pictures of each, every one in a session of its own.

    Returns:
        uint8 pictures (N, 3, STORED, STORED), the whole frame squashed to a square, and their HandInfo rows.
    """
    pictures, rows = zip(*synthetic_hands.map_people(partial(_draw_person, shots, seed), people), strict=True)
    return to_tensor(pictures), pd.DataFrame(rows)


def _draw_person(shots: int, seed: int, number: int) -> list[tuple[np.ndarray, dict]]:
    rng, person, drawn = np.random.default_rng([seed, number]), synthetic_hands.Person(number, seed), []
    for aspect in synthetic_hands.ASPECTS:
        for session in range(shots):
            difficulty = float(rng.uniform(0.6, 1.8))
            picture, row = synthetic_hands.draw(person, aspect, session, 0, difficulty=difficulty, seed=seed)
            drawn.append((squash(picture, STORED), row))
    return drawn


def squash(picture: np.ndarray, size: int) -> np.ndarray:
    """Resize a whole (H, W, 3) uint8 picture to a square of ``size`` pixels, bicubic."""
    return np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def to_tensor(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """Turn N pictures (H, W, 3) into a tensor (N, 3, H, W), both uint8."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def spoil(pictures: torch.Tensor, size: int, rng: torch.Generator, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Give the pictures of a batch each its own framing, light and faults, and mirror half of them.

    Args:
        pictures: (B, 3, H, W) uint8.
        size: side of the returned squares in pixels.
        rng: of all random choices.
        share: of the pictures that are spoiled; the others are only mirrored or not.

    Returns:
        float32 (B, 3, size, size) in [0, 1], and (B,) bool: mirrored, so that the caption must be, too.
    """
    spoiled, plain = torch.randperm(len(pictures), generator=rng).tensor_split([round(share * len(pictures))])
    images = torch.empty(len(pictures), 3, size, size)
    mirrored = torch.rand(len(pictures), generator=rng) < 0.5
    for chunk in spoiled.split(16) if len(spoiled) else ():  # small enough for the processor's cache
        images[chunk] = _spoil_chunk(pictures[chunk].float() / 255, mirrored[chunk], size, rng)
    if len(plain):
        small = F.interpolate(pictures[plain].float() / 255, size=size, mode="bilinear", antialias=True)
        images[plain] = torch.where(mirrored[plain].view(-1, 1, 1, 1), small.flip(3), small)
    return images, mirrored


class _Draw:
    """Random numbers from ``rng``, one per picture, shaped (count, 1, 1, 1) to combine with a batch."""

    def __init__(self, count: int, rng: torch.Generator) -> None:
        self.count, self.rng = count, rng

    def uniform(self, low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(self.count, 1, 1, 1, generator=self.rng)

    def normal(self, deviation: float) -> torch.Tensor:
        return deviation * torch.randn(self.count, 1, 1, 1, generator=self.rng)

    def chance(self, p: float) -> torch.Tensor:
        return self.uniform(0, 1) < p

    def colour(self) -> torch.Tensor:
        return torch.rand(self.count, 3, 1, 1, generator=self.rng)


def _spoil_chunk(x: torch.Tensor, mirrored: torch.Tensor, size: int, rng: torch.Generator) -> torch.Tensor:
    count = len(x)

    def some(p: float) -> torch.Tensor:
        return torch.nonzero(torch.rand(count, generator=rng) < p).flatten()

    if len(few := some(0.6)):
        x[few] = _change_surroundings(x[few], rng)

    # Framing. Photographs show hands from half to all of the frame; a hand reaches in from the lower edge,
    # so the border's continuation outwards (padding_mode) is a plausible forearm and backdrop.
    draw = _Draw(count, rng)
    angle = draw.normal(0.16).flatten()  # radians
    zoom = torch.exp(draw.uniform(-0.12, 0.45)).flatten()  # > 1 shows the hand smaller
    stretch = torch.exp(draw.normal(0.06)).flatten()
    flip = torch.where(mirrored, -1.0, 1.0)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0], affine[:, 0, 1] = zoom * stretch * angle.cos() * flip, -zoom * angle.sin()
    affine[:, 1, 0], affine[:, 1, 1] = zoom / stretch * angle.sin() * flip, zoom / stretch * angle.cos()
    affine[:, 0, 2] = draw.normal(0.12).flatten()
    affine[:, 1, 2] = draw.normal(0.08).flatten() - 0.5 * (zoom - 1)  # smaller hands still touch the lower edge
    grid = F.affine_grid(affine, [count, 3, size, size], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    # Light and colour, each picture with its own overall strength: most are near the truth, because skin
    # colour is one of the things the captions speak of.
    strength = draw.uniform(0, 1) ** 2
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * torch.exp(strength * draw.normal(0.4))
    contrast = torch.exp(strength * draw.normal(0.3))
    cast = strength.view(-1, 1) * 0.12 * torch.randn(count, 3, generator=rng)
    gain = torch.exp(cast.view(-1, 3, 1, 1) + strength * draw.normal(0.2))
    x = (x * (contrast * gain) + 0.6 * (1 - contrast) * gain).clamp_(0, 1)
    if len(few := some(0.4)):
        x[few] = x[few] ** torch.exp(_Draw(len(few), rng).normal(0.25))
    if len(few := some(0.35)):
        x[few] = _blur(x[few], _Draw(len(few), rng).uniform(0.3, 1.4).flatten())
    if len(few := some(0.1)):
        coarse = F.interpolate(x[few], size=size * 5 // 8, mode="bilinear", antialias=True)
        x[few] = F.interpolate(coarse, size=size)
    if len(few := some(0.5)):
        amount = _Draw(len(few), rng).uniform(0, 1) ** 2 * 0.08
        x[few] = (x[few] + torch.randn(x[few].shape, generator=rng) * amount).clamp_(0, 1)
    if len(few := some(0.15)):
        x[few] = _compress(x[few], rng)
    if len(few := some(0.3)):
        x[few] = _hide_part(x[few], rng)
    return x


def _change_surroundings(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Put another backdrop behind the hand, and sometimes a sleeve over the wrist."""
    draw = _Draw(len(x), rng)
    edge = torch.cat([x[:, :, 0], x[:, :, :60, 0], x[:, :, :60, -1]], dim=2)  # the hand enters from below
    backdrop = edge.median(dim=2).values[:, :, None, None]
    hand = torch.sigmoid(((x - backdrop).abs().sum(1, keepdim=True) - 0.25) * 25)  # (B, 1, H, W), soft
    down = torch.linspace(-1, 1, x.shape[2]).view(1, 1, -1, 1)
    across = torch.linspace(-1, 1, x.shape[3]).view(1, 1, 1, -1)
    slope = draw.uniform(-0.2, 0.2) * down + draw.uniform(-0.2, 0.2) * across
    tint = 0.24 * (draw.colour() - 0.5) * draw.chance(0.4)
    other = (draw.uniform(0.45, 1.0) + slope * draw.chance(0.6) + tint).clamp(0, 1)
    other = torch.where(draw.chance(0.5), 1.0, other)  # studio white, as in hand data sets
    x = other + hand * (x - other)
    cloth = draw.colour() * draw.uniform(0.2, 1)
    start = draw.uniform(0.6, 0.98)  # in the frame's -1..1: up to a fifth of it is sleeve
    sleeve = hand * torch.sigmoid((down - start) * 60) * draw.chance(0.35)
    return x + sleeve * (cloth - x)


def _blur(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Blur each picture (3, H, W) of a batch by a Gaussian of its own ``sigma`` (B,), in pixels."""
    taps = torch.arange(-3, 4, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (taps / sigma[:, None]) ** 2)
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, dim=0)  # one per channel, (3B, 7)
    flat = F.pad(x, (3, 3, 3, 3), mode="replicate").reshape(1, -1, x.shape[2] + 6, x.shape[3] + 6)
    flat = F.conv2d(flat, kernel.view(-1, 1, 1, 7), groups=len(kernel))
    return F.conv2d(flat, kernel.view(-1, 1, 7, 1), groups=len(kernel)).view_as(x)


def _compress(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Send the pictures through JPEG at a quality of 20 to 80."""
    for picture in x:
        quality = int(torch.randint(20, 81, (1,), generator=rng))
        store = io.BytesIO()
        Image.fromarray((picture.permute(1, 2, 0) * 255).byte().numpy()).save(store, "JPEG", quality=quality)
        picture.copy_(torch.from_numpy(np.array(Image.open(store))).permute(2, 0, 1) / 255)
    return x


def _hide_part(x: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
    """Cover each picture by a plain rectangle of up to a tenth of its area."""
    draw = _Draw(len(x), rng)
    down = torch.linspace(0, 1, x.shape[2]).view(1, 1, -1, 1)
    across = torch.linspace(0, 1, x.shape[3]).view(1, 1, 1, -1)
    rows = (down - draw.uniform(0, 1)).abs() < draw.uniform(0.04, 0.16)
    columns = (across - draw.uniform(0, 1)).abs() < draw.uniform(0.04, 0.16)
    return torch.where(rows & columns, draw.colour(), x)
