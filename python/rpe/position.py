"""Periodic position channels: what lets a convolutional network give equal neighbours different embeddings.
 Plain coordinates do not extrapolate beyond the size of the training views; sines and cosines of the position
do, being periodic, and only nearby objects have to differ (see `windows.py`). Training gives every view a
random origin (`views.py`), so that no place of a view is special; here is nothing random.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

Origin: TypeAlias = "Tensor | tuple[int, int]"


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

    def forward(self, image: Tensor, origin: Origin = (0, 0)) -> Tensor:
        """`origin` is the row and column of the first pixel where the image is a part of a larger one: one for all
        images, or `[B, 2]`."""
        if not self.periods:
            return image
        batch, _, height, width = image.shape
        start = torch.as_tensor(origin, device=image.device).expand(batch, 2)
        angle_row = self._angle(start[:, 0], height)  # [B, P, H]
        angle_column = self._angle(start[:, 1], width)  # [B, P, W]
        shape = (batch, -1, height, width)
        waves = [
            torch.cat([angle_row.sin(), angle_row.cos()], dim=1)[..., None].expand(shape),
            torch.cat([angle_column.sin(), angle_column.cos()], dim=1)[:, :, None].expand(shape),
        ]
        return torch.cat([image, *(wave.to(image.dtype) for wave in waves)], dim=1)

    def _angle(self, start: Tensor, length: int) -> Tensor:
        """`[B, P, length]` angles of the places from `start` `[B]` on; reduced before they are rounded, so that a
        place a million pixels away is as exact as the first."""
        place = start[:, None] + torch.arange(length, device=start.device)
        period = torch.tensor(self.periods, device=start.device)[:, None]
        return 2 * math.pi * (place[:, None].to(period.dtype) % period / period)
