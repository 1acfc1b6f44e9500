"""Periodic position channels: what lets a convolutional network give equal neighbours different embeddings.
 Plain coordinates do not extrapolate beyond the size of the training views; sines and cosines of the position
do, being periodic, and only nearby objects have to differ (see `windows.py`). In training the phase is drawn
anew for every image, from PyTorch's global generator, so that no place of a view is special.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PeriodicPosition(nn.Module):
    """Append sin and cos of the row and of the column, at each period, to `[B, C, H, W]`: 4 channels per
    period.

    Args:
        periods: in pixels.
    """

    def __init__(self, periods: Sequence[float]) -> None:
        super().__init__()
        if any(period <= 0 for period in periods):
            raise ValueError(f"model.position_periods must be above 0, got {tuple(periods)}")
        self.periods = tuple(float(period) for period in periods)

    @property
    def channels(self) -> int:
        """Channels appended."""
        return 4 * len(self.periods)

    def forward(self, image: Tensor, origin: tuple[int, int] = (0, 0)) -> Tensor:
        """`origin` is the row and column of the first pixel, where the image is a part of a larger one."""
        if not self.periods:
            return image
        batch, _, height, width = image.shape
        frequency = 2 * math.pi / torch.tensor(self.periods, dtype=image.dtype, device=image.device)
        phase = image.new_zeros(batch, 2, len(self.periods))
        if self.training:
            phase = 2 * math.pi * torch.rand_like(phase)
        row = origin[0] + torch.arange(height, dtype=image.dtype, device=image.device)
        column = origin[1] + torch.arange(width, dtype=image.dtype, device=image.device)
        angle_row = frequency[:, None] * row + phase[:, 0, :, None]  # [B, P, H]
        angle_column = frequency[:, None] * column + phase[:, 1, :, None]  # [B, P, W]
        shape = (batch, -1, height, width)
        waves = [
            torch.cat([angle_row.sin(), angle_row.cos()], dim=1)[..., None].expand(shape),
            torch.cat([angle_column.sin(), angle_column.cos()], dim=1)[:, :, None].expand(shape),
        ]
        return torch.cat([image, *waves], dim=1)
