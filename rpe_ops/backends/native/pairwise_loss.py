"""Pairwise loss and its gradient in C++ (csrc/cpu/pairwise_loss.cpp); formulas in the reference backend."""

from __future__ import annotations

import torch
from torch import Tensor

from rpe_ops.backends.native import loader


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
    loader.load()
    loss, gradient = torch.ops.rpe_ops_native.pairwise_loss_forward(
        points, instance, weight, offsets, margin, with_gradient, half
    )
    return loss, gradient
