"""Which margin can still be satisfied: the smallest one at which `rpe_ops.pairwise_loss` of one point per instance
reaches zero by gradient descent, beside `rpe_ops.suggest_margin`, the bound of the best spherical code.
"""

from __future__ import annotations

from pathlib import Path

import torch
from rich.console import Console

import rpe_ops

from .record import COLOURS, Finding, new_figure, new_table
from .settings import Margin

_ZERO = 1e-6
"""Loss that counts as zero."""
_RATE = 0.05
_BISECTIONS = 7
"""Halvings of [0, 1]: margins are found to 1/128."""


def run(options: Margin, folder: Path, console: Console) -> Finding:
    """Bisect the margin for every dimension and number of instances."""
    figure = new_figure()
    axes = figure.axes[0]
    table = new_table("smallest margin with zero loss", "dimension", "instances", "found", "bound")
    rows = []
    for dim, colour in zip(options.dims, COLOURS, strict=False):
        found, bounds = [], []
        for number in options.instances:
            found.append(smallest_margin(number, dim, options))
            bounds.append(rpe_ops.suggest_margin(number, dim))
            rows.append({"dim": dim, "instances": number, "found": found[-1], "bound": bounds[-1]})
            table.add_row(str(dim), str(number), f"{found[-1]:.3f}", f"{bounds[-1]:.3f}")
        axes.plot(options.instances, bounds, color=colour, label=f"D = {dim}")
        axes.plot(options.instances, found, "o", color=colour, markersize=4)
    axes.set(xlabel="instances", ylabel="margin", title="lines: bound; points: found")
    axes.set_xscale("log", base=2)
    axes.legend(frameon=False)
    return Finding({"cases": rows, "resolution": 0.5**_BISECTIONS}, figure, table)


def smallest_margin(number: int, dim: int, options: Margin) -> float:
    """The smallest margin, to 1/128, at which some start reaches zero loss."""
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if reaches_zero(number, dim, middle, options):
            high = middle
        else:
            low = middle
    return high


def reaches_zero(number: int, dim: int, margin: float, options: Margin) -> bool:
    """Whether gradient descent separates that many points of so many dimensions at a margin."""
    generator = torch.Generator().manual_seed(options.seed)
    points = torch.randn(options.restarts, number, dim, generator=generator).requires_grad_()
    label = torch.arange(number).expand(options.restarts, number)
    optimizer = torch.optim.Adam([points], lr=_RATE)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    for _ in range(options.steps):
        loss = rpe_ops.pairwise_loss(points, label, margin=margin, normalizer="weights", reduction="none")
        if float(loss.detach().min()) < _ZERO:
            return True
        optimizer.zero_grad()
        loss.sum().backward()
        optimizer.step()
        falling.step()
    return False
