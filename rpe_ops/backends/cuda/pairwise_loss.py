"""Pairwise loss and its gradient in CUDA C++ (csrc/cuda/pairwise_loss.cu); formulas in the reference backend."""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends import cuda


def forward(
    points: Tensor,
    instance: Tensor,
    weight: Tensor,
    offsets: Tensor,
    margin: float,
    with_gradient: bool,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """Loss per image, and the gradient of its rows (empty where it is not asked for)."""
    cuda.prepare()
    loss, gradient = torch.ops.rpe_ops_cuda.pairwise_loss_forward(
        points, instance, weight, offsets, margin, with_gradient, half
    )
    return loss, gradient
