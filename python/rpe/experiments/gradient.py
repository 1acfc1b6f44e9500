"""Gradients through the recurrence, on the toy of overlapping clusters on the circle: the loss after loop t alone,
differentiated with respect to the points before all loops.

Grouped points hardly receive any: where they go does not depend on where exactly they start. What is left falls on
points near the border of two modes, which are those that a network has to move.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor

import rpe_ops

from .record import COLOURS, Finding, new_figure, new_table
from .settings import Gradient

_ANGLES = (0.0, 1.6, 3.2)
"""Middles of the clusters, in radians: just above the right angle at which the default margin is satisfied."""
_RECEIVES = 0.1
"""A point still receives a gradient where its length is above this share of the mean length before the first loop."""


def run(options: Gradient, folder: Path, console: Console) -> Finding:
    """Gradient of the loss after each loop, point by point."""
    angle, label = overlapping_clusters(options)
    gradients, losses = gradients_by_loop(angle, label, options)  # [T + 1, N]
    limit = _RECEIVES * float(gradients[0].mean())
    border = near_border(angle)
    figure = new_figure(2)
    left, right = figure.axes
    table = new_table(
        "gradient of the loss after loop t alone", "t", "loss", "receive any", "near a border", "elsewhere"
    )
    rows = []
    for loop in range(options.steps + 1):
        length = gradients[loop]
        row = {
            "loop": loop,
            "loss": float(losses[loop]),
            "share_that_receives": float((length > limit).float().mean()),
            "share_of_gradient_near_borders": float(length[border].sum() / length.sum().clamp(min=1e-30)),
            "mean_near_borders": float(length[border].mean()),
            "mean_elsewhere": float(length[~border].mean()),
        }
        rows.append(row)
        table.add_row(
            str(loop),
            f"{row['loss']:.4f}",
            f"{row['share_that_receives']:.2f}",
            f"{row['mean_near_borders']:.2e}",
            f"{row['mean_elsewhere']:.2e}",
        )
        order = torch.argsort(angle)
        colour = COLOURS[loop % len(COLOURS)]
        left.plot(
            angle[order], length[order].clamp(min=1e-12), color=colour, linewidth=1, label=f"t = {loop}"
        )
    left.set(xlabel="angle before all loops", ylabel="length of the gradient", yscale="log")
    left.legend(frameon=False, fontsize=7, ncols=2)
    loops = [row["loop"] for row in rows]
    right.plot(
        loops, [row["share_that_receives"] for row in rows], color=COLOURS[0], label="points that receive any"
    )
    right.plot(
        loops,
        [row["share_of_gradient_near_borders"] for row in rows],
        color=COLOURS[1],
        label="share of all gradient near a border",
    )
    right.set(xlabel="loop t", ylim=(0, 1.02))
    right.legend(frameon=False, fontsize=7)
    numbers = {
        "loops": rows,
        "share_of_points_near_borders": float(border.float().mean()),
        "angle": angle.tolist(),
        "label": label.tolist(),
        "gradient": [[float(f"{value:.4g}") for value in loop] for loop in gradients.tolist()],
    }
    return Finding(numbers, figure, table)


def overlapping_clusters(options: Gradient) -> tuple[Tensor, Tensor]:
    """Angles `[N]` float64 of three overlapping clusters, and the cluster `[N]` each was drawn from."""
    generator = torch.Generator().manual_seed(options.seed)
    label = torch.arange(len(_ANGLES)).repeat_interleave(options.points)
    noise = torch.randn(len(label), generator=generator, dtype=torch.float64)
    return torch.tensor(_ANGLES, dtype=torch.float64)[label] + options.spread * noise, label


def near_border(angle: Tensor) -> Tensor:
    """`[N]` bool: nearer to the border of two clusters than a quarter of their distance."""
    borders = torch.tensor(
        [(a + b) / 2 for a, b in zip(_ANGLES, _ANGLES[1:], strict=False)], dtype=angle.dtype
    )
    distance = (angle[:, None] - borders).abs().amin(dim=1)
    return distance < (_ANGLES[1] - _ANGLES[0]) / 4


def gradients_by_loop(angle: Tensor, label: Tensor, options: Gradient) -> tuple[Tensor, list[Tensor]]:
    """Length `[T + 1, N]` of the gradient of the loss after each loop alone, and the losses."""
    points = torch.stack([angle.cos(), angle.sin()], dim=1).requires_grad_()
    moved = rpe_ops.mean_shift(points, kappa=options.kappa, num_steps=options.steps, return_trajectory=True)
    losses = [rpe_ops.pairwise_loss(step, label, margin=options.margin) for step in (points, *moved)]
    lengths = [torch.autograd.grad(loss, points, retain_graph=True)[0].norm(dim=1) for loss in losses]
    assert all(math.isfinite(float(length.sum())) for length in lengths)
    return torch.stack(lengths), [loss.detach() for loss in losses]
