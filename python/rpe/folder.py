"""`rpe predict` on many files: resumable, in batches, and one bad file never stops the rest.

The folder of results remembers which weights and rules made them (`predict.json`); an image is done when its last file,
the objects' JSON, is there and not older than the image. One prediction is `predict.py`, its files are `export.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from rich.console import Console
from rich.progress import track
from torch import Tensor

from .data.reading import IMAGE_SUFFIXES
from .errors import UserError
from .export import finished_file, write_prediction
from .images import as_image
from .predict import Predictor
from .settings import to_mapping

_ORIGIN = "predict.json"
_Read: TypeAlias = "tuple[Path, Tensor]"


@dataclass
class Outcome:
    """What became of the files."""

    done: int = 0
    skipped: int = 0
    """Finished by an earlier call."""
    failed: dict[Path, str] = field(default_factory=dict)
    """File and reason."""


def list_images(paths: Sequence[Path]) -> list[Path]:
    """The files named, and the images in the folders named (not in folders below them), in order.

    Raises:
        UserError: nothing is named, a folder holds no image, or two files would write the same results.
    """
    if not paths:
        raise UserError("rpe predict: no image given; name image files or folders after the checkpoint")
    files: list[Path] = []
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(
            file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()
        )
        if not found:
            raise UserError(f"{path}: no image in this folder; expected one of {', '.join(IMAGE_SUFFIXES)}")
        files += found
    stems = [file.stem for file in files]
    if len(set(stems)) < len(stems):
        double = next(stem for stem in stems if stems.count(stem) > 1)
        raise UserError(
            f"rpe predict: several images are called {double!r}; their results would overwrite each other: "
            "rename one, or give them folders of results of their own"
        )
    return files


def predict_files(
    predictor: Predictor, files: Sequence[Path], out: Path, *, batch_size: int = 1, console: Console
) -> Outcome:
    """Segment files and write the results of each.

    Args:
        predictor: the model.
        files: images with different stems.
        out: folder of the results; those that are there already are kept.
        batch_size: images of one size, one after the other, that pass through the network together.
        console: where progress is drawn, one line per image where it is no terminal.

    Raises:
        UserError: `out` holds results of another model or of other rules.
    """
    _claim(out, predictor)
    outcome, batch = Outcome(), list[_Read]()
    for file in track(files, "predicting", console=console, disable=not console.is_terminal):
        if _is_done(file, out):
            outcome.skipped += 1
            continue
        try:
            image = as_image(file)
        except Exception as error:
            outcome.failed[file] = _reason(error)
            continue
        if batch and (len(batch) == batch_size or batch[0][1].shape != image.shape):
            _segment(predictor, batch, out, outcome, console)
            batch = []
        batch.append((file, image))
    if batch:
        _segment(predictor, batch, out, outcome, console)
    return outcome


def _segment(predictor: Predictor, batch: list[_Read], out: Path, outcome: Outcome, console: Console) -> None:
    """Predict and write images of one size; each alone where they fail together, to learn which it is."""
    try:
        predictions = predictor.predict_batch([image for _, image in batch], keep_embedding=False)
    except Exception as error:
        if len(batch) == 1:
            outcome.failed[batch[0][0]] = _reason(error)
        else:
            for one in batch:
                _segment(predictor, [one], out, outcome, console)
        return
    for (file, image), prediction in zip(batch, predictions, strict=True):
        try:
            further = predictor.task.pictures(prediction)
            written = write_prediction(out, file.stem, image, prediction, further)
        except Exception as error:
            outcome.failed[file] = _reason(error)
            continue
        outcome.done += 1
        line = f"{file}: {predictor.task.describe(prediction)} -> {written['labels']}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _is_done(file: Path, out: Path) -> bool:
    finished = finished_file(out, file.stem)
    return file.exists() and finished.exists() and finished.stat().st_mtime >= file.stat().st_mtime


def _claim(out: Path, predictor: Predictor) -> None:
    """Say in the folder what its results are made with, or check that it is the same."""
    digest = hashlib.sha256()
    for name, value in sorted(predictor.model.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    config = to_mapping(predictor.config)
    origin = {
        "weights": digest.hexdigest(),
        "task": config["task"],
        "model": config["model"],
        "decode": config["decode"],
    }
    path = out / _ORIGIN
    if path.exists():
        if json.loads(path.read_text(encoding="utf-8")) != origin:
            raise UserError(f"{out}: holds results of another model or of other rules; choose another --out")
        return
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(origin, indent=1), encoding="utf-8")


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
