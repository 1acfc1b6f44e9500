"""Rotation of a Sample about its centre by any angle: bilinear for the image, the pixel under each centre for the maps.

`augment` cuts a window of `bounding_size`, rotates it and keeps the middle, so that no corner comes from nowhere.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .sample import Sample


def bounding_size(size: tuple[int, int], angle: float) -> tuple[int, int]:
    """(height, width) of the smallest window that holds one of this size rotated by `angle` radians."""
    sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
    height, width = size
    return (
        math.ceil(height * cosine + width * sine - 1e-9),
        math.ceil(width * cosine + height * sine - 1e-9),
    )


def rotate(sample: Sample, angle: float, size: tuple[int, int]) -> Sample:
    """The middle of a sample, rotated.

    Args:
        sample: any size.
        angle: in radians; positive turns the picture counter-clockwise as one looks at it.
        size: (height, width) of the result. What lies outside the sample repeats its border and is IGNORE in maps.
    """
    row, column = _source(sample.size, size, angle)
    nearest_row, nearest_column = row.round().long(), column.round().long()
    height, width = sample.size
    is_outside = (
        (nearest_row < 0) | (nearest_row >= height) | (nearest_column < 0) | (nearest_column >= width)
    )
    place = nearest_row.clamp(0, height - 1) * width + nearest_column.clamp(0, width - 1)
    # grid_sample counts from -1 at the outer edge of the first pixel to 1 at that of the last.
    grid = torch.stack([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1], dim=-1)

    def turn_image(image: Tensor) -> Tensor:
        return F.grid_sample(
            image[None], grid[None].float(), mode="bilinear", padding_mode="border", align_corners=False
        )[0]

    def turn_values(values: Tensor, outside: int) -> Tensor:
        return values.flatten()[place].masked_fill(is_outside, outside)

    return sample.map_pixels(turn_image, turn_values)


def _source(source: tuple[int, int], size: tuple[int, int], angle: float) -> tuple[Tensor, Tensor]:
    """Where every pixel `[h, w]` of the result comes from, as row and column in the source, float64."""
    down = torch.arange(size[0], dtype=torch.float64)[:, None] - (size[0] - 1) / 2
    right = torch.arange(size[1], dtype=torch.float64)[None, :] - (size[1] - 1) / 2
    sine, cosine = math.sin(angle), math.cos(angle)
    row = cosine * down + sine * right + (source[0] - 1) / 2
    column = cosine * right - sine * down + (source[1] - 1) / 2
    return row, column
