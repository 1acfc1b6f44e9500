"""`torch.autocast` around the operators: they choose their own precision, whatever is on around them.

A helper of every layer. Both functions are traced by `torch.compile`.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor


def without_autocast(rows: Tensor) -> AbstractContextManager[object]:
    """A context in which autocast changes no type on the device of `rows`."""
    if rows.device.type == "meta":  # PyTorch knows no autocast there
        return contextlib.nullcontext()
    return torch.autocast(rows.device.type, enabled=False)


def autocast_is_on(rows: Tensor) -> bool:
    """Whether the caller lets PyTorch choose types on the device of `rows`."""
    return rows.device.type != "meta" and torch.is_autocast_enabled(rows.device.type)
