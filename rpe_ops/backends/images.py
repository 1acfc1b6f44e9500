"""Images of a packed batch: slices, the image of each row, runs of equal ids, component numbers.

Shared by the PyTorch backends and the layers above them. It holds no formula of an operator.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor


def image_slices(offsets: Tensor) -> Iterator[slice]:
    """One slice of rows per image of a packed batch with `offsets [B+1]`."""
    bounds = offsets.tolist()
    for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
        yield slice(start, stop)


def image_of_rows(offsets: Tensor, num_rows: int) -> Tensor:
    """Index of the image `[T]` that each packed row belongs to, from `offsets [B+1]`."""
    rows = torch.arange(num_rows, device=offsets.device)
    return torch.searchsorted(offsets[1:].contiguous(), rows, right=True)


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """The widest float the device has: long sums run in it."""
    return torch.float32 if device.type == "mps" else torch.float64


def segment_lengths(instance: Tensor) -> Tensor:
    """Lengths of the runs of equal ids in a sorted `instance [N]`."""
    return torch.unique_consecutive(instance, return_counts=True)[1]


def first_appearance_labels(root: Tensor) -> Tensor:
    """Component labels 0..C-1 in order of first appearance, from `root [N]`: each point's smallest connected index."""
    is_root = root == torch.arange(root.shape[0], device=root.device)
    return (is_root.cumsum(0) - 1)[root]
