"""Accuracy against the number of loops T: models trained with each T, each grouped with every T at inference and the
threshold that validation images choose.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from ..predict import Predictor
from .record import COLOURS, Finding, new_figure, new_table
from .settings import Steps
from .small import accuracy, small_config, trained


def run(options: Steps, folder: Path, console: Console) -> Finding:
    """Train with each T, several seeds each, and group with every T."""
    score = np.zeros((options.seeds, len(options.loops), len(options.loops)))
    for seed in range(options.seeds):
        for row, loops in enumerate(options.loops):
            console.print(f"training with T = {loops}, seed {seed}", highlight=False)
            name = f"T{loops}-{seed}" + ("-position-channels" if options.position_channels else "")
            config = small_config(folder / name, options.training_steps, seed, loops)
            if options.position_channels:
                channels = replace(config.model, rotation_periods=(), position_periods=(64.0,))
                config = replace(config, model=channels)
            found = accuracy(trained(config), options.loops, _with_steps)
            score[seed, row] = [found[inference] for inference in options.loops]
    mean = score.mean(axis=0)
    figure, table = (
        new_figure(),
        new_table("AP@0.5 by T", "trained with", *(f"T = {t}" for t in options.loops)),
    )
    axes = figure.axes[0]
    for row, loops in enumerate(options.loops):
        colour = COLOURS[row % len(COLOURS)]
        axes.plot(
            options.loops,
            mean[row],
            color=colour,
            marker="o",
            markersize=3,
            label=f"trained with T = {loops}",
        )
        if options.seeds > 1:
            low, high = score[:, row].min(axis=0), score[:, row].max(axis=0)
            axes.fill_between(options.loops, low, high, color=colour, linewidth=0, alpha=0.12)
        table.add_row(f"T = {loops}", *(f"{value:.3f}" for value in mean[row]))
    axes.set(xlabel="T at inference", ylabel="AP at IoU 0.5")
    axes.legend(frameon=False, fontsize=7)
    return Finding(
        {"loops": options.loops, "ap50": score.tolist(), "axes": "seed, training T, inference T"},
        figure,
        table,
    )


def _with_steps(predictor: Predictor, loops: int) -> int:
    return loops
