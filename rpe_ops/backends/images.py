"""How the PyTorch backends walk over the images of a packed batch.

Shared by `reference` and `blocked`. It holds no formula.
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
