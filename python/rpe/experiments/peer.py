"""The embedding with grouping against its peer, the same backbone with a three-class head: same views, steps, optimiser
and schedule, several seeds each.

All choose their decoding thresholds by AP at IoU 0.5 on the same training images, and objects grow and are cleaned by
the same rules. A third row shows what grouping brings: the embedding's network with all points in one cluster, so that
only components of its insides are left. A run that was killed goes on where it was, and finished ones are not repeated.
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
from ..limits import check_limits
from ..metrics import IOU_THRESHOLDS, label_map_ap
from ..predict import Predictor, load
from ..settings import load_config, to_mapping
from ..train import TrainingStep, train
from .record import COLOURS, Finding, new_figure, new_table
from .settings import Peer
from .three_class import ThreeClassPredictor, ThreeClassStep, decode

_TUNING_IMAGES = 24
"""Training images, evenly spread, that thresholds are chosen on."""
_FOREGROUND = (0.5, 0.6, 0.7)
_CORE = {True: (0.5, 0.7), False: (0.9, 0.95)}
"""With and without a core head."""
_THRESHOLDS = (0.9, 0.95)
_INSIDE = (0.4, 0.5, 0.6, 0.7)

Choice: TypeAlias = tuple[float, ...]
"""Thresholds of a decoder; each chooses among twelve."""
Segment: TypeAlias = Callable[[Tensor, Sequence[Choice]], list[NDArray[np.int32]]]
"""An image `[3, H, W]` to a label map for each choice."""


def base_config(options: Peer) -> Config:
    """Settings of all runs, but for seed and output."""
    if options.config is None:
        config = Config(
            data=DataConfig(root="synthetic:num_images=128,size=64,instances=10", crop=64),
            model=ModelConfig(channels=(24, 48, 64), dim=8, core=True, rotation_periods=(24.0, 48.0)),
            grouping=GroupingConfig(kappa=20.0),
            objective=ObjectiveConfig(weight="uniform", foreground_weight=2.0),
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
    """Train `options.seeds` models of both kinds, and evaluate them."""
    base = base_config(options)
    results: dict[str, list[dict[str, Any]]] = {row: [] for row in ROWS}
    for seed, (row, (kind, _)) in product(range(options.seeds), ROWS.items()):
        config = replace(base, seed=seed, output=str(folder / f"{kind.replace(' ', '_')}-{seed}"))
        console.print(f"{row}, seed {seed}: {config.training.steps} steps", highlight=False)
        results[row].append(_one(config, row))
    return _finding(results, to_mapping(base))


def _one(config: Config, row: str) -> dict[str, Any]:
    """Train one model, choose its thresholds and test it; from its file where that is done."""
    kind, segmenter = ROWS[row]
    # Before the file is looked at: a run of other settings is refused.
    model = train(config, resume=True, build=_STEPS[kind])
    settings = to_mapping(config)
    evaluated = {"data": settings["data"], "decode": settings["decode"]}
    path = Path(config.output) / f"{row.replace(' ', '_')}.json"
    if path.exists():
        known = dict(json.loads(path.read_text(encoding="utf-8")))
        if known.pop("evaluated") == evaluated:
            return known
    segment, choices = segmenter(model)
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
    path.write_text(json.dumps({**result, "evaluated": evaluated}, indent=1), encoding="utf-8")
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
    cores = _CORE[predictor.config.model.core]
    return _decoder(predictor, predictor.config.decode), list(product(_FOREGROUND, cores, _THRESHOLDS))


def _insides(model: Path) -> tuple[Segment, list[Choice]]:
    """Label maps of the embedding's network with every point in one cluster, for (foreground, core threshold, 0)."""
    predictor = load(model, device="cpu")
    cores = _INSIDE if predictor.config.model.core else _CORE[False]
    rules = replace(predictor.config.decode, num_steps=0, window=0)
    return _decoder(predictor, rules), list(product(_FOREGROUND, cores, (0.0,)))


def _decoder(predictor: Predictor, rules: DecodeConfig) -> Segment:
    """Label maps by these rules with (foreground, core and similarity threshold) of their own."""

    def segment(image: Tensor, choices: Sequence[Choice]) -> list[NDArray[np.int32]]:
        output = predictor.embed(image)
        size = (image.shape[1], image.shape[2])
        return [
            predictor.decode(
                output,
                size,
                replace(rules, foreground_threshold=foreground, core_threshold=core, threshold=threshold),
            ).labels
            for foreground, core, threshold in choices
        ]

    return segment


def _three_classes(model: Path) -> tuple[Segment, list[Choice]]:
    """The peer's label maps for (foreground threshold, inside threshold)."""
    predictor = ThreeClassPredictor(model)

    def segment(image: Tensor, choices: Sequence[Choice]) -> list[NDArray[np.int32]]:
        probability = predictor.probabilities(image)
        rules = predictor.config.decode
        return [
            decode(probability, replace(rules, foreground_threshold=foreground, core_threshold=inside))
            for foreground, inside in choices
        ]

    return segment, list(product(_FOREGROUND, _INSIDE))


_STEPS = {"embedding": TrainingStep, "three classes": ThreeClassStep}
ROWS: dict[str, tuple[str, Callable[[Path], tuple[Segment, list[Choice]]]]] = {
    "embedding": ("embedding", _embedding),
    "embedding, not grouped": ("embedding", _insides),
    "three classes": ("three classes", _three_classes),
}
"""Rows of the table: which network, and how its output becomes label maps."""


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
