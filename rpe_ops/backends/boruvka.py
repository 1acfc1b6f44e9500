"""Connected components by rounds in which every component joins a neighbour, at most log2(N) of them.

A round visits all pairs once and at least halves the number of components that have a neighbour: each takes the
smallest root among its neighbours' (Boruvka's scheme). The graph is never stored. Visiting the pairs is the backend's.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from rpe_ops.backends.images import first_appearance_labels, image_of_rows


def components(points: Tensor, offsets: Tensor, foreign_root: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Labels `[T]` int64, 0..C-1 per image, of packed rows `points [T, D]` with `offsets [B+1]`.

    `foreign_root(root, unfinished)` returns, for each point, the smallest of its neighbours' roots other than its own,
    T where it has none; int32 `[T]` like `root`. It may do nothing where the number `unfinished` is 0.
    """
    num_points = points.shape[0]
    if num_points == 0:
        return torch.empty(0, dtype=torch.int64, device=points.device)
    root = torch.arange(num_points, dtype=torch.int32, device=points.device)
    unfinished = torch.ones((), dtype=torch.int32, device=points.device)
    capturing = points.is_cuda and torch.cuda.is_current_stream_capturing()
    for _ in range(num_points.bit_length()):
        root, unfinished = _join(root, foreign_root(root, unfinished))
        if not capturing and not bool(unfinished):
            break
    label = first_appearance_labels(root.long())
    first = label[offsets[:-1].clamp(max=num_points - 1)]
    return label - first[image_of_rows(offsets, num_points)]


def _join(root: Tensor, neighbour: Tensor) -> tuple[Tensor, Tensor]:
    """Roots `[T]` after each component joined its smallest neighbouring root, and whether any did.

    `neighbour [T]` holds each point's smallest foreign root, T where it has none. Two components that chose each other
    keep the smaller root; longer circles cannot be, since each takes the smallest.
    """
    num_points = root.shape[0]
    own = torch.arange(num_points, dtype=root.dtype, device=root.device)
    chosen = torch.full_like(root, num_points).scatter_reduce(0, root.long(), neighbour, "amin")
    # rounding may show an edge from one of its ends alone: both know it from here on
    reached = torch.where(chosen < num_points, chosen, own)
    chosen = chosen.scatter_reduce(
        0, reached.long(), torch.where(chosen < num_points, own, num_points), "amin"
    )
    parent = torch.where(chosen < num_points, chosen, own)
    mutual = parent[parent.long()] == own
    parent = torch.where(mutual & (own < parent), own, parent)
    for _ in range(num_points.bit_length()):
        parent = parent[parent.long()]
    joined = parent[root.long()]
    # a component's root is its smallest point, whichever way its parts joined
    smallest = torch.full_like(root, num_points).scatter_reduce(0, joined.long(), own, "amin")
    return smallest[joined.long()], (chosen < num_points).any().to(torch.int32)
