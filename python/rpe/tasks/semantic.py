"""Task `semantic`: the class of every pixel, from the semantic head. The embedding learns classes beside it: the
pairwise loss compares pixels of different classes (weight `objective.embedding_weight`, 0 for cross-entropy alone).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..classes import Classes
from ..config import DecodeConfig
from ..data import IGNORE, Dataset, Sample
from ..decode import enlarged
from ..grouping import RecurrentGrouping
from ..metrics import ClassConfusion, class_iou, pixel_accuracy
from ..model import Output
from ..prediction import Prediction
from ..report import Picture, image_to_rgb, label_to_rgb
from ..tiling import Tile
from .base import Task, mean
from .plots import class_table


class SemanticTask(Task):
    """Classes of pixels."""

    name = "semantic"
    groups = False

    def mosaic(
        self, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> SemanticMosaic:
        return SemanticMosaic(size)

    def evaluator(self, dataset: Dataset) -> SemanticEvaluator:
        return SemanticEvaluator(dataset)

    def panels(self, sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Picture]]:
        return class_panels(sample, prediction, Classes.of(dataset))

    def describe(self, prediction: Prediction, classes: Classes) -> str:
        found = np.unique(prediction.labels).tolist()
        return f"{len(found)} classes ({classes.listing(found)})"


class SemanticMosaic:
    """The class of each pixel of an image of `size` (H, W), and the mean probability of each class where it is
    predicted."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._semantic = np.zeros(size, dtype=np.int64)
        self._total: NDArray[np.float64] = np.zeros((2, 0))

    def add(self, tile: Tile, output: Output) -> None:
        rows, columns = tile.core_in_view
        probability = class_probability(output, tile.size)[:, rows, columns]
        best, semantic = (values.cpu().numpy() for values in probability.max(dim=0))
        number, place = len(probability), semantic.reshape(-1)
        if not self._total.size:
            self._total = np.zeros((2, number))
        self._total += [np.bincount(place, best.reshape(-1), number), np.bincount(place, minlength=number)]
        self._semantic[tile.core] = semantic

    def finish(self, embedding: NDArray[np.float32]) -> Prediction:
        score = (self._total[0] / np.maximum(self._total[1], 1))[1:].astype(np.float32)
        return Prediction(
            self._semantic.astype(np.int32),
            score,
            embedding,
            classes=np.arange(1, len(score) + 1),
            semantic=self._semantic,
        )


class SemanticEvaluator:
    """mIoU and pixel accuracy."""

    def __init__(self, dataset: Dataset) -> None:
        self._confusion = ClassConfusion(dataset.classes)
        self._rows: list[dict[str, Any]] = []

    def add(self, index: int, sample: Sample, prediction: Prediction) -> None:
        assert prediction.semantic is not None and sample.semantic is not None
        counts = self._confusion.add(prediction.semantic, sample.semantic)
        self._rows.append(
            {
                "name": sample.name,
                "kind": sample.kind,
                "height": sample.size[0],
                "width": sample.size[1],
                "miou": mean([float(value) for value in class_iou(counts) if np.isfinite(value)]),
                "accuracy": pixel_accuracy(counts),
            }
        )

    def result(self) -> dict[str, Any]:
        by_class = self._confusion.iou()
        return {
            "overall": {
                "images": len(self._rows),
                "miou": mean(list(by_class.values())),
                "accuracy": pixel_accuracy(self._confusion.counts),
                "iou": by_class,
            },
            "images": self._rows,
            "columns": [
                [
                    "miou",
                    "mIoU",
                    "mean over the classes that occur, background included, pixels of all images",
                ],
                ["accuracy", "pixel accuracy", "share of pixels with the right class"],
            ],
            "order": "miou",
            "tables": class_table("Classes", {"IoU": by_class}),
        }


def class_probability(output: Output, size: tuple[int, int]) -> Tensor:
    """`[K, H, W]` from the logits of a batch of one."""
    if output.semantic is None:
        raise ValueError(
            "the model has no semantic head; train it with task = 'semantic' or 'semantic_instance'"
        )
    return enlarged(output.semantic[0], size).softmax(dim=0)


def class_panels(sample: Sample, prediction: Prediction, classes: Classes) -> list[tuple[str, Picture]]:
    """Predicted and true classes in the same colours, with their names, and the pixels where they differ."""
    assert prediction.semantic is not None and sample.semantic is not None
    wanted = sample.semantic.numpy()
    wrong = image_to_rgb(sample.image) // 3
    wrong[(prediction.semantic != wanted) & (wanted != IGNORE)] = (229, 72, 62)
    found, true = (
        classes.listing(np.unique(kinds[kinds > 0]).tolist()) for kinds in (prediction.semantic, wanted)
    )
    return [
        (f"predicted classes: {found or 'none'}", label_to_rgb(prediction.semantic)),
        (f"true classes: {true or 'none'}", label_to_rgb(wanted)),
        ("wrong classes in red", wrong),
    ]


TASK = SemanticTask()
