"""Evaluating a predictor on a data set: one table, one JSON, one HTML report.
 Metrics are `rpe.metrics`, pictures and the report `rpe.report`; this file runs the predictor over the images
and lays out the numbers.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from .data import Dataset
from .metrics import Evaluator
from .predict import Predictor

_COLUMNS = (
    ("AP@0.5", "ap50"),
    ("AP mean", "ap_mean"),
    ("F1@0.5", "f1_50"),
    ("ARI", "ari"),
    ("SBD", "sbd"),
    ("|dC|", "abs_dic"),
)


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    *,
    num_steps: int | None = None,
    console: Console | None = None,
    proposals: bool = True,
) -> dict[str, Any]:
    """Predict every image and collect the metrics.

    Args:
        predictor: the model.
        dataset: images with label maps.
        num_steps: mean-shift steps, in place of the config's.
        console: where a progress bar is drawn; None draws none.
        proposals: compute average recall too (it takes most of the time).

    Returns:
        `Evaluator.result()` with "by_shape" added: AP at IoU 0.5 by height x width and kind.
    """
    evaluator = Evaluator(has_background=dataset.has_background, **({} if proposals else {"proposals": ()}))
    indices = range(len(dataset))
    for index in track(
        indices, "evaluating", console=console, disable=console is None or not console.is_terminal
    ):
        sample = dataset[index]
        prediction = predictor.predict(sample.image, num_steps=num_steps)
        evaluator.add(
            sample.name, sample.kind, sample.size, prediction.labels, prediction.scores.tolist(), sample.label
        )
    result = evaluator.result()
    result["by_shape"] = _by_shape(result["images"])
    return result


def result_table(result: dict[str, Any], title: str) -> Table:
    """The numbers overall, per group of image sizes, per kind, and per exact size and kind."""
    table = Table(title=title)
    table.add_column("images")
    for heading in ("n", *(heading for heading, _ in _COLUMNS)):
        table.add_column(heading, justify="right")

    def add(name: str, group: dict[str, Any], end: bool = False) -> None:
        cells = [_cell(group.get(key)) for _, key in _COLUMNS]
        table.add_row(name, str(group["images"]), *cells, end_section=end)

    add("all", result["overall"], end=True)
    for section in ("by_size", "by_kind", "by_shape"):
        groups = result[section]
        for position, (name, group) in enumerate(groups.items(), start=1):
            add(name, group, end=position == len(groups))
    return table


def write_json(result: dict[str, Any], path: Path) -> None:
    """The result as JSON, written to a temporary name and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(json.dumps(result, indent=1), encoding="utf-8")
    temporary.replace(path)


def _by_shape(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Mean AP per height x width and kind."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = f"{row['height']}x{row['width']}" + (f" {row['kind']}" if row["kind"] else "")
        groups.setdefault(name, []).append(row)
    return {
        name: {
            "images": len(members),
            "ap50": sum(row["ap50"] for row in members) / len(members),
            "ap_mean": sum(row["ap_mean"] for row in members) / len(members),
        }
        for name, members in sorted(groups.items())
    }


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
