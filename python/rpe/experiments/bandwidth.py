"""Accuracy against bandwidth and step size of the mean shift at inference, on one model; and how tight and how far
apart the groups then are.
"""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

import rpe_ops

from ..predict import Predictor
from .record import COLOURS, Finding, new_figure, new_table
from .settings import Bandwidth
from .small import accuracy, small_config, test_images, trained


def run(options: Bandwidth, folder: Path, console: Console) -> Finding:
    """Train one model and group with every bandwidth and eta."""
    predictor = trained(small_config(folder, options.training_steps, options.seed))
    pairs = list(product(options.bandwidths, options.etas))

    def group(predictor: Predictor, pair: tuple[float, float]) -> int:
        predictor.model.grouping.log_kappa.fill_(-2 * math.log(pair[0]))
        predictor.model.grouping.eta = pair[1]
        return options.loops

    found = accuracy(predictor, pairs, group)
    spread = {pair: spreads(predictor, *pair, options.loops) for pair in pairs}
    figure = new_figure(2)
    table = new_table("AP@0.5", "bandwidth", *(f"eta {eta:g}" for eta in options.etas))
    left, right = figure.axes
    for number, eta in enumerate(options.etas):
        values = [found[width, eta] for width in options.bandwidths]
        left.plot(
            options.bandwidths, values, marker="o", markersize=3, color=COLOURS[number], label=f"eta {eta:g}"
        )
        within = [spread[width, eta][0] for width in options.bandwidths]
        right.plot(options.bandwidths, within, marker="o", markersize=3, color=COLOURS[number])
    right.plot(
        options.bandwidths,
        [spread[width, options.etas[-1]][1] for width in options.bandwidths],
        "k--",
        linewidth=1,
        label=f"between instances, eta {options.etas[-1]:g}",
    )
    left.set(xlabel="bandwidth", ylabel="AP at IoU 0.5")
    right.set(xlabel="bandwidth", ylabel="mean 1 - s", yscale="log", title="within instances, after grouping")
    left.legend(frameon=False, fontsize=7)
    right.legend(frameon=False, fontsize=7)
    for width in options.bandwidths:
        table.add_row(f"{width:g}", *(f"{found[width, eta]:.3f}" for eta in options.etas))
    cases = [
        {
            "bandwidth": width,
            "kappa": width**-2,
            "eta": eta,
            "ap50": found[width, eta],
            "dissimilarity_within": spread[width, eta][0],
            "dissimilarity_between": spread[width, eta][1],
        }
        for width, eta in pairs
    ]
    return Finding({"cases": cases, "loops": options.loops}, figure, table)


@torch.no_grad()
def spreads(
    predictor: Predictor, bandwidth: float, eta: float, loops: int, images: int = 16
) -> NDArray[np.float64]:
    """Mean of 1 - s over pairs of points of one instance, and of different ones, after grouping."""
    total = np.zeros(2)
    for sample in test_images(images):
        stride = predictor.model.output_stride
        label = sample.label[::stride, ::stride].reshape(-1)
        points = predictor.embed(sample.image).embedding[0].flatten(1).T[label > 0]
        moved = rpe_ops.mean_shift(points, bandwidth=bandwidth, eta=eta, num_steps=loops)
        assert isinstance(moved, torch.Tensor)
        _, label = torch.unique(label[label > 0], return_inverse=True)
        count = torch.bincount(label).double()
        centre = torch.zeros(len(count), points.shape[1], dtype=torch.float64).index_add_(
            0, label, moved.double()
        )
        centre /= count[:, None]
        cosine = centre @ centre.T  # mean cosine of two instances' points
        within = (1 - cosine.diagonal()).mean() / 2
        between = (1 - cosine)[~torch.eye(len(count), dtype=torch.bool)]
        total += [float(within) / images, float(between.mean()) / 2 / images if len(between) else 0.0]
    return total
