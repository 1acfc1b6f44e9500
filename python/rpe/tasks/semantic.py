"""Task `semantic`: the class of every pixel, from the semantic head. The embedding learns classes beside it: the
pairwise loss compares pixels of different classes (weight `objective.embedding_weight`, 0 for cross-entropy alone).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import DecodeConfig
from ..data import IGNORE, Dataset, Sample
from ..grouping import RecurrentGrouping
from ..metrics import ClassConfusion, class_iou, pixel_accuracy
from ..model import Output
from ..prediction import Prediction
from ..report import Picture, image_to_rgb, label_to_rgb
from .base import Task, mean
from .plots import class_table


class SemanticTask(Task):
    """Classes of pixels."""

    name = "semantic"
    groups = False

    def decode(
        self, output: Output, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> Prediction:
        probability = class_probability(output, size)
        best, semantic = probability.max(dim=0)
        number = probability.shape[0]
        total = torch.bincount(semantic.flatten(), weights=best.flatten().double(), minlength=number)
        count = torch.bincount(semantic.flatten(), minlength=number).clamp(min=1)
        return Prediction(
            semantic.to(torch.int32).cpu().numpy(),
            (total / count)[1:].float().cpu().numpy(),
            output.embedding[0].cpu().numpy(),
            classes=np.arange(1, number),
            semantic=semantic.cpu().numpy(),
        )

    def evaluator(self, dataset: Dataset) -> SemanticEvaluator:
        return SemanticEvaluator(dataset)

    def panels(self, sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Picture]]:
        return class_panels(sample, prediction)

    def describe(self, prediction: Prediction) -> str:
        return f"{len(np.unique(prediction.labels))} classes"


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
    logit = F.interpolate(output.semantic, size=size, mode="bilinear", align_corners=False)
    return logit[0].softmax(dim=0)


def class_panels(sample: Sample, prediction: Prediction) -> list[tuple[str, Picture]]:
    """Predicted and true classes in the same colours, and the pixels where they differ."""
    assert prediction.semantic is not None and sample.semantic is not None
    wanted = sample.semantic.numpy()
    wrong = image_to_rgb(sample.image) // 3
    wrong[(prediction.semantic != wanted) & (wanted != IGNORE)] = (229, 72, 62)
    return [
        ("predicted classes", label_to_rgb(prediction.semantic)),
        ("true classes", label_to_rgb(wanted)),
        ("wrong classes in red", wrong),
    ]


TASK = SemanticTask()
