"""Objects of a large image from those of its tiles.

Objects of neighbouring tiles are one where they agree on a strip along the seam, which both tiles see with more image
around it; so no object is cut. Clusters, of which an object is a part that hangs together, are one where objects of
theirs are. Memory is that of the strips along one row of tiles, and of what is counted for each
object. What a tile's objects are is the caller's business, where tiles lie that of `tiling.py`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .tiling import SEAM, Tile

Labels: TypeAlias = NDArray[np.int64]

_AGREEMENT = 0.5
"""Share of the smaller of two objects, within the strip, from which they are one. Not of their union: a tile may see
two arms of an object that meet in the next one."""
_ROWS = 256
"""Rows of the label map that are renumbered at once."""


class ObjectJoiner:
    """The objects of an image, tile by tile in the order of `tiles`, and which of their parts are one.

    Args:
        height: of the image.
        width: of the image.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._count = 0
        self._pixels: list[Labels] = [np.zeros(1, dtype=np.int64)]
        self._first: list[Labels] = [np.zeros(1, dtype=np.int64)]
        self._sums: list[NDArray[np.float64]] = []
        self._links: list[Labels] = [np.zeros((2, 0), dtype=np.int64)]
        self._mates: list[Labels] = [np.zeros((2, 0), dtype=np.int64)]
        self._left: Labels | None = None
        self._above: dict[int, Labels] = {}

    def add(
        self, tile: Tile, labels: NDArray[np.integer], sums: NDArray[np.float64], clusters: Labels
    ) -> Labels:
        """Take the next tile.

        Args:
            tile: where it lies.
            labels: `[view]`, 0 = background, objects 1..K.
            sums: `[K, S]`, what adds up over each object's pixels in the core.
            clusters: `[K]`, the cluster of the tile that each object is a part of.

        Returns:
            `[core]` number of each pixel's part, counted from 1 over all tiles, 0 = background.
        """
        numbers = np.where(labels > 0, labels.astype(np.int64) + self._count, 0)
        rows, columns = tile.core
        core = numbers[tile.core_in_view]
        self._measure(core, tile, len(sums))
        _, first, cluster = np.unique(clusters, return_index=True, return_inverse=True)
        self._mates.append(1 + self._count + np.stack([np.arange(len(sums)), first[cluster]]))
        self._count += len(sums)
        self._sums.append(sums)
        if rows.start > 0:
            strip = numbers[tile.inner(_along(rows.start, self.height), columns)]
            self._link(self._above[columns.start], strip)
        if columns.start > 0 and self._left is not None:
            self._link(self._left, numbers[tile.inner(rows, _along(columns.start, self.width))])
        if rows.stop < self.height:
            self._above[columns.start] = numbers[tile.inner(_along(rows.stop, self.height), columns)].copy()
        self._left = None
        if columns.stop < self.width:
            self._left = numbers[tile.inner(rows, _along(columns.stop, self.width))].copy()
        return core

    def join(
        self, min_size: int, without_largest: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Number the objects 1..K in the order in which the rows of the image meet them.

        Args:
            min_size: objects with fewer pixels are left out.
            without_largest: leave out every object of the largest cluster, of equal ones the first in the image.

        Returns:
            The object of each part, 0 for the background (part 0) and what is left out; and the objects' sums `[K, S]`.
        """
        pixels = self.height * self.width
        joined = _components(np.concatenate(self._links, axis=1), self._count + 1)
        size = np.bincount(joined, weights=np.concatenate(self._pixels)).astype(np.int64)
        appears = np.full(len(size), pixels, dtype=np.int64)
        np.minimum.at(appears, joined, np.concatenate(self._first))
        kept = size >= max(1, min_size)
        kept[joined[0]] = False
        if without_largest and kept.any():
            cluster = _components(joined[np.concatenate(self._mates, axis=1)], len(size))
            mass = np.bincount(cluster, weights=size * kept)
            first = np.full(len(mass), pixels, dtype=np.int64)
            np.minimum.at(first, cluster, np.where(kept, appears, pixels))
            kept &= cluster != np.lexsort((first, -mass))[0]
        order = np.argsort(np.where(kept, appears, pixels + 1), kind="stable")[: int(kept.sum())]
        number = np.zeros(len(size), dtype=np.int32)
        number[order] = np.arange(1, len(order) + 1)
        parts = np.concatenate(self._sums) if self._sums else np.zeros((0, 0))
        sums = np.zeros((len(size), parts.shape[1]))
        np.add.at(sums, joined[1:], parts)
        return number[joined], sums[order]

    def _measure(self, core: Labels, tile: Tile, count: int) -> None:
        """Pixels of each part in the core, and the place in the image where the rows first meet it."""
        part = np.where(core > 0, core - self._count, 0).reshape(-1)
        self._pixels.append(np.bincount(part, minlength=count + 1)[1:])
        place = np.full(count + 1, -1, dtype=np.int64)
        place[part[::-1]] = np.arange(part.size)[
            ::-1
        ]  # of equal ones the last is written, the first in the core
        width = max(1, core.shape[1])
        row, column = place // width + tile.rows.start, place % width + tile.columns.start
        self._first.append(np.where(place < 0, self.height * self.width, row * self.width + column)[1:])

    def _link(self, one: Labels, other: Labels) -> None:
        """Link the objects of two tiles that agree on a strip that both see."""
        both = (one > 0) & (other > 0)
        pairs, shared = np.unique(np.stack([one[both], other[both]]), axis=1, return_counts=True)
        smaller = np.minimum(_sizes(one, pairs[0]), _sizes(other, pairs[1]))
        self._links.append(pairs[:, shared >= _AGREEMENT * smaller])


class TileJoiner(ObjectJoiner):
    """The label map of an image, tile by tile; every pixel takes its label from the tile in whose core it lies."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(height, width)
        self.labels = np.zeros((height, width), dtype=np.int32)

    def add(
        self, tile: Tile, labels: NDArray[np.integer], sums: NDArray[np.float64], clusters: Labels
    ) -> Labels:
        numbers = super().add(tile, labels, sums, clusters)
        self.labels[tile.core] = numbers
        return numbers

    def finish(
        self, min_size: int, without_largest: bool = False
    ) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The label map `[H, W]` with the objects that `join` numbers, and their sums `[K, S]`."""
        number, sums = self.join(min_size, without_largest)
        for start in range(0, self.height, _ROWS):
            block = self.labels[start : start + _ROWS]
            block[...] = number[block]
        return self.labels, sums


def _components(links: Labels, total: int) -> Labels:
    """`[total]` component of each of the numbers from 0 that are linked `[2, L]`."""
    graph = coo_matrix((np.ones(links.shape[1], dtype=np.int8), tuple(links)), shape=(total, total))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _along(seam: int, length: int) -> slice:
    """The strip around a seam."""
    return slice(max(0, seam - SEAM), min(length, seam + SEAM))


def _sizes(labels: Labels, wanted: Labels) -> Labels:
    """Pixels of each wanted label."""
    found, count = np.unique(labels, return_counts=True)
    return count[np.searchsorted(found, wanted)]
