"""Small models on generated images, for the experiments that need trained ones: their settings, training that goes on
where it was, and accuracy with the threshold that validation images choose.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..config import (
    Config,
    DataConfig,
    DecodeConfig,
    GroupingConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainingConfig,
)
from ..data import Dataset, open_dataset
from ..metrics import label_map_ap
from ..model import Output
from ..predict import Predictor, load
from ..train import train

THRESHOLDS = (0.7, 0.8, 0.9, 0.95, 0.98)
"""Similarities at which converged points may be one cluster."""
_DATA = "synthetic:num_images={number},size=64,instances=8"
_TRAIN_IMAGES, _VALIDATION_IMAGES, _TEST_IMAGES = 256, 32, 64

Choice = TypeVar("Choice")


def small_config(folder: Path, steps: int, seed: int = 0, loops: int = 5) -> Config:
    """Settings of a model on images of 64 x 64 pixels."""
    return Config(
        output=str(folder),
        seed=seed,
        data=DataConfig(root=_DATA.format(number=_TRAIN_IMAGES), crop=64),
        model=ModelConfig(channels=(24, 48, 64), dim=8, rotation_periods=(24.0, 48.0)),
        grouping=GroupingConfig(num_steps=loops, kappa=20.0),
        objective=ObjectiveConfig(window=0),
        decode=DecodeConfig(min_size=12),
        training=TrainingConfig(steps=steps, batch_size=8, log_every=50, checkpoint_every=100),
    )


def trained(config: Config) -> Predictor:
    """The model of these settings; what is in its folder already is not trained again."""
    return load(train(config, resume=True), device="cpu")


def validation_images() -> Dataset:
    """Images that choose thresholds."""
    return open_dataset(_DATA.format(number=_VALIDATION_IMAGES), "val")


def test_images(number: int = _TEST_IMAGES) -> Dataset:
    """Images that are only tested on."""
    return open_dataset(_DATA.format(number=number), "test")


def accuracy(
    predictor: Predictor,
    choices: Sequence[Choice],
    group: Callable[[Predictor, Choice], int],
) -> dict[Choice, float]:
    """AP at IoU 0.5 on test images for each choice of how to group, each with its own threshold.

    Args:
        predictor: the model.
        choices: what is compared.
        group: sets the model's grouping for a choice and returns the number of steps.
    """
    chosen: dict[Choice, float] = {}
    scores = _scores(predictor, validation_images(), [(c, t) for c in choices for t in THRESHOLDS], group)
    for choice in choices:
        chosen[choice] = max(THRESHOLDS, key=lambda threshold: float(scores[choice, threshold]))
    tested = _scores(predictor, test_images(), list(chosen.items()), group)
    return {choice: float(tested[choice, chosen[choice]]) for choice in choices}


def _scores(
    predictor: Predictor,
    images: Dataset,
    pairs: Sequence[tuple[Choice, float]],
    group: Callable[[Predictor, Choice], int],
) -> dict[tuple[Choice, float], NDArray[np.float64]]:
    """Mean AP at IoU 0.5 for each choice with each threshold."""
    outputs: list[Output] = [predictor.embed(sample.image) for sample in images]
    truth = [sample.label for sample in images]
    found = {}
    for choice, threshold in pairs:
        with torch.no_grad():
            rules = replace(predictor.config.decode, num_steps=group(predictor, choice), threshold=threshold)
            labels = [
                predictor.decode(output, (label.shape[0], label.shape[1]), rules).labels
                for output, label in zip(outputs, truth, strict=True)
            ]
        found[choice, threshold] = label_map_ap(labels, truth, [0.5])[0]
    return found
