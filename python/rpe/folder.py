"""`rpe predict` on many files: resumable, in batches, and one bad file never stops the rest.

The folder of results keeps a journal, `predict.jsonl`: first which weights and rules it belongs to, then a line for
each image whose files are all written. One prediction is `predict.py`, which files it has is the task's business.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console
from rich.progress import track
from torch import Tensor

from .data.reading import IMAGE_SUFFIXES
from .errors import UserError
from .export import write_prediction
from .images import as_image
from .predict import Predictor
from .settings import to_mapping

_JOURNAL = "predict.jsonl"
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
        UserError: `out` holds results of another model or of other rules, or the batch size is below 1.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more, got {batch_size}")
    finished = _journal(out, predictor)
    outcome, batch = Outcome(), list[_Read]()
    for file in track(files, "predicting", console=console, disable=not console.is_terminal):
        if finished.get(file.name) == _stamp(file):
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
        predictions = predictor.predict_batch(
            [image for _, image in batch], keep_embedding=False, paint_embedding=True
        )
    except Exception as error:
        if len(batch) == 1:
            outcome.failed[batch[0][0]] = _reason(error)
        else:
            for one in batch:
                _segment(predictor, [one], out, outcome, console)
        return
    for (file, image), prediction in zip(batch, predictions, strict=True):
        try:
            written = write_prediction(out, file.stem, image, prediction, predictor.task.pictures(prediction))
            with open(out / _JOURNAL, "a", encoding="utf-8") as journal:
                journal.write(json.dumps({"image": file.name, "stamp": _stamp(file)}) + "\n")
        except Exception as error:
            outcome.failed[file] = _reason(error)
            continue
        outcome.done += 1
        line = f"{file}: {predictor.task.describe(prediction)} -> {written['labels']}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _stamp(file: Path) -> list[int]:
    """Size and time of a file: an image that was replaced is done again."""
    if not file.exists():
        return []
    status = file.stat()
    return [status.st_size, status.st_mtime_ns]


def _journal(out: Path, predictor: Predictor) -> dict[str, list[int]]:
    """Images that are done, with their stamps; a new folder is claimed for this model and its rules."""
    digest = hashlib.sha256()
    for name, value in sorted(predictor.model.state_dict().items()):
        digest.update(name.encode() + value.cpu().numpy().tobytes())
    config = to_mapping(predictor.config)
    origin = {key: config[key] for key in ("task", "model", "decode")} | {"weights": digest.hexdigest()}
    path = out / _JOURNAL
    lines: list[dict[str, Any]] = []
    if path.exists():
        # A kill may have cut the last line short: its image is done again.
        text = path.read_text(encoding="utf-8")
        path.write_text(text[: text.rfind("\n") + 1], encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if not lines:
        out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(origin) + "\n", encoding="utf-8")
    elif lines[0] != origin:
        raise UserError(f"{out}: holds results of another model or of other rules; choose another --out")
    return {line["image"]: line["stamp"] for line in lines[1:]}


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
