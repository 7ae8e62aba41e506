"""Feeding images to a device: all of them at once where they fit, else batch by batch, one ahead."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch

from clipreid_lib.clip.device import move

SHARE = 1 / 3  # of a GPU's free memory that images may take; activations need the rest


class Images(Protocol):
    """(N, 3, H, W) uint8 images that are indexed by rows: a tensor, or what decodes them when they are asked for."""

    def __len__(self) -> int:
        """Return N."""
        ...

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the (B, 3, H, W) uint8 of (B,) rows."""
        ...


def keep_on_device(images: Images, device: torch.device) -> Images:
    """Return images (N, 3, H, W) uint8 on the device, if they are a tensor that fits into a third of its free memory.

    Else they are returned as they are.
    """
    if not isinstance(images, torch.Tensor) or device.type == "cpu":
        return images
    if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(device)[0] * SHARE:
        return images
    return images.to(device)


def feed(
    images: Images, batches: Sequence[torch.Tensor], device: torch.device
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield each batch's rows (B,) int64 and images (B, 3, H, W) uint8 on a device.

    Images that lie elsewhere are fetched one batch ahead by a thread. The rows of all batches, given on the CPU, are
    copied once.
    """
    if not batches:
        return
    rows = move(torch.cat(list(batches)), device).split([len(batch) for batch in batches])
    if isinstance(images, torch.Tensor) and images.device == rows[0].device:
        for row in rows:
            yield row, images[row]
        return
    with ThreadPoolExecutor(1) as ahead:
        coming = ahead.submit(_fetch, images, batches[0], device)
        for place, row in enumerate(rows):
            seen = coming.result()
            if place + 1 < len(rows):
                coming = ahead.submit(_fetch, images, batches[place + 1], device)
            yield row, move(seen, device)


def _fetch(images: Images, batch: torch.Tensor, device: torch.device) -> torch.Tensor:
    seen = images[batch]
    return seen.pin_memory() if device.type == "cuda" else seen
