"""Task `instance`: a label map of objects, from the embedding, the grouping and the foreground head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..config import DecodeConfig
from ..data import Dataset, Sample
from ..decode import decode
from ..grouping import RecurrentGrouping
from ..joining import TileJoiner
from ..metrics import Evaluator
from ..model import Output, stride_of
from ..objects import Sums, object_means, object_scores, object_sums
from ..prediction import Prediction
from ..report import Picture, find_mistakes
from ..tiling import Tile, whole
from .base import Task
from .plots import fate_table, recall_plot, threshold_plot


class InstanceTask(Task):
    """Instances without classes."""

    name = "instance"

    def mosaic(
        self, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> InstanceMosaic:
        return InstanceMosaic(self, size, grouping, rules)

    def evaluator(self, dataset: Dataset) -> InstanceEvaluator:
        return InstanceEvaluator(dataset)

    def panels(self, sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Picture]]:
        return []

    def describe(self, prediction: Prediction) -> str:
        return f"{len(prediction.scores)} objects"


class InstanceMosaic:
    """Label maps of tiles, joined across their seams.

    Args:
        task: knows the foreground.
        size: (H, W) of the image.
        grouping: moves the points.
        rules: of decoding.
    """

    def __init__(
        self, task: Task, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> None:
        self.task, self.size, self.grouping, self.rules = task, size, grouping, rules
        self._joiner, self._without_largest = TileJoiner(*size), False

    def add(self, tile: Tile, output: Output) -> None:
        self.add_objects(tile, output, None)

    def add_objects(self, tile: Tile, output: Output, values: Tensor | None) -> None:
        """Take the objects of a tile, and the sums of `values` `[C, view]` over them; by default of the probability of
        the foreground."""
        rules, self._without_largest = rules_of_tile(tile, self.size, self.rules)
        found = decode(output.embedding[0], self.task.foreground(output), tile.size, self.grouping, rules)
        values = found.probability[None] if values is None else values
        stride = stride_of(output.embedding, tile.size)
        sums = object_sums(found.labels, output.embedding[0], values, stride, tile)
        self._joiner.add(tile, found.labels, sums)

    def objects(self) -> tuple[NDArray[np.int32], Sums]:
        """Label map `[H, W]` and sums of the objects of all tiles."""
        return self._joiner.finish(self.rules.min_size, self._without_largest)

    def finish(self, embedding: NDArray[np.float32]) -> Prediction:
        labels, sums = self.objects()
        confidence, centre = object_means(sums, 1)
        return Prediction(labels, object_scores(confidence[:, 0], centre), embedding)


def rules_of_tile(tile: Tile, size: tuple[int, int], rules: DecodeConfig) -> tuple[DecodeConfig, bool]:
    """Rules for one tile of an image of `size` (H, W), and whether the largest object is to be left out when all are
    joined: which it is, a part of the image does not show."""
    if rules.background != "largest" or tile == whole(*size):
        return rules, False
    return replace(rules, background="none"), True


class InstanceEvaluator:
    """`metrics.Evaluator` over predictions, with the fates of the true instances."""

    def __init__(self, dataset: Dataset, proposals: bool = True) -> None:
        self.has_background = dataset.has_background
        options: dict[str, Any] = {} if proposals else {"proposals": ()}
        self._evaluator = Evaluator(has_background=self.has_background, **options)
        self._fates: list[dict[str, int]] = []

    def add(self, index: int, sample: Sample, prediction: Prediction) -> None:
        scores = prediction.scores.tolist()
        self._evaluator.add(sample.name, sample.kind, sample.size, prediction.labels, scores, sample.label)
        mistakes = find_mistakes(prediction.labels, sample.label, has_background=self.has_background)
        self._fates.append(mistakes.counts)

    def result(self) -> dict[str, Any]:
        result = self._evaluator.result()
        for row, fates in zip(result["images"], self._fates, strict=True):
            row["fates"] = fates
        fates = {name: sum(counts[name] for counts in self._fates) for name in (self._fates or [{}])[0]}
        result["overall"]["fates"] = fates
        result["tables"] = fate_table(fates)
        result["plots"] = threshold_plot(result["overall"]["ap"]) | recall_plot(result["overall"]["ar"])
        return result


TASK = InstanceTask()
