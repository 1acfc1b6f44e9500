"""Grouping large images window by window: overlapping windows are clustered one by one and their clusters
joined.
 Two clusters of different windows are one where they share most of their overlap. Keeps the work linear in
the image's area.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from .windows import Packed, pack

_AGREEMENT = 0.5
"""Share of the smaller cluster's cells in the overlap that both windows must assign alike to join two clusters."""


def stitch(cells: Tensor, window: int, label_points: Callable[[Packed], Tensor]) -> Tensor:
    """Cluster numbers `[h, w]` (0 outside `cells`) from windows that overlap by half their side.

    The plane is covered by four grids, shifted by half a window in each direction; every cell takes its
    cluster from the window in whose middle it lies, and the clusters of the four grids are joined where they
    agree.

    Args:
        cells: `[h, w]` bool.
        window: side of a window in cells.
        label_points: clusters of packed points, numbered from 0 within each window.
    """
    if not bool(cells.any()):
        return torch.zeros_like(cells, dtype=torch.int64)
    half = window // 2
    planes, total = [], 0
    for origin in ((0, 0), (0, half), (half, 0), (half, half)):
        packed = pack(cells[None], window, origin)
        owner = torch.repeat_interleave(
            torch.arange(len(packed.offsets) - 1, device=cells.device), torch.diff(packed.offsets)
        )
        _, number = torch.unique(torch.stack([owner, label_points(packed)]), dim=1, return_inverse=True)
        plane = torch.full((cells.numel(),), -1, dtype=torch.int64, device=cells.device)
        plane[packed.cell] = number + total
        total += int(number.max()) + 1
        planes.append(plane.cpu().numpy())
    joined = _join(planes, total)
    inside = planes[0] >= 0
    clusters = np.zeros(cells.numel(), dtype=np.int64)
    chosen = np.choose(_most_central(cells.shape[0], cells.shape[1], window), planes)
    clusters[inside] = joined[chosen[inside]] + 1
    return torch.from_numpy(clusters).view(cells.shape).to(cells.device)


def _most_central(height: int, width: int, window: int) -> np.ndarray:
    """`[h * w]` which of the four grids has the cell nearest to the middle of a window."""
    half = window // 2

    def shifted(length: int) -> np.ndarray:
        place = np.arange(length) % window
        return (np.abs(place + 0.5 - window / 2) > half / 2).astype(np.int64)

    return (2 * shifted(height)[:, None] + shifted(width)[None, :]).reshape(-1)


def _join(planes: list[np.ndarray], total: int) -> np.ndarray:
    """`[total]` component of each cluster, linking clusters of different grids that agree on their overlap."""
    inside = planes[0] >= 0
    rows, columns = [], []
    for first in range(len(planes)):
        for second in range(first + 1, len(planes)):
            a, b = planes[first][inside], planes[second][inside]
            pair, count = np.unique(np.stack([a, b]), axis=1, return_counts=True)
            # Cells that each cluster has in the windows it is compared over: those of the partner's window are not
            # separable here, so the smaller of the two clusters is the yardstick.
            smaller = np.minimum(
                np.bincount(a, minlength=total)[pair[0]], np.bincount(b, minlength=total)[pair[1]]
            )
            agree = count >= _AGREEMENT * smaller
            rows.append(pair[0][agree])
            columns.append(pair[1][agree])
    row, column = np.concatenate(rows), np.concatenate(columns)
    graph = coo_matrix((np.ones(len(row), dtype=np.int8), (row, column)), shape=(total, total))
    return np.asarray(connected_components(graph, directed=False)[1])
