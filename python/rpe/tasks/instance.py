"""Task `instance`: a label map of objects, from the embedding, the grouping and the foreground head."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..classes import Classes
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
from ..tiling import Tile
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

    def describe(self, prediction: Prediction, classes: Classes) -> str:
        return f"{len(prediction.scores)} objects"


class ObjectMosaic:
    """What mosaics of objects share: the objects of one tile.

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

    def objects_of(
        self,
        tile: Tile,
        output: Output,
        grouping: RecurrentGrouping,
        rules: DecodeConfig,
        values: Tensor | None = None,
    ) -> tuple[NDArray[np.int32], Sums, NDArray[np.int64]]:
        """Label map `[view]` of a tile, the sums of `values` `[C, view]` over its objects (by default of the
        probability of the foreground), and the objects' clusters."""
        embedding = output.embedding[0]
        stride = stride_of(embedding, tile.size)
        origin = (tile.rows.first // stride, tile.columns.first // stride)
        found = decode(
            embedding, self.task.foreground(output), tile.size, grouping, rules, origin, tile.known
        )
        values = found.probability[None] if values is None else values
        return found.labels, object_sums(found.labels, embedding, values, stride, tile), found.clusters


class InstanceMosaic(ObjectMosaic):
    """Label maps of tiles, joined across their seams."""

    def __init__(
        self, task: Task, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> None:
        super().__init__(task, size, grouping, rules)
        self._joiner = TileJoiner(*size, rules.connected)

    def add(self, tile: Tile, output: Output) -> None:
        self.add_objects(tile, output, None)

    def add_objects(self, tile: Tile, output: Output, values: Tensor | None) -> None:
        """Take the objects of a tile with sums of `values`, as `objects_of` has them."""
        self._joiner.add(tile, *self.objects_of(tile, output, self.grouping, self.rules, values))

    def objects(self) -> tuple[NDArray[np.int32], Sums]:
        """Label map `[H, W]` and sums of the objects of all tiles."""
        return self._joiner.finish(self.rules.min_size, self.rules.background == "largest")

    def finish(self, embedding: NDArray[np.float32]) -> Prediction:
        labels, sums = self.objects()
        confidence, centre = object_means(sums, 1)
        return Prediction(labels, object_scores(confidence[:, 0], centre), embedding)


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
