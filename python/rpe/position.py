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

_BITS = 31
"""Turns are counted in units of 2^-31 and 2^-62 of one; products with places up to 2^31 pixels fit into 64 bits."""


def _positive(name: str, periods: Sequence[float]) -> tuple[float, ...]:
    if any(period <= 0 for period in periods):
        raise ValueError(f"{name} must be above 0, got {tuple(periods)}")
    return tuple(float(period) for period in periods)


def _turns(place: Tensor, rates: Sequence[float]) -> Tensor:
    """`[B, K, n]` float32 turns at places `[B, n]`, up to whole ones, from K rates in turns per pixel.

    In whole numbers, so that a place a million pixels away is as exact as the first, without the float64 that some
    accelerators lack.
    """
    fixed, mask = [round(rate % 1 * 4**_BITS) for rate in rates], 2**_BITS - 1
    coarse = torch.tensor([value >> _BITS for value in fixed], device=place.device)[:, None]
    fine = torch.tensor([value & mask for value in fixed], device=place.device)[:, None]
    place = place[:, None]
    return ((place * coarse) & mask).float() * 0.5**_BITS + (place * fine).float() * 0.25**_BITS


class PeriodicPosition(nn.Module):
    """Append sin and cos of the row and of the column, at each period, to `[B, C, H, W]`: 4 channels per
    period.

    Args:
        periods: in pixels.
    """

    def __init__(self, periods: Sequence[float]) -> None:
        super().__init__()
        self.periods = _positive("model.position_periods", periods)

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
        """`[B, P, length]` angles of the places from `start` `[B]` on."""
        place = start[:, None] + torch.arange(length, device=start.device)
        return 2 * math.pi * _turns(place, [1 / period for period in self.periods])


class PositionRotation(nn.Module):
    """Turn the channels of an embedding with the position, two by two: channel pair k of K turns once per period along
    direction pi k / K in the image, the periods taken in turn (after Su et al., RoFormer, 2021, where channels inside a
    network turn).

    A head that says at every pixel how far it lies from the middle of its object, with no knowledge of where in the
    image that is, then gives all pixels of an object one embedding, and another to its neighbours. Lengths and, for
    two images or parts of one image, similarities stay what they are when both are shifted.

    Args:
        periods: in pixels; none leaves embeddings as they are.
        dim: channels D, four or more for each period; an odd last one stays.
        stride: pixels per cell.
    """

    def __init__(self, periods: Sequence[float], dim: int, stride: int) -> None:
        super().__init__()
        self.periods = _positive("model.rotation_periods", periods)
        if dim < 4 * len(periods):
            raise ValueError(
                f"model.rotation_periods: {len(periods)} periods turn two pairs of channels each at least, "
                f"which takes a dim of {4 * len(periods)} or more, got {dim}"
            )
        self.pairs = dim // 2 if periods else 0
        self.stride = stride

    def forward(self, embedding: Tensor, origin: Origin = (0, 0)) -> Tensor:
        """`[B, D, h, w]`; `origin` as for `PeriodicPosition`."""
        if self.pairs == 0:
            return embedding
        batch, _, height, width = embedding.shape
        start = torch.as_tensor(origin, device=embedding.device).expand(batch, 2)
        turn = [math.pi * pair / self.pairs for pair in range(self.pairs)]
        down = self._phase([math.sin(angle) for angle in turn], start[:, 0], height).unsqueeze(3)
        across = self._phase([math.cos(angle) for angle in turn], start[:, 1], width).unsqueeze(2)
        cosine, sine = (down + across).cos(), (down + across).sin()  # [B, K, h, w]
        first, second = embedding[:, : 2 * self.pairs].chunk(2, dim=1)
        turned = [first * cosine - second * sine, first * sine + second * cosine]
        return torch.cat([*turned, embedding[:, 2 * self.pairs :]], dim=1)

    def _phase(self, share: Sequence[float], start: Tensor, length: int) -> Tensor:
        """`[B, K, length]` angles along one axis."""
        place = start[:, None] + self.stride * torch.arange(length, device=start.device)
        rates = [part / self.periods[pair % len(self.periods)] for pair, part in enumerate(share)]
        return 2 * math.pi * _turns(place, rates)
