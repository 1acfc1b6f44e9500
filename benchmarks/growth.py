"""How cost grows with N: the exponent p of a time that grows as N^p, from measured sizes.

Needs only the standard library, as render.py does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

# What a small problem costs besides its pairs says nothing about a large one: the line goes through the largest sizes.
NUM_SIZES = 3

Key = tuple[str, str, int, str, str]


def exponent(points: Iterable[tuple[int, float]]) -> float | None:
    """Slope of log time against log N by least squares, over the largest sizes; None where there are too few."""
    largest = sorted(points)[-NUM_SIZES:]
    if len({size for size, _ in largest}) < NUM_SIZES:
        return None
    x, y = ([math.log(value) for value in column] for column in zip(*largest, strict=True))
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    covariance = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return covariance / sum((a - mean_x) ** 2 for a in x)


def exponents(rows: Sequence[dict[str, Any]]) -> dict[Key, float]:
    """By (operation, mode, D, dtype, provider), of the rows of a result file."""
    lines: dict[Key, list[tuple[int, float]]] = {}
    for row in rows:
        if row["status"] == "ok":
            key = (row["operation"], row["mode"], row["dim"], row["dtype"], row["provider"])
            lines.setdefault(key, []).append((row["num_points"], row["median_ms"]))
    found = {key: exponent(points) for key, points in lines.items()}
    return {key: value for key, value in found.items() if value is not None}


def sentences(rows: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each operation, mode, D and dtype that ran at enough sizes."""
    parts: dict[tuple[str, str, int, str], list[str]] = {}
    for (operation, mode, dim, dtype, provider), value in exponents(rows).items():
        parts.setdefault((operation, mode, dim, dtype), []).append(f"{provider} N^{value:.1f}")
    return [
        f"{operation} {mode} D={dim} {dtype}, over the {NUM_SIZES} largest N: {', '.join(providers)}"
        for (operation, mode, dim, dtype), providers in parts.items()
    ]
