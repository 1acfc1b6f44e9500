"""`rpe predict` on many files: resumable, in batches, and one bad file never stops the rest.

Which files there are, and how they pass through the predictor. What is done already `journal.py` knows, one prediction
is `predict.py`, which files it has is the task's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from torch import Tensor

from .data.reading import IMAGE_SUFFIXES
from .errors import UserError
from .export import write_prediction
from .images import as_image
from .journal import Journal, digest_of
from .origin import origin_of
from .predict import Predictor

SUFFIXES = (
    *IMAGE_SUFFIXES,
    *(
        ".avif",
        ".dib",
        ".gif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".pbm",
        ".pgm",
        ".pnm",
        ".ppm",
        ".tga",
        ".webp",
    ),
)
"""Of the files in a folder that are taken for images; a file that is named is read whatever its suffix is."""
_MOST_SUFFIXES = 8
"""Told one by one."""


class Listing(NamedTuple):
    """Files to predict, and what else the folders hold."""

    files: list[Path]
    passed_over: dict[Path, str]
    """By folder: how many files of which suffix, in words."""


class _Read(NamedTuple):
    """An image that waits for its batch."""

    file: Path
    name: str
    digest: str
    image: Tensor


@dataclass
class Outcome:
    """What became of the files."""

    done: int = 0
    again: int = 0
    """Of those: there were results, of another image content, of another origin, or with a file missing."""
    skipped: int = 0
    """Finished by an earlier call."""
    failed: dict[Path, str] = field(default_factory=dict)
    """File and reason."""


def list_images(paths: Sequence[Path], out: Path) -> Listing:
    """The files named, and the images in the folders named (not in folders below them), in order, each once.

    Raises:
        UserError: nothing is named, a folder holds no image, or it is the folder of the results.
    """
    if not paths:
        raise UserError("rpe predict: no image given; name image files or folders after the checkpoint")
    files: list[Path] = []
    passed_over: dict[Path, str] = {}
    for path in paths:
        if not path.is_dir():
            files.append(path)
            continue
        if path.resolve() == out.resolve():
            raise UserError(
                f"{out}: is the folder of the images too, and the results would be taken for images the next time; "
                "choose another --out"
            )
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
        found = [entry for entry in entries if entry.suffix.lower() in SUFFIXES and entry.is_file()]
        others = _kinds([entry for entry in entries if entry not in found])
        if not found:
            there = f" ({others} passed over)" if others else ""
            raise UserError(f"{path}: no image in this folder{there}; expected one of {', '.join(SUFFIXES)}")
        if others:
            passed_over[path] = others
        files += found
    once = {file.resolve(): file for file in reversed(files)}
    return Listing([file for file in files if once.pop(file.resolve(), None)], passed_over)


def predict_files(
    predictor: Predictor,
    files: Sequence[Path],
    out: Path,
    *,
    batch_size: int = 1,
    overwrite: bool = False,
    console: Console,
) -> Outcome:
    """Segment files and write the results of each.

    Args:
        predictor: the model.
        files: different images.
        out: folder of the results; those of the same image content by the same model, rules and version stay.
        batch_size: images of one size, one after the other, that pass through the network together.
        overwrite: replace results of another origin.
        console: where progress is drawn, one line per image where it is no terminal.

    Raises:
        UserError: `out` holds other results that would be replaced, two images have one name, or the batch size is
            below 1.
    """
    if batch_size < 1:
        raise UserError(f"--batch-size must be 1 or more, got {batch_size}")
    journal = Journal(out, origin_of(predictor))
    names = journal.names(files, overwrite=overwrite)
    outcome, batch = Outcome(), list[_Read]()
    for file in track(files, "predicting", console=console, disable=not console.is_terminal):
        digest = digest_of(file)
        if journal.is_done(names[file], digest):
            outcome.skipped += 1
            continue
        try:
            image = as_image(file)
        except Exception as error:
            outcome.failed[file] = _reason(error)
            continue
        if batch and (len(batch) == batch_size or batch[0].image.shape != image.shape):
            _segment(predictor, batch, journal, outcome, console)
            batch = []
        batch.append(_Read(file, names[file], digest, image))
    if batch:
        _segment(predictor, batch, journal, outcome, console)
    return outcome


def _segment(
    predictor: Predictor, batch: list[_Read], journal: Journal, outcome: Outcome, console: Console
) -> None:
    """Predict and write images of one size; each alone where they fail together, to learn which it is."""
    try:
        predictions = predictor.predict_batch(
            [read.image for read in batch], keep_embedding=False, paint_embedding=True
        )
    except Exception as error:
        if len(batch) == 1:
            outcome.failed[batch[0].file] = _reason(error)
        else:
            for one in batch:
                _segment(predictor, [one], journal, outcome, console)
        return
    for read, prediction in zip(batch, predictions, strict=True):
        try:
            again = journal.begin(read.name)
            pictures = predictor.task.pictures(prediction)
            written = write_prediction(
                journal.folder, read.name, read.image, prediction, pictures, predictor.classes
            )
            journal.end(read.name, read.file, read.digest, written.values())
        except Exception as error:
            outcome.failed[read.file] = _reason(error)
            continue
        outcome.done += 1
        outcome.again += again
        line = f"{read.file}: {predictor.task.describe(prediction, predictor.classes)} -> {written['labels']}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _kinds(entries: Sequence[Path]) -> str:
    """`3 .txt, 1 folder`: how many entries of which suffix."""
    counts = Counter(
        ("folder" if entry.is_dir() else entry.suffix.lower() or "without a suffix") for entry in entries
    )
    told = [
        f"{number} {'folders' if kind == 'folder' and number > 1 else kind}"
        for kind, number in counts.most_common(_MOST_SUFFIXES)
    ]
    rest = counts.total() - sum(number for _, number in counts.most_common(_MOST_SUFFIXES))
    return ", ".join([*told, *([f"{rest} others"] if rest else [])])


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
