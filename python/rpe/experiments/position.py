"""What an embedding encodes: how well a linear map of an object's mean embedding predicts its position, scale and
colour, with and without position channels, and with and without the border of the image in sight.

A network without position channels may still learn where it is from the border, which padding makes visible. To take
that away, test images are continued by their mirror images beyond what the network sees at once. Correlation of
prediction and truth, cross-validated over images: 0 = not linearly encoded, 1 = read off exactly.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GroupKFold, cross_val_predict

from ..predict import Predictor
from .record import COLOURS, Finding, new_figure, new_table
from .settings import Position
from .small import small_config, test_images, trained

TARGETS = ("row", "column", "log area", "red", "green", "blue")
_PENALTIES = (1e-4, 1e-2, 1.0)
_FOLDS = 8
_BEYOND = 56
"""Pixels of mirror image on each side, a multiple of the network's total stride: it sees 50 pixels far at most."""


def run(options: Position, folder: Path, console: Console) -> Finding:
    """Train both models and read their embeddings."""
    found = {}
    for name, periods in (("with position channels", (64.0,)), ("without", ())):
        config = small_config(folder / name.split()[0], options.training_steps, options.seed)
        config = replace(config, model=replace(config.model, position_periods=periods, rotation_periods=()))
        console.print(f"training {name}", highlight=False)
        predictor = trained(config)
        for sight, beyond in (("", 0), (", no border in sight", _BEYOND)):
            found[name + sight] = correlations(*objects(predictor, options.images, beyond))
    figure, table = new_figure(width=6.5), new_table("correlation", "model", *TARGETS)
    axes, width = figure.axes[0], 0.8 / len(found)
    for number, (name, values) in enumerate(found.items()):
        axes.bar(np.arange(len(TARGETS)) + number * width, values, width, color=COLOURS[number], label=name)
        table.add_row(name, *(f"{value:.2f}" for value in values))
    axes.set_xticks(np.arange(len(TARGETS)) + width * (len(found) - 1) / 2, TARGETS)
    axes.set(ylabel="correlation", ylim=(min(0.0, *map(min, found.values())), 1.25))
    axes.legend(frameon=False, fontsize=7, ncols=2)
    numbers = {name: dict(zip(TARGETS, values, strict=True)) for name, values in found.items()}
    return Finding({"correlation": numbers}, figure, table)


def objects(
    predictor: Predictor, images: int, beyond: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Mean embedding `[n, D]` of every object of test images, its `TARGETS` `[n, 6]` and its image `[n]`; each image
    with so many pixels of its mirror image on all sides."""
    embeddings, targets, groups = [], [], []
    stride = predictor.model.output_stride
    for number, sample in enumerate(test_images(images)):
        label, cells = sample.label, sample.label[::stride, ::stride]
        image = torch.nn.functional.pad(sample.image[None], (beyond,) * 4, mode="reflect")[0]
        inside = slice(beyond // stride, beyond // stride + len(cells))
        maps = predictor.embed(image).embedding[0][:, inside, inside]
        for value in torch.unique(label[label > 0]).tolist():
            mask = label == value
            if not bool((cells == value).any()):
                continue
            place = mask.nonzero().double().mean(dim=0)
            colour = sample.image[:, mask].double().mean(dim=1)
            embeddings.append(maps[:, cells == value].double().mean(dim=1).numpy())
            targets.append([*place.tolist(), np.log(int(mask.sum())), *colour.tolist()])
            groups.append(number)
    return np.stack(embeddings), np.array(targets), np.array(groups)


def correlations(
    embedding: NDArray[np.float64], target: NDArray[np.float64], group: NDArray[np.int64]
) -> list[float]:
    """Correlation of each target with its cross-validated linear prediction."""
    folds = GroupKFold(n_splits=min(_FOLDS, len(np.unique(group))))
    found = []
    for column in target.T:
        predicted = cross_val_predict(RidgeCV(_PENALTIES), embedding, column, groups=group, cv=folds)
        found.append(float(np.corrcoef(predicted, column)[0, 1]))
    return found
