"""Augmentation for training, a whole batch at once. By default nothing is flipped: hands are right or left."""

import math

import torch

from clipreid_lib.clip.device import move
from clipreid_lib.clip.encode import normalise
from clipreid_lib.params.image_sizes import parse_size

ERASED = 0.5  # share of the images of which a rectangle is erased
# Of that rectangle: its area as share of the image's, and height to width; as torchvision, and as timm with its noise.
SHAPES = {"mean": ((0.02, 0.33), (0.3, 3.3)), "noise": ((0.02, 1 / 3), (0.3, 1 / 0.3))}
TRIES = 10  # to draw a rectangle that fits; then nothing is erased


def enlarge(size: int | tuple[int, int]) -> tuple[int, int]:
    """Return the (height, width) from which CLIP-HandID cuts its crops: 256 pixels for 224."""
    height, width = parse_size(size)
    return round(height * 8 / 7), round(width * 8 / 7)


class Augment:
    """CLIP-ReID's training augmentation: pad, random crop, normalise, then erase a rectangle (arXiv 2211.13977).

    Erasing is random erasing (Zhong et al. 2017, arXiv 1708.04896), of every other image on average. As published, it
    flips every other image, pads with black and erases with noise (timm's ``pixel``). Here, by default, it does not
    flip, pads with the edge's colour and erases with the mean: hands lie on a plain backdrop. It draws from torch's
    global generator on the CPU, image by image, in the order of torchvision's ``v2.RandomCrop`` and
    ``v2.RandomErasing``, so that a device does not change what is drawn; noise is drawn where the images are.

    Args:
        size: of the images, (height, width) in pixels or a square's side.
        mean: of each channel, of values in [0, 1], that normalising takes off.
        std: of each channel, likewise.
        flip: whether every other image is mirrored.
        padding: ``edge`` or ``black``; ``enlarge`` pads nothing and crops from images of the size :func:`enlarge`.
        erase: with ``mean`` or ``noise``; ``none`` erases nothing.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        *,
        flip: bool = False,
        padding: str = "edge",
        erase: str = "mean",
    ) -> None:
        """Take the settings."""
        self.size = parse_size(size)
        self.given = enlarge(self.size) if padding == "enlarge" else self.size  # height and width of what comes
        # on all sides; 10 pixels for 256 x 128 in CLIP-ReID
        self.pad = 0 if padding == "enlarge" else max(2, round(max(self.size) * 10 / 256))
        self.mean, self.std = mean, std
        self.flip, self.black, self.noise = flip, padding == "black", erase == "noise"
        self.erased = 0.0 if erase == "none" else ERASED
        self.area, ratio = SHAPES.get(erase, SHAPES["mean"])
        self._log_ratio = torch.log(torch.tensor(ratio))

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """Augment each image of a batch on its own: (B, 3, H, W) uint8 to float32, normalised, on the same device.

        For ``enlarge`` the images given are larger than those returned.
        """
        drawn = move(torch.tensor([self._draw() for _ in pixels]), pixels.device)  # (B, 7)
        flipped, top, left, *erased = drawn[:, :, None].unbind(dim=1)  # (B, 1) each
        (rows, below), (columns, right) = (self._look(start, at) for start, at in ((top, 0), (left, 1)))
        if self.flip:
            columns = torch.where(flipped.bool(), self.given[1] - 1 - columns, columns)
        image = torch.arange(len(pixels), device=pixels.device)[:, None]
        seen = pixels[image, :, rows].transpose(1, 2)  # (B, 3, H, W)
        seen = seen.gather(3, columns[:, None, None, :].expand(-1, 3, self.size[0], -1))
        if self.black:
            seen.masked_fill_((below[:, None, :, None] | right[:, None, None, :]), 0)
        out = normalise(seen, self.mean, self.std)
        i, j, height, width = erased
        places = [torch.arange(side, device=pixels.device) for side in self.size]
        inside = ((places[0] >= i) & (places[0] < i + height))[:, None, :, None]
        inside = inside & ((places[1] >= j) & (places[1] < j + width))[:, None, None, :]  # (B, 1, H, W)
        return torch.where(inside, torch.randn_like(out), out) if self.noise else out.masked_fill_(inside, 0)

    def _look(self, start: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which of an image's rows or columns each of the crop's shows, (B, H or W), and which lie outside."""
        wanted = start + torch.arange(self.size[axis], device=start.device) - self.pad
        seen = wanted.clamp(0, self.given[axis] - 1)  # beyond the edge is the edge
        return seen, seen != wanted

    def _draw(self) -> list[int]:
        """Draw one image's flip, crop (top, left) and erased rectangle (top, left, height, width)."""
        flipped = self.flip and float(torch.rand(1)) < 0.5
        room = [given + 2 * self.pad - side for given, side in zip(self.given, self.size, strict=True)]
        crop = [int(torch.randint(0, each + 1, ())) for each in room]
        return [int(flipped), *crop, *(self._draw_rectangle() if float(torch.rand(1)) < self.erased else (0, 0, 0, 0))]

    def _draw_rectangle(self) -> tuple[int, int, int, int]:
        high, wide = self.size
        for _ in range(TRIES):
            area = high * wide * torch.empty(1).uniform_(*self.area).item()
            ratio = torch.exp(torch.empty(1).uniform_(*self._log_ratio)).item()
            height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
            if height < high and width < wide:
                top = int(torch.randint(0, high - height + 1, ()))
                return top, int(torch.randint(0, wide - width + 1, ())), height, width
        return 0, 0, 0, 0
