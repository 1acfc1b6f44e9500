"""Choosing which points of a packed batch enter the loss. The default of the package is all of them; this
bounds the work where asked.

Instance weights must be computed after sampling (they are: `rpe_ops.pairwise_loss` sees only the sampled
points).
"""

from __future__ import annotations

import torch
from torch import Tensor


def sample_balanced(label: Tensor, offsets: Tensor, max_points: int, priority: Tensor) -> Tensor:
    """A random subset of at most `max_points` points per window, shared as evenly as possible among its
    instances.

    Every instance first gets one point, then two, and so on until the window's budget is spent or the
    instance has no more: large instances are thinned, small ones are kept whole, and no instance vanishes
    while `max_points` is at least their number.

    Args:
        label: `[T]` integer labels of the packed points.
        offsets: `[W + 1]` window offsets.
        max_points: budget of each window, 0 for no limit.
        priority: `[T]` random numbers; within an instance the lowest are kept.

    Returns:
        `[T]` bool on label's device: true for the points kept.
    """
    total = label.shape[0]
    keep = torch.ones(total, dtype=torch.bool, device=label.device)
    sizes = torch.diff(offsets)
    if max_points <= 0 or total == 0 or int(sizes.max()) <= max_points:
        return keep
    device = label.device
    window = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)
    shuffle = torch.argsort(priority, stable=True)
    # Rank of each point within its (window, instance), in shuffled order.
    order = shuffle[torch.argsort(label[shuffle], stable=True)]
    order = order[torch.argsort(window[order], stable=True)]
    rank = _run_rank(window[order], label[order])
    # Within each window keep the lowest ranks; equal ranks stand in random order, being sorted over a shuffle.
    position = torch.empty_like(order)
    position[order] = rank
    by_rank = shuffle[torch.argsort(position[shuffle], stable=True)]
    by_rank = by_rank[torch.argsort(window[by_rank], stable=True)]
    place = torch.arange(total, device=device) - offsets[:-1].to(device)[window[by_rank]]
    keep[by_rank] = place < max_points
    return keep


def _run_rank(*keys: Tensor) -> Tensor:
    """0, 1, 2, ... within each run of equal keys."""
    total = keys[0].shape[0]
    index = torch.arange(total, device=keys[0].device)
    starts = torch.zeros(total, dtype=torch.bool, device=keys[0].device)
    starts[0] = True
    for key in keys:
        starts[1:] |= key[1:] != key[:-1]
    return index - torch.cummax(torch.where(starts, index, 0), dim=0).values
