"""From pixels to a network's input."""

import torch


def normalise(pixels: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """Map uint8 pixels (B, 3, H, W) to float32 with the checkpoint's channel means and deviations.

    Args:
        pixels: (B, 3, H, W) uint8.
        mean: of each channel, of values in [0, 1].
        std: of each channel, likewise.

    Returns:
        (B, 3, H, W) float32, on the pixels' device.
    """
    middle = torch.tensor(mean, device=pixels.device).view(1, 3, 1, 1)
    spread = torch.tensor(std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float() / 255 - middle) / spread
