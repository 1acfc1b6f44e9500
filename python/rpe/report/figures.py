"""Pictures and plots as PNG bytes for the report; matplotlib is used through its object interface, so that no window or
global state is touched."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from .colours import Picture

Curve: TypeAlias = tuple[Sequence[float], Sequence[float]]
"""Steps and values, of equal length."""

_SMOOTHING_SHARE = 0.03
"""Width of the running mean of a curve as a share of its length."""
_MANY_POINTS = 60
_LINE_COLOURS = ("#2f6fb0", "#d1603d", "#3c8f62", "#8a5fb5", "#b8862b", "#5f6b73")


def png_bytes(picture: Picture, *, max_side: int | None = None) -> bytes:
    """A picture `[H, W, 3]` as PNG, reduced so that its longer side is at most `max_side` pixels."""
    image = Image.fromarray(np.ascontiguousarray(picture))
    if max_side is not None and max(image.size) > max_side:
        ratio = max_side / max(image.size)
        image = image.resize((max(1, round(image.width * ratio)), max(1, round(image.height * ratio))))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """PNG bytes as a URI that stands inside the HTML."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def curves_png(curves: Mapping[str, Curve]) -> bytes:
    """Curves over training steps as one plot: thin raw values under a running mean.

    The axis is logarithmic where values span decades. Values that are not finite are left out of the lines.
    """
    figure = Figure(figsize=(9, 3.2), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    lowest, highest = np.inf, -np.inf
    for number, (name, (steps, values)) in enumerate(curves.items()):
        x, y = np.asarray(steps, dtype=np.float64), np.asarray(values, dtype=np.float64)
        finite = np.isfinite(y)
        x, y = x[finite], y[finite]
        if not len(y):
            continue
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        lowest, highest = min(lowest, float(y.min())), max(highest, float(y.max()))
        if len(y) > _MANY_POINTS:
            axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.25)
            axes.plot(x, _running_mean(y), color=colour, linewidth=1.6, label=name)
        else:
            axes.plot(x, y, color=colour, linewidth=1.6, marker="o", markersize=3, label=name)
    if 0 < lowest and highest > 50 * lowest:
        axes.set_yscale("log")
    axes.set_xlabel("training step")
    axes.grid(True, color="#d8dce0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    if np.isfinite(lowest):
        axes.legend(frameon=False, ncols=3)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def lines_png(lines: Mapping[str, Curve], x_label: str, y_label: str) -> bytes:
    """Lines between given points, values in 0..1, for example precision over recall."""
    figure = Figure(figsize=(6.4, 4.2), dpi=144, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for number, (name, (x, y)) in enumerate(lines.items()):
        style = "-" if number < len(_LINE_COLOURS) else "--"
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        marker = "o" if len(x) <= _MANY_POINTS else None
        axes.plot(x, y, style, color=colour, linewidth=1.6, marker=marker, markersize=3, label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_xlim(left=0)
    axes.set_ylim(0, 1.02)
    axes.grid(True, color="#d8dce0", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, ncols=1 + len(lines) // 12)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Mean over a centred window, shorter at the ends."""
    half = max(1, int(_SMOOTHING_SHARE * len(values) / 2))
    total = np.concatenate([[0.0], np.cumsum(values)])
    position = np.arange(len(values))
    low, high = np.maximum(position - half, 0), np.minimum(position + half + 1, len(values))
    return (total[high] - total[low]) / (high - low)
