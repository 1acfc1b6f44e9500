"""Grouping an image window by window: overlapping windows are clustered one by one and their clusters joined.
 Clusters of two windows are one object where they agree over the windows' overlap. That compares only nearby
points, as training does, and keeps the work linear in the area of the image. Clustering itself is the
caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from .windows import Packed, pack

_AGREEMENT = 0.5
"""Intersection over union, within the overlap of their windows, from which two clusters are one."""


def stitch(
    cells: Tensor, window: int, label_points: Callable[[Packed], Tensor], origin: tuple[int, int] = (0, 0)
) -> Tensor:
    """Cluster numbers `[h, w]`, 0 outside `cells`, from windows that overlap by half their side.

    Four grids of windows cover the plane, shifted by half a window in each direction. Every cell takes its
    cluster from the grid in which it lies nearest to the middle of its window.

    Args:
        cells: `[h, w]` bool.
        window: side of a window in cells, at least 2.
        label_points: clusters of packed points, numbered from 0 within each window.
        origin: row and column of the first cell on the plane that the grids cover.
    """
    if not bool(cells.any()):
        return torch.zeros_like(cells, dtype=torch.int64)
    half = window // 2
    inside = cells.reshape(-1).cpu().numpy()
    clusters, owners, total = [], [], 0
    for down, across in ((0, 0), (0, half), (half, 0), (half, half)):
        packed = pack(cells[None], window, ((origin[0] + down) % window, (origin[1] + across) % window))
        owner = torch.repeat_interleave(
            torch.arange(len(packed.offsets) - 1), torch.diff(packed.offsets).cpu()
        )
        pair = torch.stack([owner, label_points(packed).cpu()])
        number = torch.unique(pair, dim=1, return_inverse=True)[1]
        order = torch.argsort(packed.cell.cpu())
        clusters.append((number[order] + total).numpy())  # [T], in the order of cells
        owners.append(owner[order].numpy())
        total += int(number.max()) + 1
    joined = _join(clusters, owners, total)
    chosen = np.choose(_most_central(cells.shape[0], cells.shape[1], window, origin)[inside], clusters)
    result = np.zeros(inside.shape, dtype=np.int64)
    result[inside] = joined[chosen] + 1
    return torch.from_numpy(result).view(cells.shape).to(cells.device)


def _most_central(height: int, width: int, window: int, origin: tuple[int, int]) -> NDArray[np.int64]:
    """`[h * w]` which of the four grids has the cell nearest to the middle of a window."""

    def shifted(length: int, first: int) -> NDArray[np.int64]:
        place = np.arange(first, first + length) % window + 0.5
        return (np.abs(place - window / 2) > window / 4).astype(np.int64)

    return (2 * shifted(height, origin[0])[:, None] + shifted(width, origin[1])[None, :]).reshape(-1)


def _join(
    clusters: list[NDArray[np.int64]], owners: list[NDArray[np.int64]], total: int
) -> NDArray[np.int64]:
    """`[total]` component of each cluster after linking those that agree."""
    rows, columns = [], []
    for a, b in combinations(range(len(clusters)), 2):
        pairs, both = np.unique(np.stack([clusters[a], clusters[b]]), axis=1, return_counts=True)
        # A cluster of one grid within a window of the other: what it could share there.
        size_a = _shared(clusters[a], owners[b])
        size_b = _shared(clusters[b], owners[a])
        window_a, window_b = (
            _owner_of(clusters[a], owners[a], total),
            _owner_of(clusters[b], owners[b], total),
        )
        either = np.array(
            [size_a[p, window_b[q]] + size_b[q, window_a[p]] for p, q in pairs.T.tolist()], dtype=np.int64
        )
        agree = both >= _AGREEMENT * (either - both)
        rows.append(pairs[0][agree])
        columns.append(pairs[1][agree])
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_matrix((np.ones(len(row), dtype=np.int8), (row, column)), shape=(total, total))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _shared(cluster: NDArray[np.int64], window: NDArray[np.int64]) -> dict[tuple[int, int], int]:
    """Number of points by (cluster, window)."""
    pairs, count = np.unique(np.stack([cluster, window]), axis=1, return_counts=True)
    return {(int(p), int(w)): int(n) for p, w, n in zip(*pairs, count, strict=True)}


def _owner_of(cluster: NDArray[np.int64], owner: NDArray[np.int64], total: int) -> list[int]:
    """Window of each cluster of one grid."""
    table = np.zeros(total, dtype=np.int64)
    table[cluster] = owner
    return [int(value) for value in table]
