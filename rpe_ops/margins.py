"""Choosing margin and kappa: the margin rule, and how many instances fit on a sphere at which margin (spherical codes).

Pure Python and numpy-free; nothing here touches the operators.
"""

from __future__ import annotations

import math


def kappa_from_margin(margin: float) -> float:
    """The vMF concentration that fits a margin: bandwidth = 3 / (1 - margin) inverted, kappa = 9 / (1 - margin)^2.

    Args:
        margin: similarity in [0, 1).

    Returns:
        kappa > 0; 36 for margin 0.5.

    Raises:
        TypeError, ValueError: margin is not a number in [0, 1).

    Example:
        >>> import rpe_ops
        >>> rpe_ops.kappa_from_margin(0.5)
        36.0
    """
    _require_number("kappa_from_margin", "margin", margin)
    if not 0.0 <= margin < 1.0:
        raise ValueError(
            f"kappa_from_margin: margin must be in [0, 1), got {margin!r}; at 1 no finite kappa separates instances"
        )
    return 9.0 / (1.0 - margin) ** 2


def _require_number(function: str, name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise TypeError(f"{function}: {name} must be a number, got {value!r}; give a Python float")


def suggest_margin(num_instances: int, dim: int) -> float:
    raise NotImplementedError
