"""The embedding with grouping against its peer, the same backbone with a three-class head: same views, steps, optimiser
and schedule, several seeds each.

Both choose their decoding thresholds by AP at IoU 0.5 on the same training images; test images are looked at once. A
run that was killed goes on where it was, and finished ones are not repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from ..config import Config, DataConfig, DecodeConfig, GroupingConfig, ModelConfig, TrainingConfig
from ..data import Dataset, open_dataset
from ..limits import check_limits
from ..metrics import IOU_THRESHOLDS, label_map_ap
from ..predict import load
from ..settings import load_config, to_mapping
from ..train import TrainingStep, train
from .record import COLOURS, Finding, new_figure, new_table
from .settings import Peer
from .three_class import Rules, ThreeClassPredictor, ThreeClassStep, decode

KINDS = {"embedding": TrainingStep, "three classes": ThreeClassStep}
_TUNING_IMAGES = 24
"""Training images, evenly spread, that thresholds are chosen on."""
_FOREGROUND = (0.5, 0.6, 0.7)
_CORE = {True: (0.5, 0.7), False: (0.9, 0.95)}
"""With and without a core head."""
_THRESHOLDS = (0.9, 0.95)
_INSIDE = (0.4, 0.5, 0.6, 0.7)

Choice: TypeAlias = tuple[float, ...]
"""Thresholds of a decoder; both choose among twelve."""
Segment: TypeAlias = Callable[[Tensor, Sequence[Choice]], list[NDArray[np.int32]]]
"""An image `[3, H, W]` to a label map for each choice."""


def base_config(options: Peer) -> Config:
    """Settings of all runs, but for seed and output."""
    if options.config is None:
        config = Config(
            data=DataConfig(root="synthetic:num_images=128,size=64,instances=10", crop=64),
            model=ModelConfig(channels=(24, 48, 64), dim=8, position_periods=(32.0, 64.0)),
            grouping=GroupingConfig(kappa=20.0),
            decode=DecodeConfig(min_size=12),
            training=TrainingConfig(steps=300, batch_size=8),
        )
    else:
        config = load_config(options.config)
    if options.data:
        config = replace(config, data=replace(config.data, root=options.data))
    if options.training_steps:
        config = replace(config, training=replace(config.training, steps=options.training_steps))
    if options.output_stride:
        config = replace(config, model=replace(config.model, output_stride=options.output_stride))
    check_limits(config)
    return config


def run(options: Peer, folder: Path, console: Console) -> Finding:
    """Train and evaluate `options.seeds` models of both kinds."""
    base = base_config(options)
    results: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for seed, kind in product(range(options.seeds), KINDS):
        name = f"{kind.replace(' ', '_')}-{seed}"
        config = replace(base, seed=seed, output=str(folder / name))
        console.print(f"{name}: {config.training.steps} steps", highlight=False)
        results[kind].append(_one(config, kind))
    return _finding(results, to_mapping(base))


def _one(config: Config, kind: str) -> dict[str, Any]:
    """Train one model, choose its thresholds and test it; from its file where that is done."""
    path = Path(config.output) / "test.json"
    # Before the file is looked at: a run of other settings is refused.
    model = train(config, resume=True, build=KINDS[kind])
    if path.exists():
        return dict(json.loads(path.read_text(encoding="utf-8")))
    segment, choices = _embedding(model) if kind == "embedding" else _three_classes(model)
    images = open_dataset(config.data.root, config.data.train_split or None)
    places = np.linspace(0, len(images) - 1, min(_TUNING_IMAGES, len(images))).astype(int)
    tuned = _precision(segment, choices, images, places.tolist())
    best = max(choices, key=lambda choice: float(tuned[choice][0]))
    test = open_dataset(config.data.root, config.data.test_split or None)
    ap = _precision(segment, [best], test, list(range(len(test))))[best]
    result = {
        "thresholds": list(best),
        "ap50_training": float(tuned[best][0]),
        "ap50": float(ap[0]),
        "ap_mean": float(ap.mean()),
        "ap": {f"{threshold:.2f}": float(value) for threshold, value in zip(IOU_THRESHOLDS, ap, strict=True)},
    }
    path.write_text(json.dumps(result, indent=1), encoding="utf-8")
    return result


def _precision(
    segment: Segment, choices: Sequence[Choice], images: Dataset, places: list[int]
) -> dict[Choice, NDArray[np.float64]]:
    """`[10]` mean AP at each IoU threshold, for each choice."""
    total = {choice: np.zeros(len(IOU_THRESHOLDS)) for choice in choices}
    for place in places:
        sample = images[place]
        for choice, labels in zip(choices, segment(sample.image, choices), strict=True):
            ap = label_map_ap(labels, sample.label, has_background=images.has_background)
            total[choice] += ap / len(places)
    return total


def _embedding(model: Path) -> tuple[Segment, list[Choice]]:
    """The embedding's label maps for (foreground, core and similarity threshold)."""
    predictor = load(model, device="cpu")

    def segment(image: Tensor, choices: Sequence[Choice]) -> list[NDArray[np.int32]]:
        output = predictor.embed(image)
        size = (image.shape[1], image.shape[2])
        rules = [
            replace(
                predictor.config.decode,
                foreground_threshold=foreground,
                core_threshold=core,
                threshold=threshold,
            )
            for foreground, core, threshold in choices
        ]
        return [predictor.decode(output, size, rule).labels for rule in rules]

    return segment, list(product(_FOREGROUND, _CORE[predictor.config.model.core], _THRESHOLDS))


def _three_classes(model: Path) -> tuple[Segment, list[Choice]]:
    """The peer's label maps for (foreground threshold, inside threshold)."""
    predictor = ThreeClassPredictor(model)
    min_size = predictor.config.decode.min_size

    def segment(image: Tensor, choices: Sequence[Choice]) -> list[NDArray[np.int32]]:
        probability = predictor.probabilities(image)
        return [decode(probability, Rules(inside, foreground, min_size)) for foreground, inside in choices]

    return segment, list(product(_FOREGROUND, _INSIDE))


def _finding(results: dict[str, list[dict[str, Any]]], config: dict[str, Any]) -> Finding:
    summary = {
        kind: {
            key: {
                "mean": float(np.mean([run[key] for run in runs])),
                "spread": float(np.std([run[key] for run in runs], ddof=1)) if len(runs) > 1 else None,
            }
            for key in ("ap50", "ap_mean")
        }
        for kind, runs in results.items()
    }
    table = new_table(
        "AP = TP / (TP + FP + FN), mean over test images", "model", "AP@0.5", "AP 0.5:0.95", "seeds"
    )
    figure = new_figure()
    axes = figure.axes[0]
    for (kind, runs), colour in zip(results.items(), COLOURS, strict=False):
        cells = [_spread(summary[kind][key]) for key in ("ap50", "ap_mean")]
        table.add_row(kind, *cells, str(len(runs)))
        for index, one in enumerate(runs):
            values = list(one["ap"].values())
            axes.plot(IOU_THRESHOLDS, values, color=colour, linewidth=1, label=None if index else kind)
    axes.set(xlabel="IoU threshold", ylabel="AP", title="one line per seed")
    axes.legend(frameon=False)
    return Finding({"summary": summary, "runs": results, "config": config}, figure, table)


def _spread(value: dict[str, float | None]) -> str:
    return " +- ".join(f"{part:.3f}" for part in value.values() if part is not None)
