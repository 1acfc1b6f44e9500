"""What every data format hands out: one image with its label map, and the words for what is wrong with a file.

`Sample` is the only thing that training, evaluation and reports know of data. `DataError` stops the work and names
the file; `Problem` is the same statement as a row of `rpe check-data`. Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = -1
"""Label of pixels that take no part in the loss or in metrics (padding, void)."""
_FROM_A_WORKER = "Caught DataError in "
"""How torch.utils.data begins the message of an exception that it raises again."""


class DataError(ValueError):
    """Data that cannot be used: names the file, what is wrong with it and the remedy.

    One positional string is enough to construct it, so that it survives a DataLoader worker, which hands on the whole
    traceback as that string; what counts is its end.
    """

    def __init__(self, message: str, *, file: str | PathLike[str] | None = None, remedy: str = "") -> None:
        if message.startswith(_FROM_A_WORKER):
            message = message.rpartition(f"{DataError.__module__}.{DataError.__qualname__}: ")[2].strip()
        text = message if file is None else f"{file}: {message}"
        super().__init__(f"{text}; {remedy}" if remedy else text)
        self.file = "" if file is None else str(file)
        self.message = message
        self.remedy = remedy


class Problem(NamedTuple):
    """One row of `rpe check-data`."""

    file: str
    message: str
    remedy: str

    @classmethod
    def from_error(cls, error: DataError, file: str = "") -> Problem:
        """The error as a row; `file` stands in where the error names none."""
        return cls(error.file or file, error.message, error.remedy)

    def error(self) -> DataError:
        """The row as an exception."""
        return DataError(self.message, file=self.file, remedy=self.remedy)


@dataclass(frozen=True, eq=False)
class Sample:
    """One image and what is known about its pixels. All maps lie on the image's own pixel grid.

    Attributes:
        image: float32 `[3, H, W]` in 0..1 (grey repeated, any opacity channel dropped).
        label: int64 `[H, W]` instances, 0 = background where the data has one, gaps are fine, `IGNORE` = no part in
            loss and metrics. Where there are several annotators it is the map of one of them.
        name: name of the image in its data set.
        kind: a group for reporting ("fluorescence", "stained", ...) or None.
        semantic: int64 `[H, W]` class of every pixel, a position in `Dataset.classes` (0 = background) or `IGNORE`;
            None where the data has no classes.
        instance_class: class of each label above 0 (labels that a crop has cut away may still be listed); None where
            the data has no classes.
        annotations: one int64 `[H, W]` label map per annotator; empty where there is one annotator, who drew `label`.
        boundaries: one bool `[H, W]` boundary map per annotator, in the order of `annotations`; empty where the data
            has none.
    """

    image: Tensor
    label: Tensor
    name: str
    kind: str | None = None
    semantic: Tensor | None = None
    instance_class: Mapping[int, int] | None = None
    annotations: tuple[Tensor, ...] = ()
    boundaries: tuple[Tensor, ...] = ()

    def __post_init__(self) -> None:
        if self.image.dtype != torch.float32 or self.image.ndim != 3 or self.image.shape[0] != 3:
            raise ValueError(
                f"Sample {self.name}: image must be float32 [3, H, W], "
                f"got {self.image.dtype} {list(self.image.shape)}"
            )
        maps = [("label", self.label, torch.int64)]
        maps += [("semantic", self.semantic, torch.int64)] if self.semantic is not None else []
        maps += [("every annotation", annotation, torch.int64) for annotation in self.annotations]
        maps += [("every boundary", boundary, torch.bool) for boundary in self.boundaries]
        for what, values, dtype in maps:
            if values.dtype != dtype or values.shape != self.image.shape[1:]:
                raise ValueError(
                    f"Sample {self.name}: {what} must be {str(dtype).removeprefix('torch.')} "
                    f"{list(self.image.shape[1:])}, got {values.dtype} {list(values.shape)}"
                )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[1], self.image.shape[2]

    @property
    def num_bytes(self) -> int:
        """Memory of the image and all maps."""
        maps = [self.label, *self.annotations, *self.boundaries]
        maps += [] if self.semantic is None else [self.semantic]
        return self.image.nbytes + sum(values.nbytes for values in maps)

    def map_pixels(
        self, image: Callable[[Tensor], Tensor], values: Callable[[Tensor, int], Tensor]
    ) -> Sample:
        """The sample after one geometric change, the same for the image and every map.

        Args:
            image: takes `[3, H, W]`.
            values: takes a map `[H, W]` and the value of pixels that come from outside the image; must move values
                and never mix them.
        """
        return replace(
            self,
            image=image(self.image),
            label=values(self.label, IGNORE),
            semantic=None if self.semantic is None else values(self.semantic, IGNORE),
            annotations=tuple(values(annotation, IGNORE) for annotation in self.annotations),
            boundaries=tuple(values(boundary, False) for boundary in self.boundaries),
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one size: image float32 `[B, 3, H, W]`, label and semantic (where all have one) int64 `[B, H, W]`."""

    image: Tensor
    label: Tensor
    names: tuple[str, ...]
    kinds: tuple[str | None, ...]
    semantic: Tensor | None = None


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of equal size; the `collate_fn` for a torch DataLoader.

    Raises:
        DataError: the samples differ in size.
    """
    sizes = {sample.size for sample in samples}
    if len(sizes) > 1:
        raise DataError(
            f"samples of {len(sizes)} sizes cannot form one batch: {sorted(sizes)}",
            remedy="crop them to one size (rpe.data.augment) or use a batch size of 1",
        )
    semantic = [sample.semantic for sample in samples if sample.semantic is not None]
    return Batch(
        torch.stack([sample.image for sample in samples]),
        torch.stack([sample.label for sample in samples]),
        tuple(sample.name for sample in samples),
        tuple(sample.kind for sample in samples),
        torch.stack(semantic) if len(semantic) == len(samples) else None,
    )
