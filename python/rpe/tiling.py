"""Large images in overlapping tiles: where the tiles lie, and how their label maps become one.

Every pixel takes its label from the tile in whose core it lies. Objects of neighbouring tiles are one where they agree
on a strip along the seam, which both tiles see with more image around it; so no object is cut. Memory beyond the label
map is that of one tile and of the strips along one row of tiles. What a tile's labels are is the caller's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

Labels: TypeAlias = NDArray[np.int64]

SEAM = 16
"""Half the width in pixels of the strip along a seam on which two tiles are compared."""
_AGREEMENT = 0.5
"""Share of the smaller of two objects, within the strip, from which they are one. Not of their union: a tile may see
two arms of an object that meet in the next one."""
_ROWS = 256
"""Rows of the label map that are renumbered at once."""


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
    def view(self) -> tuple[slice, slice]:
        """Rows and columns of the image that the network sees."""
        return slice(self.rows.first, self.rows.last), slice(self.columns.first, self.columns.last)

    @property
    def core(self) -> tuple[slice, slice]:
        """Rows and columns of the image that are this tile's own."""
        return slice(self.rows.start, self.rows.stop), slice(self.columns.start, self.columns.stop)

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


def tile_sizes(core: int, context: int, quantum: int, window: int) -> tuple[int, int]:
    """Core and margin for which a tile sees what the whole image would show.

    Args:
        core: wanted side in pixels.
        context: pixels around a place that the network's output there may depend on.
        quantum: pixels by which the network, or the grouping, may be shifted without a change.
        window: side in pixels of the windows that are grouped one by one, 0 for none.
    """
    step = math.lcm(quantum, max(1, window))
    margin = math.ceil((context + window + SEAM) / step) * step
    return max(1, round(core / step)) * step, margin


class TileJoiner:
    """The label map of an image, tile by tile in the order of `tiles`.

    Args:
        height: of the image.
        width: of the image.
    """

    def __init__(self, height: int, width: int) -> None:
        self.labels = np.zeros((height, width), dtype=np.int32)
        self._scores: list[NDArray[np.float64]] = [np.zeros(1)]
        self._links: list[Labels] = []
        self._count = 0
        self._left: Labels | None = None
        self._above: dict[int, Labels] = {}

    def add(self, tile: Tile, labels: NDArray[np.integer], scores: NDArray[np.floating]) -> None:
        """Take the label map `[view]` of the next tile, 0 = background, and the scores of its objects 1..K."""
        height, width = self.labels.shape
        numbers = np.where(labels > 0, labels.astype(np.int64) + self._count, 0)
        self._count += len(scores)
        self._scores.append(np.asarray(scores, dtype=np.float64))
        rows, columns = tile.core
        self.labels[rows, columns] = numbers[tile.inner(rows, columns)]
        if rows.start > 0:
            strip = numbers[tile.inner(_along(rows.start, height), columns)]
            self._link(self._above[columns.start], strip)
        if columns.start > 0 and self._left is not None:
            self._link(self._left, numbers[tile.inner(rows, _along(columns.start, width))])
        if rows.stop < height:
            self._above[columns.start] = numbers[tile.inner(_along(rows.stop, height), columns)]
        self._left = None
        if columns.stop < width:
            self._left = numbers[tile.inner(rows, _along(columns.stop, width))]

    def finish(
        self, min_size: int, without_largest: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The label map `[H, W]` with objects 1..K in order of first appearance, and their scores `[K]`: the means of
        their parts', weighed by pixels.

        Args:
            min_size: objects with fewer pixels are removed.
            without_largest: remove the largest object.
        """
        links = np.concatenate([np.zeros((2, 0), dtype=np.int64), *self._links], axis=1)
        total = self._count + 1
        graph = coo_matrix(
            (np.ones(links.shape[1], dtype=np.int8), (links[0], links[1])), shape=(total, total)
        )
        joined = np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)
        pixels, first = np.zeros(total, dtype=np.int64), np.full(total, self.labels.size, dtype=np.int64)
        for start, block in self._blocks():
            found, place, count = np.unique(block, return_index=True, return_counts=True)
            pixels[found] += count
            first[found] = np.minimum(first[found], start * self.labels.shape[1] + place)
        size = np.bincount(joined, weights=pixels).astype(np.int64)
        score = np.bincount(joined, weights=pixels * np.concatenate(self._scores)) / np.maximum(size, 1)
        appears = np.full(len(size), self.labels.size, dtype=np.int64)
        np.minimum.at(appears, joined, first)
        kept = size >= max(1, min_size)
        kept[joined[0]] = False
        if without_largest and kept.any():
            kept[np.argmax(np.where(kept, size, -1))] = False
        order = np.argsort(np.where(kept, appears, self.labels.size + 1), kind="stable")[: int(kept.sum())]
        number = np.zeros(len(size), dtype=np.int32)
        number[order] = np.arange(1, len(order) + 1)
        for _, block in self._blocks():
            block[...] = number[joined[block]]
        return self.labels, score[order].astype(np.float32)

    def _blocks(self) -> Iterator[tuple[int, NDArray[np.int32]]]:
        for start in range(0, self.labels.shape[0], _ROWS):
            yield start, self.labels[start : start + _ROWS]

    def _link(self, one: Labels, other: Labels) -> None:
        """Link the objects of two tiles that agree on a strip that both see."""
        both = (one > 0) & (other > 0)
        pairs, shared = np.unique(np.stack([one[both], other[both]]), axis=1, return_counts=True)
        smaller = np.minimum(_sizes(one, pairs[0]), _sizes(other, pairs[1]))
        self._links.append(pairs[:, shared >= _AGREEMENT * smaller])


def _along(seam: int, length: int) -> slice:
    """The strip around a seam."""
    return slice(max(0, seam - SEAM), min(length, seam + SEAM))


def _sizes(labels: Labels, wanted: Labels) -> Labels:
    """Pixels of each wanted label."""
    found, count = np.unique(labels, return_counts=True)
    return count[np.searchsorted(found, wanted)]
