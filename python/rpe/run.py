"""What the commands do, one function each: they join training, evaluation, prediction and reports, and print
for people.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState
from rich.console import Console

import rpe_ops

from . import tasks
from .backbones import names as backbone_names
from .classes import Classes
from .config import Config
from .data import formats, open_dataset
from .evaluate import evaluate, pictures, result_table, training_curves
from .evaluations import COCO_RESULTS, PAGE, claim_folder, evaluation_folder, evaluation_origin
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
    # A missing list, or data that do not fit the task, are said now and not after the training.
    training_data = open_dataset(config.data.root, config.data.train_split or None)
    tasks.get(config.task).check(config, training_data)
    if config.data.test_split and config.data.test_split != config.data.train_split:
        test_data = open_dataset(config.data.root, config.data.test_split)
        tasks.get(config.task).check(config, test_data, Classes.of(training_data))
    model = train(config, resume=resume)
    if not PartialState().is_main_process:
        return None
    console.print(f"weights: {model}", highlight=False, markup=False, soft_wrap=True)
    if not config.data.test_split:
        return None
    # A finished run that is resumed has other decoding rules: this evaluation is always that of the last ones.
    return run_evaluation(
        load(model),
        model,
        config.data.root,
        config.data.test_split,
        model.parent,
        overwrite=True,
        console=console,
    )


def run_evaluation(
    predictor: Predictor,
    checkpoint: Path,
    data: str,
    split: str | None,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    console: Console,
) -> dict[str, Any]:
    """Evaluate; prints the table, writes evaluation.html and evaluation.json.

    Args:
        predictor: the model.
        checkpoint: its file; the training curves are those of its folder.
        data: FORMAT:ROOT.
        split: part of the data set; None takes all of it.
        out: folder of the results; by default one of its own in `evaluations` beside the checkpoint.
        overwrite: replace an evaluation of other data, weights or rules in `out`.
        console: where to print.

    Raises:
        UserError: `out` holds another evaluation, or the data does not fit the task.
    """
    origin = evaluation_origin(predictor, data, split)
    out = out or evaluation_folder(checkpoint, origin)
    replaces = claim_folder(out, origin, overwrite=overwrite)
    if replaces:
        console.print(replaces, highlight=False, markup=False, soft_wrap=True)
    dataset = open_dataset(data, split)
    results = out / COCO_RESULTS
    results.unlink(missing_ok=True)
    result = evaluate(predictor, dataset, results=results, console=console)
    title = f"{dataset.format} {split or 'all images'}"
    console.print(result_table(result, title))
    page = out / PAGE
    images = pictures(predictor, dataset, result)
    curves = training_curves(checkpoint.parent)
    numbers = write_report(
        page, title, to_mapping(predictor.config), result, curves, images, made_with=origin
    )
    console.print(f"report: {page}\nnumbers: {numbers}", highlight=False, markup=False, soft_wrap=True)
    if results.exists():
        console.print(f"COCO results: {results}", highlight=False, markup=False, soft_wrap=True)
    return result


def run_prediction(
    checkpoint: Path,
    paths: Sequence[Path],
    out: Path,
    *,
    batch_size: int,
    device: str,
    console: Console,
    decode: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> int:
    """Segment files and those of folders, by the rules `decode` in place of the checkpoint's; the number of those that
    failed, which are listed at the end."""
    listing = list_images(paths, out)
    predictor = load(checkpoint, device=device, decode=decode)
    outcome = predict_files(
        predictor, listing.files, out, batch_size=batch_size, overwrite=overwrite, console=console
    )
    for folder, others in listing.passed_over.items():
        console.print(f"passed over in {folder}: {others}", highlight=False, markup=False, soft_wrap=True)
    again = f" ({outcome.again} again)" if outcome.again else ""
    skipped = f", {outcome.skipped} done before" if outcome.skipped else ""
    failed = f", {len(outcome.failed)} failed:" if outcome.failed else ""
    console.print(f"{outcome.done} images{again}{skipped}{failed}", highlight=False)
    for file, reason in outcome.failed.items():
        told = reason if str(file) in reason else f"{file}: {reason}"
        console.print(f"  {told}", highlight=False, markup=False, soft_wrap=True)
    return len(outcome.failed)


def print_info(console: Console) -> None:
    """Versions and registries."""
    console.print(rpe_ops.show_config(), highlight=False, markup=False, soft_wrap=True)
    console.print(f"backbones: {', '.join(backbone_names())}", highlight=False, soft_wrap=True)
    console.print(f"data formats: {', '.join(formats())}", highlight=False, soft_wrap=True)
