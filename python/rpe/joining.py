"""Objects of a large image from those of its tiles.

Objects of neighbouring tiles are one where they agree on a strip along the seam, or around the corner at which tiles
touch, which both tiles see with more image around it; so no object is cut. Both must have pixels in the cores of their
tiles, for what lies outside another tile sees better; where objects hang together, what they share lies in both cores.
Clusters, of which an object is a part that hangs together, are one where objects of theirs are. Memory is that of the
strips along two rows of tiles, and of what is counted for each object. What a tile's objects are is the caller's
business, where tiles lie that of `tiling.py`.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from .tiling import SEAM, Tile

Labels: TypeAlias = NDArray[np.int64]

_AGREEMENT = 0.5
"""Share of the smaller of two objects, within the strip, from which they are one. Not of their union: a tile may see
two arms of an object that meet in the next one. Those without a pixel in a core join nothing, and their clusters where
it is their union's share."""
_ROWS = 256
"""Rows of the label map that are renumbered at once."""


class _Strip(NamedTuple):
    """What a tile sees along its lower seam, from corner to corner."""

    core: slice
    """The tile's own columns."""
    first: int
    """First column of the labels."""
    labels: Labels

    def over(self, columns: slice) -> Labels:
        """The part over some columns of the image."""
        return self.labels[:, columns.start - self.first : columns.stop - self.first]


class ObjectJoiner:
    """The objects of an image, tile by tile in the order of `tiles`, and which of their parts are one.

    Args:
        height: of the image.
        width: of the image.
        connected: objects hang together in the plane: one that lies in the cores of two tiles crosses their seam.
    """

    def __init__(self, height: int, width: int, connected: bool = True) -> None:
        self.height, self.width, self.connected = height, width, connected
        self._count = 0
        self._pixels: list[Labels] = [np.zeros(1, dtype=np.int64)]
        self._first: list[Labels] = [np.zeros(1, dtype=np.int64)]
        self._sums: list[NDArray[np.float64]] = []
        self._links: list[Labels] = [np.zeros((2, 0), dtype=np.int64)]
        self._mates: list[Labels] = [np.zeros((2, 0), dtype=np.int64)]
        self._left: Labels | None = None
        self._above: list[_Strip] = []
        self._below: list[_Strip] = []

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
        core = numbers[tile.core_in_view]
        self._measure(core, tile, len(sums))
        has_core = np.append(False, self._pixels[-1] > 0)
        self._compare(np.where(has_core[labels], numbers, -numbers), tile)
        _, first, cluster = np.unique(clusters, return_index=True, return_inverse=True)
        self._mates.append(1 + self._count + np.stack([np.arange(len(sums)), first[cluster]]))
        self._count += len(sums)
        self._sums.append(sums)
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

    def _compare(self, seen: Labels, tile: Tile) -> None:
        """Link the parts that a tile sees with those of the tiles before it; parts without a pixel in its core are
        negative."""
        rows, columns = tile.core
        if columns.start == 0:
            self._above, self._below, self._left = self._below, [], None
        before, after = _along(columns.start, self.width), _along(columns.stop, self.width)
        if rows.start > 0:
            seam, place = _along(rows.start, self.height), len(self._below)
            for above, shared in zip(
                self._above[max(0, place - 1) : place + 2],
                (before, columns, after)[place == 0 :],
                strict=False,
            ):
                here = np.zeros((seam.stop - seam.start, shared.stop - shared.start), dtype=bool)
                here[rows.start - seam.start :, _within(columns, shared)] = True
                there = np.zeros_like(here)
                there[: rows.start - seam.start, _within(above.core, shared)] = True
                self._link(above.over(shared), seen[tile.inner(seam, shared)], there, here)
        if self._left is not None:
            here = np.zeros(self._left.shape, dtype=bool)
            here[:, columns.start - before.start :] = True
            self._link(self._left, seen[tile.inner(rows, before)], ~here, here)
        wide = slice(before.start, after.stop)
        below = seen[tile.inner(_along(rows.stop, self.height), wide)]
        self._below.append(_Strip(columns, wide.start, below.copy()))
        self._left = seen[tile.inner(rows, after)].copy()

    def _link(
        self, one: Labels, other: Labels, in_one: NDArray[np.bool_], in_other: NDArray[np.bool_]
    ) -> None:
        """Link the parts of two tiles that agree on what both see; with masks of the cores of the two."""
        both = (one != 0) & (other != 0)
        pairs, pair, shared = np.unique(
            np.stack([one[both], other[both]]), axis=1, return_inverse=True, return_counts=True
        )
        sizes = np.stack([_sizes(one, pairs[0]), _sizes(other, pairs[1])])
        have_cores = (pairs > 0).all(axis=0)
        agree = have_cores & (shared >= _AGREEMENT * sizes.min(axis=0))
        if self.connected:
            for core in (in_one, in_other):
                agree &= np.bincount(pair.reshape(-1), core[both], len(shared)) > 0
        self._links.append(pairs[:, agree])
        same = shared > _AGREEMENT * (sizes.sum(axis=0) - shared)
        self._mates.append(np.abs(pairs[:, ~have_cores & same]))


class TileJoiner(ObjectJoiner):
    """The label map of an image, tile by tile; every pixel takes its label from the tile in whose core it lies."""

    def __init__(self, height: int, width: int, connected: bool = True) -> None:
        super().__init__(height, width, connected)
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


def _within(part: slice, whole: slice) -> slice:
    """Where one run of columns lies in another one."""
    return slice(max(0, part.start - whole.start), max(0, part.stop - whole.start))


def _sizes(labels: Labels, wanted: Labels) -> Labels:
    """Pixels of each wanted label."""
    found, count = np.unique(labels, return_counts=True)
    return count[np.searchsorted(found, wanted)]
