"""Evaluating a predictor on a data set: one table, one JSON, one HTML report.
 Metrics are `rpe.metrics`, pictures and the report `rpe.report`; this file runs the predictor over the images
and lays out the numbers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from .data import Dataset
from .metrics import Evaluator
from .predict import Predictor
from .report import ReportImage

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


def pictures(
    predictor: Predictor, dataset: Dataset, result: dict[str, Any], count: int = 6
) -> list[ReportImage]:
    """Images for the report: `count` of them, evenly spread from the worst to the best AP at IoU 0.5."""
    order = sorted(range(len(dataset)), key=lambda index: float(result["images"][index]["ap50"]))
    last = len(order) - 1
    chosen = sorted({round(place * last / max(1, count - 1)) for place in range(count)}) if order else []
    images = []
    for index in (order[place] for place in chosen):
        sample = dataset[index]
        images.append(
            ReportImage(
                name=sample.name,
                image=sample.image,
                prediction=predictor.predict(sample.image).labels,
                target=sample.label,
                embeddings=predictor.trajectory(sample.image),
                caption=f"AP at IoU 0.5: {result['images'][index]['ap50']:.3f}",
                has_background=dataset.has_background,
            )
        )
    return images


def training_curves(run: Path) -> dict[str, tuple[list[float], list[float]]]:
    """Losses by step from the TensorBoard files below a run's folder; empty where there are none.

    Where a resumed run repeated a step, the later value counts.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    points: dict[str, dict[int, float]] = {}
    for file in sorted(run.glob("tensorboard/events.out.tfevents*"), key=lambda file: file.stat().st_mtime):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith("loss/"):
                values = {event.step: event.value for event in events.Scalars(tag)}
                points.setdefault(tag.removeprefix("loss/"), {}).update(values)
    return {
        name: ([float(step) for step in sorted(values)], [values[step] for step in sorted(values)])
        for name, values in points.items()
    }


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
