"""What a task is: the heads it needs, how the network's output becomes a prediction, tile by tile, how that is scored,
shown and written.

One file of this folder is one task. Networks, losses and the training loop are the same for all of them.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..classes import Classes
from ..config import Config, DecodeConfig
from ..data import Dataset, Sample
from ..errors import UserError
from ..grouping import RecurrentGrouping
from ..model import Output
from ..prediction import Prediction
from ..report import Picture
from ..tiling import Tile, whole
from .heads import HEADS


class TaskEvaluator(Protocol):
    """Collects predictions over a data set."""

    def add(self, index: int, sample: Sample, prediction: Prediction) -> None:
        """Score the prediction of image `index`."""

    def result(self) -> dict[str, Any]:
        """`{"overall": numbers, "images": [row, ...], "columns": [[key, heading, meaning], ...], "order": key}`: the
        columns are those of the summary, rows are ranked by "order", lower = worse. Optional: "by_..." groups of
        numbers, "plots" `{title: {"x": axis, "y": axis, "lines": {name: [xs, ys]}}}` and "tables" `{title: {"head":
        [...], "rows": [[...], ...]}}`. JSON-able.
        """


class Mosaic(Protocol):
    """The prediction of one image, from the network's output for one tile after the other. Beyond what is predicted it
    keeps what one tile needs."""

    def add(self, tile: Tile, output: Output) -> None:
        """Take the next tile in the order of `tiling.tiles`, and the output of batch size 1 for its view."""

    def finish(self, embedding: NDArray[np.float32]) -> Prediction:
        """The prediction; the embedding, which may be empty, is passed on."""


class Task(abc.ABC):
    """One task; it holds no state."""

    name: ClassVar[str]
    groups: ClassVar[bool] = True
    """Whether the embedding is grouped by mean shift at inference."""

    def check(self, config: Config, dataset: Dataset, classes: Classes | None = None) -> None:
        """Raise `UserError` where the settings or the data do not fit the task, or the classes are not those of the
        training data."""
        if not HEADS[self.name].semantic:
            return
        number = len(dataset.classes)
        if number < 2:
            raise UserError(
                f"task = {self.name!r} needs data with classes, and {dataset.format}:{dataset.root} has none; "
                "use voc, coco or synthetic, or task = 'instance'"
            )
        if config.model.num_classes != number:
            raise UserError(
                f"model.num_classes is {config.model.num_classes}, and {dataset.format}:{dataset.root} has {number} "
                f"classes, the background counted: set model.num_classes = {number}"
            )
        if classes is not None:
            classes.require(dataset)

    def training_sample(self, sample: Sample) -> Sample:
        """The sample from which training views are cut: with the truth as this task reads it."""
        return sample

    def foreground(self, output: Output) -> Tensor | None:
        """`[1, h, w]` logits of belonging to an object, from the network's output of batch size 1; None for a network
        that does not say.
        """
        return None if output.foreground is None else output.foreground[0]

    @abc.abstractmethod
    def mosaic(self, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig) -> Mosaic:
        """An empty mosaic for one image of `size` (H, W)."""

    @torch.no_grad()
    def decode(
        self, output: Output, size: tuple[int, int], grouping: RecurrentGrouping, rules: DecodeConfig
    ) -> Prediction:
        """The prediction of one image of `size` (H, W) from the network's output of batch size 1."""
        mosaic = self.mosaic(size, grouping, rules)
        mosaic.add(whole(*size), output)
        return mosaic.finish(output.embedding[0].cpu().numpy())

    @abc.abstractmethod
    def evaluator(self, dataset: Dataset) -> TaskEvaluator:
        """An empty evaluator for this data set."""

    @abc.abstractmethod
    def panels(self, sample: Sample, prediction: Prediction, dataset: Dataset) -> list[tuple[str, Picture]]:
        """Pictures for the report, with captions; empty where the label maps say it all."""

    def pictures(self, prediction: Prediction) -> dict[str, NDArray[Any]]:
        """Files of `rpe predict` beside label map, overlay, embedding and objects: uint8 or uint16 pictures by role."""
        return {}

    @abc.abstractmethod
    def describe(self, prediction: Prediction, classes: Classes) -> str:
        """A few words for the line that `rpe predict` prints."""


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the defined values; None without any."""
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
