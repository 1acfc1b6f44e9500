"""Index of one COCO instances JSON: images, categories, and where in the file the annotations of each image stand.

Twelve bytes an annotation and the entry of each image are kept; the annotations themselves stay on disk until their
image is read. Masks are `run_lengths.py`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..progress import SlowTask
from .json_stream import Element, read_element, stream_arrays
from .sample import DataError, Problem

_MOST_PROBLEMS = 100
"""Faults of one file that are told one by one."""
_BLOCK = 4096
"""Annotations between two words about the progress."""


class CocoImage(NamedTuple):
    """One entry of "images": its id, its path below the image folder, and its size, 0 where the file does not say."""

    id: int
    file_name: str
    height: int
    width: int


def open_index(path: Path) -> CocoIndex:
    """The index of a JSON, made once in a process for all splits and data sets that ask, until the file changes.

    Raises:
        DataError: as `CocoIndex`.
    """
    status = path.stat() if path.exists() else None
    state = None if status is None else (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return _made(path, state)


class CocoIndex:
    """What a COCO JSON holds, without its masks.

    Attributes:
        path: the JSON.
        images: in the file's order.
        category_ids: ascending, gaps are fine.
        category_names: in the order of `category_ids`.
        problems: entries that cannot be used, which are left out.

    Raises:
        DataError: the file cannot be read, is no JSON, or is not of this kind.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = path.stat().st_size if path.exists() else 0
        self.images: list[CocoImage] = []
        self.problems: list[Problem] = []
        self._num_problems = 0
        self._image_numbers: dict[int, int] = {}
        categories: dict[int, str] = {}
        # One row per annotation: id of the image, of the category, of itself, then its offset and length in the file.
        rows: list[NDArray[np.int64]] = []
        block: list[tuple[int, int, int, int, int]] = []
        keys = set()
        with SlowTask(f"reading {path}") as task:
            for element in stream_arrays(path):
                keys.add(element.key)
                if element.key == "images":
                    self._add_image(element)
                elif element.key == "categories":
                    self._add_category(element, categories)
                elif element.key == "annotations":
                    row = self._annotation(element)
                    if row is not None:
                        block.append(row)
                    if len(block) == _BLOCK:
                        rows.append(np.array(block, dtype=np.int64))
                        block = []
                        task.update(element.offset, size)
        rows.append(np.array(block, dtype=np.int64).reshape(-1, 5))
        self._require(keys)
        self.category_ids = tuple(sorted(categories))
        self.category_names = tuple(categories[number] for number in self.category_ids)
        self._sort(np.concatenate(rows))
        self._image_numbers.clear()
        if self._num_problems > len(self.problems):
            rest = self._num_problems - len(self.problems)
            self.problems.append(Problem(str(path), f"and {rest} more faults", "mend the ones above first"))

    def annotations(self, number: int) -> list[dict[str, Any]]:
        """The annotations of image `number`, read from the file, in its order.

        Raises:
            DataError: the file is gone or has changed since.
        """
        first, last = self._first[number], self._first[number + 1]
        try:
            with self.path.open("rb") as file:
                return [
                    read_element(file, self.path, int(self._offset[row]), int(self._length[row]))
                    for row in range(first, last)
                ]
        except OSError as error:
            raise DataError(
                f"cannot be read ({error.strerror or error})", file=self.path, remedy="restore the file"
            ) from error

    def _add_image(self, element: Element) -> None:
        entry = element.decode()
        entry = entry if isinstance(entry, dict) else {}
        values = [entry.get(key) for key in ("id", "file_name", "height", "width")]
        if type(values[0]) is not int or not isinstance(values[1], str) or not values[1]:
            self._report(
                f'an image at byte {element.offset} has no "id" and "file_name"', "complete the entry"
            )
        elif any(value is not None and (type(value) is not int or value < 1) for value in values[2:]):
            self._report(f"image {values[0]} has a height or width that is no number of pixels", "correct it")
        elif values[0] in self._image_numbers:
            self._report(f"image id {values[0]} stands twice", "give every image an id of its own")
        else:
            self._image_numbers[values[0]] = len(self.images)
            self.images.append(CocoImage(values[0], values[1], values[2] or 0, values[3] or 0))

    def _add_category(self, element: Element, categories: dict[int, str]) -> None:
        entry = element.decode()
        number = entry.get("id") if isinstance(entry, dict) else None
        if type(number) is not int:
            self._report(f'a category at byte {element.offset} has no "id"', "complete the entry")
        elif number in categories:
            self._report(f"category id {number} stands twice", "give every category an id of its own")
        else:
            categories[number] = str(entry.get("name", number))

    def _annotation(self, element: Element) -> tuple[int, int, int, int, int] | None:
        entry = element.value if isinstance(element.value, dict) else {}
        image_id, category_id, number = entry.get("image_id"), entry.get("category_id"), entry.get("id")
        if type(image_id) is int and type(category_id) is int and type(number) is int:
            return image_id, category_id, number, element.offset, len(element.text)
        self._report(
            f'an annotation at byte {element.offset} lacks a whole number as "id", "image_id" or "category_id"',
            "complete the entry",
        )
        return None

    def _require(self, keys: set[str]) -> None:
        """The three arrays must be there; "annotations" may be empty."""
        missing = [key for key in ("images", "categories") if key not in keys]
        if missing:
            raise DataError(
                f"has no {' and no '.join(repr(key) for key in missing)} with entries: this is no COCO instances file",
                file=self.path,
                remedy='expected {"images": [...], "annotations": [...], "categories": [...]}',
            )

    def _sort(self, rows: NDArray[np.int64]) -> None:
        """Group the annotations by image, and leave out those of unknown images and categories."""
        image_ids, category_ids, ids = rows[:, 0], rows[:, 1], rows[:, 2]
        known = np.isin(image_ids, np.fromiter(self._image_numbers, np.int64, len(self._image_numbers)))
        has_category = np.isin(category_ids, np.array(self.category_ids, dtype=np.int64))
        for row in np.flatnonzero(~known):
            self._report(
                f"annotation {ids[row]} belongs to image {image_ids[row]}, which the file does not list",
                "add the image or remove the annotation",
            )
        for row in np.flatnonzero(~has_category):
            self._report(
                f"annotation {ids[row]} is of category {category_ids[row]}, which the file does not list",
                "add the category or remove the annotation",
            )
        unique, counts = np.unique(ids, return_counts=True)
        for number in unique[counts > 1]:
            self._report(f"annotation id {number} stands twice", "give every annotation an id of its own")
        rows = rows[known & has_category]
        numbers = np.array(
            [self._image_numbers[image_id] for image_id in rows[:, 0].tolist()], dtype=np.int64
        )
        order = np.argsort(numbers, kind="stable")
        self._offset = rows[order, 3]
        self._length = rows[order, 4].astype(np.int32)
        self._first = np.searchsorted(numbers[order], np.arange(len(self.images) + 1))

    def _report(self, message: str, remedy: str) -> None:
        self._num_problems += 1
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(Problem(str(self.path), message, remedy))


@lru_cache(maxsize=4)
def _made(path: Path, state: object) -> CocoIndex:
    """The index of a file in this state."""
    return CocoIndex(path)
