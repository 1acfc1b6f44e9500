"""What every data format hands out: one image with its label map, and the words for what is wrong with a file.

`Sample` is the only thing that training, evaluation and reports know of data. `DataError` stops the work and names
the file; `Problem` is the same statement as a row of `rpe check-data`. Nothing here reads files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from typing import NamedTuple

import torch
from torch import Tensor

IGNORE = -1
"""Label of pixels that take no part in the loss or in metrics (padding, void)."""


class DataError(ValueError):
    """Data that cannot be used: names the file, what is wrong with it and the remedy.

    One positional string is enough to construct it, so that it survives a DataLoader worker.
    """

    def __init__(self, message: str, *, file: str | PathLike[str] | None = None, remedy: str = "") -> None:
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
    """One image and its instances.

    Attributes:
        image: float32 `[3, H, W]` in 0..1 (grey repeated, any opacity channel dropped).
        label: int64 `[H, W]`, 0 = background where the data has one, `IGNORE` = no part in loss and metrics.
        name: name of the image in its data set.
        kind: a group for reporting ("fluorescence", "stained", ...) or None.
    """

    image: Tensor
    label: Tensor
    name: str
    kind: str | None = None

    def __post_init__(self) -> None:
        if self.image.dtype != torch.float32 or self.image.ndim != 3 or self.image.shape[0] != 3:
            raise ValueError(
                f"Sample {self.name}: image must be float32 [3, H, W], "
                f"got {self.image.dtype} {list(self.image.shape)}"
            )
        if self.label.dtype != torch.int64 or self.label.shape != self.image.shape[1:]:
            raise ValueError(
                f"Sample {self.name}: label must be int64 {list(self.image.shape[1:])}, "
                f"got {self.label.dtype} {list(self.label.shape)}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.image.shape[1], self.image.shape[2]


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples of one size: image float32 `[B, 3, H, W]`, label int64 `[B, H, W]`."""

    image: Tensor
    label: Tensor
    names: tuple[str, ...]
    kinds: tuple[str | None, ...]


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
    return Batch(
        torch.stack([sample.image for sample in samples]),
        torch.stack([sample.label for sample in samples]),
        tuple(sample.name for sample in samples),
        tuple(sample.kind for sample in samples),
    )
