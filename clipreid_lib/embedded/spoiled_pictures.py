"""Pictures spoiled anew at every step of the pretraining.

The network is shown synthetic people only but has to say something about photographs, so the spoiling is
wide: framing, light, colour, backdrop, sleeves, focus, noise, compression, things in the way. What belongs to a
camera and its light is the same in all pictures of a studio: a burst has one, and often a whole data set.
"""

import io

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

TOGETHER = 96  # pictures spoiled at once


def spoil(
    pictures: torch.Tensor, studios: torch.Tensor, mirrored: torch.Tensor, size: int, rng: torch.Generator
) -> torch.Tensor:
    """Give the studios of a batch their own light and faults, and each picture its own framing.

    Args:
        pictures: (B, 3, H, W) uint8.
        studios: (B,) numbers; the same means one light and camera within a block of ``TOGETHER`` pictures.
        mirrored: (B,) bool: which to flip horizontally.
        size: side of the returned squares in pixels.
        rng: of all random choices.

    Returns:
        float32 (B, 3, size, size) in [0, 1].
    """
    images = torch.empty(len(pictures), 3, size, size)
    for chunk in torch.arange(len(pictures)).split(TOGETHER):
        images[chunk] = _spoil_chunk(pictures[chunk].float() / 255, studios[chunk], mirrored[chunk], size, rng)
    return images


def shrink(pictures: torch.Tensor, mirrored: torch.Tensor, size: int) -> torch.Tensor:
    """Only resize and mirror: arguments and result as those of :func:`spoil`."""
    images = F.interpolate(pictures.float() / 255, size=size, mode="bilinear", antialias=True)
    return torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)


class _Draw:
    """Random numbers from ``rng``, the same for equal ``labels`` (B,), shaped (B, 1, 1, 1) to combine with a batch."""

    def __init__(self, labels: torch.Tensor, rng: torch.Generator) -> None:
        self.labels, self.rng = labels, rng
        distinct, self.place = labels.unique(return_inverse=True)
        self.count = len(distinct)

    def uniform(self, low: float, high: float, channels: int = 1) -> torch.Tensor:
        return low + (high - low) * torch.rand(self.count, channels, 1, 1, generator=self.rng)[self.place]

    def normal(self, deviation: float, channels: int = 1) -> torch.Tensor:
        return deviation * torch.randn(self.count, channels, 1, 1, generator=self.rng)[self.place]

    def chance(self, p: float) -> torch.Tensor:
        return self.uniform(0, 1) < p

    def some(self, p: float) -> tuple[torch.Tensor, "_Draw"]:
        """Choose a share of the labels: where their pictures are, and their random numbers."""
        few = self.chance(p).flatten().nonzero().flatten()
        return few, _Draw(self.labels[few], self.rng)


def _spoil_chunk(
    x: torch.Tensor, studios: torch.Tensor, mirrored: torch.Tensor, size: int, rng: torch.Generator
) -> torch.Tensor:
    draw, each, count = _Draw(studios, rng), _Draw(torch.arange(len(x)), rng), len(x)
    few, theirs = draw.some(0.5)
    if len(few):
        x[few] = _change_surroundings(x[few], theirs)

    # Framing. Photographs show hands from half to all of the frame; a hand reaches in from the lower edge,
    # so the border's continuation outwards (padding_mode) is a plausible forearm and backdrop.
    angle = (draw.normal(0.15) + each.normal(0.06)).flatten()  # radians
    zoom = torch.exp(draw.uniform(-0.20, 0.40) + each.normal(0.04)).flatten()  # > 1 shows the hand smaller
    stretch = torch.exp(draw.normal(0.05) + each.normal(0.03)).flatten()
    flip = torch.where(mirrored, -1.0, 1.0)
    affine = torch.zeros(count, 2, 3)
    affine[:, 0, 0], affine[:, 0, 1] = zoom * stretch * angle.cos() * flip, -zoom * angle.sin()
    affine[:, 1, 0], affine[:, 1, 1] = zoom / stretch * angle.sin() * flip, zoom / stretch * angle.cos()
    affine[:, 0, 2] = (draw.normal(0.11) + each.normal(0.03)).flatten()
    # smaller hands still touch the lower edge
    affine[:, 1, 2] = (draw.normal(0.07) + each.normal(0.03)).flatten() - 0.5 * (zoom - 1)
    grid = F.affine_grid(affine, [count, 3, size, size], align_corners=False)
    x = F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    # Light and colour, each studio with its own overall strength: most are near the truth, because skin
    # colour is one of the things the captions speak of.
    strength = draw.uniform(0, 1) ** 2
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * torch.exp(strength * draw.normal(0.4))
    contrast = torch.exp(strength * draw.normal(0.3))
    gain = torch.exp(strength * (draw.normal(0.12, channels=3) + draw.normal(0.2)) + each.normal(0.03))
    x = (x * (contrast * gain) + 0.6 * (1 - contrast) * gain).clamp_(0, 1)
    few, theirs = draw.some(0.4)
    if len(few):
        x[few] = x[few] ** torch.exp(theirs.normal(0.25))
    few, theirs = draw.some(0.35)
    if len(few):
        x[few] = _blur(x[few], theirs.uniform(0.3, 1.4).flatten())
    few, theirs = draw.some(0.1)
    if len(few):
        coarse = F.interpolate(x[few], size=size * 5 // 8, mode="bilinear", antialias=True)
        x[few] = F.interpolate(coarse, size=size)
    few, theirs = draw.some(0.45)
    if len(few):  # cameras sharpen, and so does careless shrinking
        soft = _blur(x[few], theirs.uniform(0.5, 1.2).flatten())
        x[few] = (x[few] + theirs.uniform(0.2, 2.0) * (x[few] - soft)).clamp_(0, 1)
    few, theirs = draw.some(0.4)
    if len(few):
        amount = theirs.uniform(0, 1) ** 2 * 0.08
        x[few] = (x[few] + torch.randn(x[few].shape, generator=rng) * amount).clamp_(0, 1)
    few, theirs = draw.some(0.15)
    if len(few):
        x[few] = _compress(x[few], theirs)
    few, theirs = each.some(0.25)
    if len(few):
        x[few] = _hide_part(x[few], theirs)
    return x


def _change_surroundings(x: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Put another backdrop behind the hand, and sometimes a sleeve over the wrist."""
    edge = torch.cat([x[:, :, 0], x[:, :, :60, 0], x[:, :, :60, -1]], dim=2)  # the hand enters from below
    backdrop = edge.median(dim=2).values[:, :, None, None]
    hand = torch.sigmoid(((x - backdrop).abs().sum(1, keepdim=True) - 0.25) * 25)  # (B, 1, H, W), soft
    down = torch.linspace(-1, 1, x.shape[2]).view(1, 1, -1, 1)
    across = torch.linspace(-1, 1, x.shape[3]).view(1, 1, 1, -1)
    slope = draw.uniform(-0.2, 0.2) * down + draw.uniform(-0.2, 0.2) * across
    tint = draw.uniform(-0.12, 0.12, channels=3) * draw.chance(0.4)
    other = (draw.uniform(0.45, 1.0) + slope * draw.chance(0.6) + tint).clamp(0, 1)
    other = torch.where(draw.chance(0.5), 1.0, other)  # studio white, as in hand data sets
    x = other + hand * (x - other)
    cloth = draw.uniform(0, 1, channels=3) * draw.uniform(0.2, 1)
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


def _compress(x: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Send the pictures through JPEG at a quality of 20 to 80."""
    for picture, quality in zip(x, draw.uniform(20, 81).flatten(), strict=True):
        store = io.BytesIO()
        Image.fromarray((picture.permute(1, 2, 0) * 255).byte().numpy()).save(store, "JPEG", quality=int(quality))
        picture.copy_(torch.from_numpy(np.array(Image.open(store))).permute(2, 0, 1) / 255)
    return x


def _hide_part(x: torch.Tensor, draw: _Draw) -> torch.Tensor:
    """Cover each picture by a plain rectangle of up to a tenth of its area."""
    down = torch.linspace(0, 1, x.shape[2]).view(1, 1, -1, 1)
    across = torch.linspace(0, 1, x.shape[3]).view(1, 1, 1, -1)
    rows = (down - draw.uniform(0, 1)).abs() < draw.uniform(0.04, 0.16)
    columns = (across - draw.uniform(0, 1)).abs() < draw.uniform(0.04, 0.16)
    return torch.where(rows & columns, draw.uniform(0, 1, channels=3), x)
