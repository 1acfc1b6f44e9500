"""The classes that a model tells apart, as its training data names and numbers them; a checkpoint carries them.

Models and metrics know a class by its position, 0 being the background. People read names, and COCO's files have ids
of their own: here one becomes the other. Without names, as in checkpoints that have none, positions stand for both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .data import Dataset
from .errors import UserError

_MOST = 8
"""Classes that are told one by one."""


@dataclass(frozen=True)
class Classes:
    """Names and category ids by position.

    Attributes:
        names: of class k at position k, the background first; empty where they are not known.
        category_ids: of class k at position k - 1; empty where the data numbers classes by position.
    """

    names: tuple[str, ...] = ()
    category_ids: tuple[int, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset) -> Classes:
        """Those of a data set."""
        return cls(tuple(dataset.classes), tuple(dataset.category_ids))

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any] | None) -> Classes:
        """Inverse of `to_mapping`; None gives classes without names."""
        if mapping is None:
            return cls()
        return cls(tuple(map(str, mapping["names"])), tuple(map(int, mapping["category_ids"])))

    def to_mapping(self) -> dict[str, Any]:
        """Plain lists: what a checkpoint carries."""
        return {"names": list(self.names), "category_ids": list(self.category_ids)}

    def name(self, kind: int) -> str:
        """Of the class at a position."""
        return self.names[kind] if 0 <= kind < len(self.names) else f"class {kind}"

    def category_id(self, kind: int | None) -> int:
        """In COCO's files, of the class at a position from 1 on. None, where a model says no class, gives the first
        one: pycocotools passes over what has no known category, even where categories do not count.
        """
        position = 1 if kind is None else kind
        return self.category_ids[position - 1] if position <= len(self.category_ids) else position

    def count(self, kinds: Iterable[int]) -> str:
        """`2 dog, 1 cat`: how many there are of which class, the most frequent first; empty for none."""
        counts = Counter(kinds).most_common()
        told = [f"{number} {self.name(kind)}" for kind, number in counts[:_MOST]]
        return _listed(told, sum(number for _, number in counts[_MOST:]))

    def listing(self, kinds: Iterable[int]) -> str:
        """`background, dog`: the names of different classes, in their order."""
        names = [self.name(kind) for kind in sorted(set(kinds))]
        return _listed(names[:_MOST], len(names) - _MOST)

    def require(self, dataset: Dataset) -> None:
        """Raise `UserError` where the classes of a data set are others, or stand in another order; names count without
        their case."""
        for position, (own, other) in enumerate(zip(self.names, dataset.classes, strict=False)):
            if own.strip().casefold() != other.strip().casefold():
                raise UserError(
                    f"{dataset.format}:{dataset.root}: class {position} is {other!r}, and {own!r} in the data that "
                    "the model was trained on; give the classes the same names in the same order (voc: "
                    "class_names.txt; coco: names and ids of the categories)"
                )


def _listed(told: list[str], rest: int) -> str:
    return ", ".join([*told, *([f"{rest} more"] if rest > 0 else [])])
