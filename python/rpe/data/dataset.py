"""The base of all data formats: a torch Dataset of `Sample` that can also say what is wrong with its files.

A format fills `names` and implements `_load`. Faults of the tree (a missing label, a wrong split list) are known when
the data set is opened: strict opening raises the first of them, lenient opening keeps them for `problems()`.
Faults inside a file surface when it is read. This file must not know any format.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator

import torch.utils.data

from .sample import DataError, Problem, Sample


class Dataset(torch.utils.data.Dataset[Sample], abc.ABC):
    """Images with label maps, in a fixed order.

    Attributes:
        format: registered name of the format.
        root: what stood after the colon of `FORMAT:ROOT`.
        split: name of the split, or None for everything.
        names: one name per image.
        has_background: label 0 is background (otherwise label 0 is an ordinary segment).
        classes: names of the classes that `Sample.semantic` and `Sample.instance_class` number, classes[0] being the
            background; empty where the data has no classes.
        category_ids: number that the data's own files give class k, at position k - 1; empty where that is k.
        streams: the data set may be far larger than memory: nothing should read it as a whole before training, or
            keep its images.
        structure_problems: faults of the tree found when it was opened; empty after strict opening.
    """

    format: str = ""
    has_background: bool = True
    streams: bool = False

    def __init__(self, root: str, split: str | None) -> None:
        self.root = root
        self.split = split
        self.names: list[str] = []
        self.classes: tuple[str, ...] = ()
        self.category_ids: tuple[int, ...] = ()
        self.structure_problems: list[Problem] = []

    @abc.abstractmethod
    def _load(self, index: int) -> tuple[Sample, list[Problem]]:
        """Read one image; the list holds what is wrong with it without making it useless. Raises DataError."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        """Read one image.

        Raises:
            DataError: the image or its labels cannot be used; names the file.
            IndexError: index outside the data set.
        """
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(f"index {index} is outside a {self.format} data set of {len(self)} images")
        return self._load(position)[0]

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def inspect(self, index: int) -> tuple[Sample | None, list[Problem]]:
        """Read one image (None where it cannot be used) and tell everything that is wrong with it."""
        try:
            return self._load(index)
        except DataError as error:
            return None, [Problem.from_error(error, self.names[index])]

    def problems(self) -> Iterator[Problem]:
        """Read everything and yield each fault of the tree and of the files."""
        yield from self.structure_problems
        for index in range(len(self)):
            yield from self.inspect(index)[1]

    def _raise_first_problem(self) -> None:
        """Strict opening: raise the first fault of the tree and tell how many more there are."""
        if not self.structure_problems:
            return
        first = self.structure_problems[0]
        more = len(self.structure_problems) - 1
        hint = f" (and {more} more, see: rpe check-data {self.format}:{self.root})" if more else ""
        raise DataError(first.message, file=first.file, remedy=first.remedy + hint)
