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

import rpe_ops

from . import tasks
from .backbones import names as backbone_names
from .config import Config
from .data import formats, open_dataset
from .evaluate import evaluate, pictures, result_table, training_curves
from .folder import list_images, predict_files
from .limits import check_limits
from .predict import Predictor, load
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
    images = pictures(predictor, dataset, result, num_steps=num_steps)
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


def run_prediction(
    checkpoint: Path, paths: Sequence[Path], out: Path, *, batch_size: int, device: str, console: Console
) -> int:
    """Segment files and those of folders; the number of those that failed, which are listed at the end."""
    files = list_images(paths)
    outcome = predict_files(
        load(checkpoint, device=device), files, out, batch_size=batch_size, console=console
    )
    skipped = f", {outcome.skipped} done before" if outcome.skipped else ""
    failed = f", {len(outcome.failed)} failed:" if outcome.failed else ""
    console.print(f"{outcome.done} images{skipped}{failed}", highlight=False)
    for file, reason in outcome.failed.items():
        told = reason if str(file) in reason else f"{file}: {reason}"
        console.print(f"  {told}", highlight=False, markup=False, soft_wrap=True)
    return len(outcome.failed)


def print_info(console: Console) -> None:
    """Versions and registries."""
    console.print(rpe_ops.show_config(), highlight=False, markup=False, soft_wrap=True)
    console.print(f"backbones: {', '.join(backbone_names())}", highlight=False, soft_wrap=True)
    console.print(f"data formats: {', '.join(formats())}", highlight=False, soft_wrap=True)
