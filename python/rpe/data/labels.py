"""Format `labels`: ROOT/images with pictures, ROOT/labels with 16-bit PNG or integer TIFF label maps of the same stems.

0 is background, every other number one instance (gaps are fine). A split reads ROOT/<split>.txt with one stem per line.
This is the format to convert other data to; it knows no kinds.
"""

from __future__ import annotations

from pathlib import Path

import torch

from .dataset import Dataset
from .reading import IMAGE_SUFFIXES, LABEL_SUFFIXES, read_image, read_label_map
from .registry import register
from .sample import DataError, Problem, Sample
from .splits import existing_root, select_split


@register("labels")
class Labels(Dataset):
    """Pictures and label maps, paired by their names without the suffix."""

    def __init__(self, root: str, split: str | None = None, *, strict: bool = True) -> None:
        super().__init__(root, split)
        folder = existing_root(root, self.format)
        images, image_problems = _files_by_stem(folder / "images", IMAGE_SUFFIXES)
        labels, label_problems = _files_by_stem(folder / "labels", LABEL_SUFFIXES)
        self.structure_problems = image_problems + label_problems
        for stem in sorted(images.keys() - labels.keys()):
            self.structure_problems.append(
                Problem(
                    str(images[stem]),
                    "the image has no label map",
                    f"add {folder / 'labels' / stem}.png or .tif, or remove the image",
                )
            )
        for stem in sorted(labels.keys() - images.keys()):
            self.structure_problems.append(
                Problem(
                    str(labels[stem]), "the label map has no image", f"add its image to {folder / 'images'}"
                )
            )
        pairs = {stem: (images[stem], labels[stem]) for stem in sorted(images.keys() & labels.keys())}
        self.names, split_problems = select_split(folder, split, list(pairs))
        self._files = [pairs[name] for name in self.names]
        self.structure_problems += split_problems
        if strict:
            self._raise_first_problem()

    def _load(self, index: int) -> tuple[Sample, list[Problem]]:
        image_file, label_file = self._files[index]
        image = read_image(image_file)
        label = read_label_map(label_file)
        if label.shape != image.shape[1:]:
            raise DataError(
                f"the label map is {label.shape[1]} x {label.shape[0]} pixels, "
                f"its image {image_file.name} is {image.shape[2]} x {image.shape[1]}",
                file=label_file,
                remedy="restore the label map that belongs to this image",
            )
        return Sample(torch.from_numpy(image), torch.from_numpy(label), self.names[index]), []


def _files_by_stem(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[Problem]]:
    """Files of one folder by stem, and every entry that cannot be used. Hidden entries are no data."""
    if not folder.is_dir():
        raise DataError("no such folder", file=folder, remedy="the format is ROOT/images and ROOT/labels")
    files: dict[str, Path] = {}
    problems = []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if not entry.is_file() or entry.suffix.lower() not in suffixes:
            problems.append(
                Problem(
                    str(entry), f"not one of {', '.join(suffixes)}, not read", "convert it or move it away"
                )
            )
        elif entry.stem in files:
            problems.append(
                Problem(
                    str(entry), f"has the same stem as {files[entry.stem].name}", "keep one of the two files"
                )
            )
        else:
            files[entry.stem] = entry
    if not files and not problems:
        raise DataError(
            "the folder is empty", file=folder, remedy=f"put files with {', '.join(suffixes)} into it"
        )
    return files, problems
