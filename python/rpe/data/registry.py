"""Formats by name: `FORMAT:ROOT` to a Dataset. A format is one file with a class under `@register`.

Nothing here reads files; importing `rpe.data` imports the format files, which register themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, cast

from .dataset import Dataset


class _OpensDataset(Protocol):
    def __call__(self, root: str, split: str | None, *, strict: bool) -> Dataset: ...


_FORMATS: dict[str, _OpensDataset] = {}
_T = TypeVar("_T", bound=Dataset)


def register(name: str) -> Callable[[type[_T]], type[_T]]:
    """Class decorator: make a Dataset class, constructed as `cls(root, split, strict=...)`, known as `name`."""

    def add(cls: type[_T]) -> type[_T]:
        if name in _FORMATS:
            raise ValueError(f"data format {name!r} is registered twice")
        cls.format = name
        _FORMATS[name] = cast(_OpensDataset, cls)
        return cls

    return add


def formats() -> tuple[str, ...]:
    """Names of the data formats that can be opened, sorted."""
    return tuple(sorted(_FORMATS))


def open_dataset(spec: str, split: str | None = None, *, strict: bool = True) -> Dataset:
    """Open `FORMAT:ROOT`, for example `dsb2018:/data/dsb2018` or `synthetic:num_images=64,size=64,seed=0`.

    Args:
        spec: format and root; the root of `synthetic` is a list of parameters and may be empty.
        split: "train", "test", ... as the format defines it; None = everything.
        strict: raise at the first fault of the tree. False keeps the usable images and leaves the faults to
            `Dataset.problems()`, which is what `rpe check-data` does.

    Raises:
        ValueError: unknown format; lists the formats.
        DataError: the root cannot be used, or (strict) the tree has a fault.
    """
    name, _, root = spec.partition(":")
    name = name.strip()
    if name not in _FORMATS:
        raise ValueError(
            f"open_dataset: expected FORMAT:ROOT with FORMAT one of {', '.join(formats())}, got {spec!r}"
        )
    return _FORMATS[name](root, split, strict=strict)
