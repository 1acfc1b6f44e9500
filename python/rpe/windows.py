"""Cutting maps into square windows and packing their points: `[B, D, h, w]` -> rows `[T, D]` and offsets.

Only points of one window are compared, so only nearby objects repel each other; a window is an "image" of the
packed batch that `rpe_ops` takes. With size 0 the whole image is one window. Nothing is padded: windows are
ragged, points that take no part are left out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Packed(NamedTuple):
    """Points of a batch of windows."""

    cell: Tensor
    """`[T]` int64: index of each row in the flattened `[B * h * w]` map, windows one after the other."""
    offsets: Tensor
    """`[W + 1]` int64 row offsets of the windows that hold at least one point."""

    def rows(self, maps: Tensor) -> Tensor:
        """Gather `[B, C, h, w]` into `[T, C]`."""
        flat = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
        return flat.index_select(0, self.cell)

    def values(self, plane: Tensor) -> Tensor:
        """Gather `[B, h, w]` into `[T]`."""
        return plane.reshape(-1).index_select(0, self.cell)

    def images(self, cells_per_image: int) -> Tensor:
        """`[W]` image of the batch that each window lies in."""
        return self.cell[self.offsets[:-1]] // cells_per_image

    def select(self, keep: Tensor) -> Packed:
        """The points where `keep` `[T]` is true; windows left without a point disappear."""
        sizes = torch.diff(self.offsets)
        window = torch.repeat_interleave(torch.arange(len(sizes), device=keep.device), sizes)
        sizes = torch.bincount(window[keep], minlength=len(sizes))
        return Packed(self.cell[keep], offsets_of(sizes[sizes > 0]))


def offsets_of(sizes: Tensor) -> Tensor:
    """`[W]` sizes to `[W + 1]` int64 row offsets."""
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).to(torch.int64)


def pack(mask: Tensor, size: int = 0, origin: tuple[int, int] = (0, 0)) -> Packed:
    """Pack the cells of `mask` window by window.

    Args:
        mask: `[B, h, w]` bool, the cells that take part.
        size: side of a window in cells; 0 takes each image as one window.
        origin: shift of the window grid, 0 <= each < size.

    Returns:
        The cells in window order (row order inside a window) and the windows' offsets.
    """
    batch, height, width = mask.shape
    cell = mask.reshape(-1).nonzero().squeeze(1)
    image = cell // (height * width)
    if size <= 0:
        window, count = image, batch
    else:
        rows, columns = (height + size - 1) // size + 1, (width + size - 1) // size + 1
        row = (cell // width % height + origin[0]) // size
        column = (cell % width + origin[1]) // size
        window, count = (image * rows + row) * columns + column, batch * rows * columns
        window, order = torch.sort(window, stable=True)
        cell = cell[order]
    sizes = torch.bincount(window, minlength=count)
    return Packed(cell, offsets_of(sizes[sizes > 0]))


def random_origin(size: int, generator: torch.Generator) -> tuple[int, int]:
    """A uniformly random shift of the grid; (0, 0) for size 0."""
    if size <= 0:
        return 0, 0
    shift = torch.randint(size, (2,), generator=generator)
    return int(shift[0]), int(shift[1])
