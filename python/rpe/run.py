"""What the commands do, one function each: they join training, evaluation, prediction and reports, and print
for people.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console
from rich.progress import track

import rpe_ops

from . import tasks
from .backbones import names as backbone_names
from .config import Config
from .data import formats, open_dataset
from .errors import UserError
from .evaluate import evaluate, pictures, result_table, training_curves
from .limits import check_limits
from .predict import Predictor, as_image, load
from .report import write_report
from .settings import to_mapping


def run_training(
    config: Config, config_file: Path, *, resume: bool, console: Console
) -> dict[str, Any] | None:
    """Train, then evaluate on the test split; of several processes the first one does the latter."""
    from .train import train

    if not config.output:
        config = replace(config, output=str(Path("runs") / config_file.stem))
    check_limits(config)
    for split in filter(None, {config.data.train_split or None, config.data.test_split}):
        # A missing list, or data that do not fit the task, are said now and not after the training.
        tasks.get(config.task).check(config, open_dataset(config.data.root, split))
    model = train(config, resume=resume)
    if not PartialState().is_main_process:
        return None
    console.print(f"weights: {model}", highlight=False, markup=False, soft_wrap=True)
    if not config.data.test_split:
        return None
    return run_evaluation(
        load(model), config.data.root, config.data.test_split, model.parent, console=console
    )


def run_evaluation(
    predictor: Predictor,
    data: str,
    split: str | None,
    out: Path,
    *,
    console: Console,
    num_steps: int | None = None,
    run: Path | None = None,
) -> dict[str, Any]:
    """Evaluate; prints the table, writes evaluation.html and evaluation.json into `out`. Training curves are those of
    the folder `run`, by default `out`.
    """
    dataset = open_dataset(data, split)
    result = evaluate(predictor, dataset, num_steps=num_steps, console=console)
    title = f"{dataset.format} {split or 'all images'}"
    console.print(result_table(result, title))
    page = out / "evaluation.html"
    images = pictures(predictor, dataset, result)
    numbers = write_report(
        page, title, to_mapping(predictor.config), result, training_curves(run or out), images
    )
    console.print(f"report: {page}\nnumbers: {numbers}", highlight=False, markup=False, soft_wrap=True)
    return result


def evaluation_folder(checkpoint: Path, data: str, split: str | None, num_steps: int | None) -> Path:
    """Where `rpe evaluate` writes by default: a folder of its own beside the checkpoint for each data set, split and
    number of steps, so that it replaces neither the evaluation of the training nor that of other data.
    """
    name, _, root = data.partition(":")
    parts = [name, Path(root).name, split or "all", "" if num_steps is None else f"T{num_steps}"]
    words = [re.sub(r"[^\w.=-]+", "_", part) for part in parts if part]
    return checkpoint.parent / "evaluations" / "-".join(words)


def run_prediction(checkpoint: Path, images: Sequence[Path], out: Path, *, console: Console) -> None:
    """Segment files and write the results of each."""
    if not images:
        raise UserError("rpe predict: no image given; name one or more image files after the checkpoint")
    stems = [path.stem for path in images]
    double = {stem for stem in stems if stems.count(stem) > 1}
    if double:
        raise UserError(
            f"rpe predict: several images are called {sorted(double)[0]!r}; their results would overwrite each other"
        )
    predictor = load(checkpoint)
    for path in track(images, "predicting", console=console, disable=not console.is_terminal):
        image = as_image(path)
        prediction = predictor.predict(image)
        out.mkdir(parents=True, exist_ok=True)
        files = predictor.task.write(out, path.stem, image, prediction)
        console.print(
            f"{path}: {predictor.task.describe(prediction)} -> {next(iter(files.values()))}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def print_info(console: Console) -> None:
    """Versions and registries."""
    console.print(rpe_ops.show_config(), highlight=False, markup=False, soft_wrap=True)
    console.print(f"backbones: {', '.join(backbone_names())}", highlight=False, soft_wrap=True)
    console.print(f"data formats: {', '.join(formats())}", highlight=False, soft_wrap=True)
