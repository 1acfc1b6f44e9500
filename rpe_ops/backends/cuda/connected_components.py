"""Connected components in CUDA C++ (csrc/cuda/connected_components.cu), by the rounds of `backends/boruvka.py`."""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends import boruvka, cuda


def forward(points: Tensor, offsets: Tensor, threshold: float) -> Tensor:
    """Labels `[T]` int64, 0..C-1 per image; arguments as in the reference."""
    cuda.prepare()

    def foreign_root(root: Tensor, unfinished: Tensor) -> Tensor:
        neighbour: Tensor = torch.ops.rpe_ops_cuda.foreign_root(
            points, root, unfinished, offsets, 2.0 * threshold - 1.0
        )
        return neighbour

    return boruvka.components(points, offsets, foreign_root)
