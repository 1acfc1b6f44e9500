"""Evaluating a predictor on a data set: one table, one JSON, one HTML report.

Metrics are those of the predictor's task (`rpe.tasks`), pictures and the report `rpe.report`; this file runs the
predictor over the images and lays out the numbers.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from .classes import Classes
from .data import Dataset
from .export import ResultsFile
from .predict import Predictor
from .report import ReportImage, rank


def evaluate(
    predictor: Predictor,
    dataset: Dataset,
    *,
    results: Path | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Predict every image and collect the metrics of the predictor's task.

    Args:
        predictor: the model.
        dataset: images with their truth.
        results: where the objects of all images are written as COCO results, if the task has objects and the data ids
            of images (`coco`).
        console: where a progress bar is drawn; None draws none.

    Returns:
        `tasks.TaskEvaluator.result()` with "task" added, and for instances "by_shape": AP by height x width and kind.

    Raises:
        UserError: the data does not fit the task, or has other classes than the model.
    """
    task = predictor.task
    task.check(predictor.config, dataset, predictor.classes)
    evaluator = task.evaluator(dataset)
    indices = range(len(dataset))
    image_id = getattr(dataset, "image_id", None) if task.groups else None
    with ExitStack() as files:
        file = (
            files.enter_context(ResultsFile(results, Classes.of(dataset))) if results and image_id else None
        )
        for index in track(
            indices, "evaluating", console=console, disable=console is None or not console.is_terminal
        ):
            sample = dataset[index]
            prediction = predictor.predict(sample.image, keep_embedding=False)
            evaluator.add(index, sample, prediction)
            if file is not None and image_id is not None:
                file.add(image_id(index), prediction)
    result = {"task": task.name, **evaluator.result()}
    if "by_size" in result:
        result["by_shape"] = _by_shape(result["images"])
    return result


def result_table(result: dict[str, Any], title: str) -> Table:
    """The numbers overall, per group of image sizes, per kind, and per exact size and kind."""
    table = Table(title=title)
    table.add_column("images")
    table.add_column("n", justify="right")
    for _, heading, _ in result["columns"]:
        table.add_column(heading, justify="right")

    def add(name: str, group: dict[str, Any], end: bool = False) -> None:
        cells = [_cell(group.get(key)) for key, _, _ in result["columns"]]
        table.add_row(name, str(group["images"]), *cells, end_section=end)

    add("all", result["overall"], end=True)
    for section in ("by_size", "by_kind", "by_shape"):
        groups = result.get(section, {})
        for position, (name, group) in enumerate(groups.items(), start=1):
            add(name, group, end=position == len(groups))
    return table


def pictures(
    predictor: Predictor, dataset: Dataset, result: dict[str, Any], count: int = 6
) -> list[ReportImage]:
    """Images for the report: `count` of them, evenly spread from the worst to the best."""
    task, key = predictor.task, result["order"]
    ranked = [index for index, row in enumerate(result["images"]) if row[key] is not None]
    order = sorted(ranked, key=lambda index: rank(result["images"][index], key))
    last = len(order) - 1
    chosen = sorted({round(place * last / max(1, count - 1)) for place in range(count)}) if order else []
    images = []
    for place in chosen:
        index = order[place]
        sample = dataset[index]
        prediction = predictor.predict(sample.image, keep_embedding=False)
        standing = {0: "the worst: ", last: "the best: "}.get(place, "") if last else ""
        images.append(
            ReportImage(
                name=sample.name,
                image=sample.image,
                prediction=prediction.labels,
                target=sample.label,
                embeddings=predictor.trajectory(sample.image),
                caption=f"{standing}{key} {result['images'][index][key]:.3f}",
                has_background=dataset.has_background,
                panels=task.panels(sample, prediction, dataset),
                compare=task.groups,
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
