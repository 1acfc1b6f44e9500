"""Results as plots and tables of the report: plain lists, which `rpe.report` draws and the JSON carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def threshold_plot(ap: Mapping[str, float | None]) -> dict[str, Any]:
    """AP of label maps by IoU threshold."""
    return _plot(
        "Average precision by IoU threshold", "IoU", "AP", {"AP": (list(map(float, ap)), list(ap.values()))}
    )


def recall_plot(ar: Mapping[str, Mapping[str, float | None]]) -> dict[str, Any]:
    """Average recall by number of proposals, one line per IoU."""
    lines = {f"IoU {iou}": (list(map(float, by)), list(by.values())) for iou, by in ar.items()}
    return _plot("Average recall by number of proposals", "proposals per image", "recall", lines)


def precision_plot(curves: Mapping[str, Mapping[str, Sequence[float]]]) -> dict[str, Any]:
    """Precision over recall, one line per name."""
    lines = {name: (list(curve["recall"]), list(curve["precision"])) for name, curve in curves.items()}
    return _plot("Precision over recall", "recall", "precision", lines)


def class_table(title: str, columns: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """One row per class, one column per metric; None where a metric does not know the class."""
    names = list(dict.fromkeys(name for values in columns.values() for name in values))
    rows = [[name, *(values.get(name) for values in columns.values())] for name in names]
    return {title: {"head": ["class", *columns], "rows": rows}} if rows else {}


def fate_table(fates: Mapping[str, int]) -> dict[str, Any]:
    """What became of the true instances at IoU 0.5, and how many predicted ones are false."""
    if not any(fates.values()):
        return {}
    true = sum(number for name, number in fates.items() if name != "false")
    rows = [
        [name, number, number / true if true and name != "false" else None] for name, number in fates.items()
    ]
    return {
        "Splits and merges": {"head": ["true instances (false: predicted)", "number", "share"], "rows": rows}
    }


def _plot(title: str, x: str, y: str, lines: Mapping[str, tuple[list[float], list[Any]]]) -> dict[str, Any]:
    """One plot, or none where nothing is known; points that are not known are left out."""
    known = {}
    for name, (xs, ys) in lines.items():
        points = [(a, b) for a, b in zip(xs, ys, strict=True) if b is not None]
        if points:
            known[name] = [[a for a, _ in points], [b for _, b in points]]
    return {title: {"x": x, "y": y, "lines": known}} if known else {}
