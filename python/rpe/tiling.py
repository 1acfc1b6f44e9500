"""Large images in overlapping tiles: where the tiles lie.

Every pixel belongs to the core of one tile, and tiles see as much around their cores as the network needs. How what is
found in them becomes one is the business of `joining.py` and of the tasks.
"""

from __future__ import annotations

import math
from typing import NamedTuple

SEAM = 16
"""Half the width in pixels of the strip along a seam on which two tiles are compared."""


class Span(NamedTuple):
    """A tile along one axis, in pixels."""

    start: int
    stop: int
    """The core, [start, stop)."""
    first: int
    last: int
    """What the network sees, [first, last)."""


class Tile(NamedTuple):
    """A tile of the plane."""

    rows: Span
    columns: Span

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what the network sees."""
        return self.rows.last - self.rows.first, self.columns.last - self.columns.first

    @property
    def view(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the network sees."""
        return slice(self.rows.first, self.rows.last), slice(self.columns.first, self.columns.last)

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the image that are this tile's own."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)

    @property
    def core_in_view(self) -> tuple[slice, slice]:
        """Rows and columns of the view that are this tile's own."""
        return self.inner(*self.core)

    @property
    def known(self) -> tuple[slice, slice]:
        """Rows and columns of the view that show what the whole image would: the core and the strips along its
        seams."""
        rows, columns = (
            slice(max(span.first, span.start - SEAM), min(span.last, span.stop + SEAM))
            for span in (self.rows, self.columns)
        )
        return self.inner(rows, columns)

    def inner(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """Rows and columns of the image as those of the view."""
        top, left = self.rows.first, self.columns.first
        return slice(rows.start - top, rows.stop - top), slice(columns.start - left, columns.stop - left)


def spans(length: int, core: int, margin: int) -> list[Span]:
    """Tiles along an axis of `length` pixels: one where the axis is no longer than a core with its margins."""
    if length <= core + 2 * margin:
        return [Span(0, length, 0, length)]
    return [
        Span(start, min(start + core, length), max(0, start - margin), min(start + core + margin, length))
        for start in range(0, length, core)
    ]


def tiles(height: int, width: int, core: int, margin: int) -> list[Tile]:
    """Tiles of an image, row by row."""
    return [Tile(row, column) for row in spans(height, core, margin) for column in spans(width, core, margin)]


def samples(height: int, width: int, side: int, most: int, quantum: int) -> list[Tile]:
    """Small tiles without context, spread evenly over an image from border to border.

    Args:
        height: of the image.
        width: of the image.
        side: of a tile in pixels.
        most: tiles along an axis; there are fewer where the axis is shorter than four times as many.
        quantum: pixels of which the tiles' beginnings are multiples.
    """

    def along(length: int) -> list[Span]:
        last = max(0, length - side)
        gaps = max(1, min(most - 1, length // (4 * side)))
        starts = sorted({last * gap // gaps // quantum * quantum for gap in range(gaps + 1)})
        return [Span(start, min(length, start + side), start, min(length, start + side)) for start in starts]

    return [Tile(row, column) for row in along(height) for column in along(width)]


def tile_sizes(core: int, context: int, quantum: int, window: int) -> tuple[int, int]:
    """Core and margin for which a tile sees what the whole image would show.

    Args:
        core: wanted side in pixels.
        context: pixels around a place that the network's output there may depend on.
        quantum: pixels by which the network may be shifted without a change.
        window: side in pixels of the windows that are grouped one by one, 0 for none; their grid is that of the image
            in every tile.
    """
    margin = math.ceil((context + window + SEAM) / quantum) * quantum
    return max(1, round(core / quantum)) * quantum, margin


def whole(height: int, width: int) -> Tile:
    """An image as a single tile."""
    return Tile(Span(0, height, 0, height), Span(0, width, 0, width))


def cells(pixels: slice, stride: int) -> slice:
    """Cells of pixels that begin at a multiple of the stride."""
    return slice(pixels.start // stride, -(-pixels.stop // stride))
