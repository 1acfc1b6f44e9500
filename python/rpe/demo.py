"""`rpe demo`: everything the package does, on generated images, in a few minutes on two CPU cores.
 Trains, chooses the threshold of every number of steps T on validation images, evaluates T = 0 against T > 0
on test images, and writes pictures and one HTML report. It adds nothing of its own: each part is a function
of another file.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from .config import (
    Config,
    DataConfig,
    DecodeConfig,
    GroupingConfig,
    ModelConfig,
    ObjectiveConfig,
    TrainingConfig,
)
from .data import Dataset, open_dataset
from .evaluate import evaluate, pictures, training_curves
from .limits import check_limits
from .metrics import label_map_ap
from .predict import Predictor, load
from .report import embedding_to_rgb, image_to_rgb, label_to_rgb, write_report
from .settings import to_mapping
from .train import CHECKPOINT, MODEL, train

STEPS = (0, 1, 3, 5)
"""Numbers of mean-shift steps that are compared."""
_THRESHOLDS = (0.7, 0.8, 0.9, 0.95, 0.98)
_DATA = "synthetic:num_images={number},size=64,instances=8"
_TRAIN_IMAGES, _VALIDATION_IMAGES, _TEST_IMAGES = 256, 32, 64


def demo_config(out: Path, steps: int) -> Config:
    """Settings of the demo."""
    return Config(
        output=str(out),
        data=DataConfig(root=_DATA.format(number=_TRAIN_IMAGES), crop=64),
        model=ModelConfig(channels=(24, 48, 64), output_stride=2, dim=8, position_periods=(64.0,)),
        grouping=GroupingConfig(num_steps=5, kappa=20.0),
        objective=ObjectiveConfig(window=0),
        decode=DecodeConfig(min_size=12),
        training=TrainingConfig(steps=steps, batch_size=8, log_every=10, checkpoint_every=max(1, steps // 3)),
    )


def run_demo(out: Path, *, steps: int, console: Console) -> dict[str, Any]:
    """Run the demo.

    Args:
        out: folder of the results; the files of an earlier demo in it are replaced.
        steps: optimiser steps.
        console: where to print.

    Returns:
        Results by name, "T = 0", "T = 1", ...
    """
    config = demo_config(out, steps)
    check_limits(config)
    _remove_earlier(out)
    console.print(f"training on {_TRAIN_IMAGES} generated images", highlight=False)
    predictor = load(train(config))
    chosen = choose_thresholds(predictor, open_dataset(_DATA.format(number=_VALIDATION_IMAGES), "val"))
    test = open_dataset(_DATA.format(number=_TEST_IMAGES), "test")
    results = {f"T = {steps}": evaluate(best, test, console=console) for steps, best in chosen.items()}
    console.print(_table(results, chosen))
    best = chosen[max(STEPS)]
    shown = pictures(best, test, results[f"T = {max(STEPS)}"])
    for image in shown[-3:]:
        for role, picture in (
            ("image", image_to_rgb(image.image)),
            ("embedding", embedding_to_rgb(image.embeddings[-1])),
            ("labels", label_to_rgb(image.prediction)),
        ):
            Image.fromarray(picture).save(out / f"{image.name}.{role}.png")
    page = out / "demo.html"
    write_report(page, "rpe demo", to_mapping(best.config), results, training_curves(out), shown)
    console.print(f"pictures: {out}\nreport: {page}", highlight=False, markup=False, soft_wrap=True)
    return results


def choose_thresholds(predictor: Predictor, dataset: Dataset) -> dict[int, Predictor]:
    """For every number of steps, the predictor with the threshold that gives the best AP at IoU 0.5."""
    score: dict[tuple[int, float], float] = dict.fromkeys(product(STEPS, _THRESHOLDS), 0.0)
    for sample in dataset:
        output = predictor.embed(sample.image)
        for num_steps, threshold in score:
            rules = replace(predictor.config.decode, num_steps=num_steps, threshold=threshold)
            labels = predictor.decode(output, sample.size, rules).labels
            score[num_steps, threshold] += float(label_map_ap(labels, sample.label, [0.5])[0])
    chosen = {}
    for num_steps in STEPS:
        threshold = max(_THRESHOLDS, key=lambda value: score[num_steps, value])
        rules = replace(predictor.config.decode, num_steps=num_steps, threshold=threshold)
        chosen[num_steps] = Predictor(predictor.model, replace(predictor.config, decode=rules))
    return chosen


def _table(results: dict[str, Any], chosen: dict[int, Predictor]) -> Table:
    table = Table(title=f"{_TEST_IMAGES} test images, T mean-shift steps")
    for heading in ("T", "threshold", "AP@0.5", "AP mean", "ARI", "SBD"):
        table.add_column(heading, justify="right")
    for num_steps, result in zip(chosen, results.values(), strict=True):
        overall = result["overall"]
        cells = [f"{overall[key]:.3f}" for key in ("ap50", "ap_mean", "ari", "sbd")]
        table.add_row(str(num_steps), f"{chosen[num_steps].config.decode.threshold:g}", *cells)
    return table


def _remove_earlier(out: Path) -> None:
    """Delete what an earlier demo left; nothing else."""
    for name in (CHECKPOINT, MODEL, "demo.html", "demo.json"):
        (out / name).unlink(missing_ok=True)
    for picture in out.glob("test-*.png"):
        picture.unlink()
    shutil.rmtree(out / "tensorboard", ignore_errors=True)
