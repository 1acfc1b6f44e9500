"""The pairwise loss against size and number of instances, under instance weights and under uniform ones.

Embeddings are noisy unit centres, so nothing but sizes and numbers changes along a curve. Each curve is divided by its
mean: flat means that a large object counts as much as a small one, and many as much as few.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

import rpe_ops

from .record import COLOURS, Finding, new_figure, new_table
from .settings import Size

_SHARES = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
"""Share of the points that belong to the first of four instances."""
_NUMBERS = (8, 16, 32, 64, 128)
_POINTS_EACH = 64
_WEIGHTINGS = {
    "instance weights, mean over instance pairs": ("instance", "weights"),
    "instance weights, divided by the points": ("instance", "points"),
    "uniform weights, mean over point pairs": ("uniform", "weights"),
    "uniform weights, divided by the points": ("uniform", "points"),
}


def run(options: Size, folder: Path, console: Console) -> Finding:
    """The loss of random embeddings, by share of one instance and by number of instances."""
    by_share = [
        _losses([round(options.points * part) for part in _parts(share)], options) for share in _SHARES
    ]
    by_number = [_losses([_POINTS_EACH] * number, options) for number in _NUMBERS]
    figure = new_figure(2)
    table = new_table("largest / smallest loss", "loss", "over sizes", "over numbers")
    numbers: dict[str, object] = {"shares": _SHARES, "numbers": _NUMBERS, "curves": {}}
    curves: dict[str, dict[str, list[float]]] = {}
    for index, name in enumerate(_WEIGHTINGS):
        size = np.array([losses[index] for losses in by_share])
        number = np.array([losses[index] for losses in by_number])
        for axes, x, y in zip(figure.axes, (_SHARES, _NUMBERS), (size, number), strict=True):
            axes.plot(
                x,
                y / y.mean(),
                marker="o",
                markersize=3,
                linestyle=("-", "--")[index % 2],
                color=COLOURS[index],
                label=name,
            )
        table.add_row(name, f"{size.max() / size.min():.2f}", f"{number.max() / number.min():.2f}")
        curves[name] = {"by_share": size.tolist(), "by_number": number.tolist()}
    numbers["curves"] = curves
    left, right = figure.axes
    left.set(xlabel="share of one instance of four", ylabel="loss / its mean", yscale="log")
    right.set(xlabel="instances of equal size", yscale="log")
    right.set_xscale("log", base=2)
    left.legend(frameon=False, fontsize=7)
    return Finding(numbers, figure, table)


def _parts(share: float) -> list[float]:
    return [share, *[(1 - share) / 3] * 3]


def _losses(sizes: list[int], options: Size) -> NDArray[np.float64]:
    """Mean loss over random embeddings of instances of these sizes, for each weighting; the same centres whatever the
    sizes."""
    label = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    total = np.zeros(len(_WEIGHTINGS))
    for repeat in range(options.repeats):
        generator = torch.Generator().manual_seed(options.seed + repeat)
        points = noisy_centres(label, len(sizes), options, generator)
        for index, (weight, normalizer) in enumerate(_WEIGHTINGS.values()):
            loss = rpe_ops.pairwise_loss(points, label, weight=weight, normalizer=normalizer)
            total[index] += float(loss) / options.repeats
    return total


def noisy_centres(label: Tensor, number: int, options: Size, generator: torch.Generator) -> Tensor:
    """`[N, D]`: a random unit centre for each instance, and noise around it. Centres come in opposite pairs: their mean
    similarity is 1/2 in every draw and for every number."""
    half = torch.nn.functional.normalize(
        torch.randn(-(-number // 2), options.dim, generator=generator), dim=1
    )
    centre = torch.cat([half, -half])[:number]
    noise = torch.randn(len(label), options.dim, generator=generator) / options.dim**0.5
    return centre[label] + options.noise * noise
