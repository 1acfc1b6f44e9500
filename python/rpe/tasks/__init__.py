"""The tasks by name: `get(config.task)`. One file is one task; it is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .heads import HEADS, Heads

if TYPE_CHECKING:
    from .base import Task


def get(name: str) -> Task:
    """The task of that name, one of `HEADS`."""
    task: Task = import_module(f".{name}", __name__).TASK
    return task


__all__ = ["HEADS", "Heads", "get"]
