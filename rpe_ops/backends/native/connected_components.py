"""Connected components in C++ (csrc/cpu/connected_components.cpp): exact, blocked cosines, union-find."""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.native import loader


def forward(points: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    """Labels 0..C-1 per image, in order of first appearance."""
    loader.load()
    labels: Tensor = torch.ops.rpe_ops_native.connected_components(points, offsets, threshold)
    return labels
