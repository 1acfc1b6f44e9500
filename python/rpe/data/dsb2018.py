"""Format `dsb2018`: the tree of the Data Science Bowl 2018 (Kaggle), one folder per image, one mask file per nucleus.

ROOT/stage1_train/<id>/ or ROOT/<id>/, each with images/<id>.png and masks/*.png. A split reads ROOT/<split>.txt.
Label maps are built from the masks once and kept as int32 (4 bytes a pixel; 256 MB at most per process, the least
recently used go first), because thousands of small mask files are what takes the time.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .cache import ArrayCache
from .dataset import Dataset
from .reading import read_image, read_mask
from .registry import register
from .sample import DataError, Problem, Sample
from .splits import existing_root, select_split

_CACHE_BYTES = 256 * 2**20
_OVERLAP_PIXELS = 8
"""Two masks may share this many pixels before it is worth a word: contours drawn by hand touch."""
_DARK_MEDIAN = 0.5
_GREY_SPREAD = 0.03


@register("dsb2018")
class Dsb2018(Dataset):
    """Nuclei with one mask file each; label k is the k-th mask in order of file names, 0 is background.

    Where masks overlap the first one keeps the pixel. `kind` is told by `kind_of_image`.
    """

    def __init__(self, root: str, split: str | None = None, *, strict: bool = True) -> None:
        super().__init__(root, split)
        folder = existing_root(root, self.format)
        tree = folder / "stage1_train"
        self._tree = tree if tree.is_dir() else folder
        found, self.structure_problems = _scan(self._tree, is_root=self._tree == folder)
        self.names, split_problems = select_split(folder, split, found)
        self.structure_problems += split_problems
        self._labels = ArrayCache(_CACHE_BYTES)
        self._label_problems: dict[str, list[Problem]] = {}
        if strict:
            self._raise_first_problem()

    def _load(self, index: int) -> tuple[Sample, list[Problem]]:
        name = self.names[index]
        folder = self._tree / name
        image = read_image(folder / "images" / f"{name}.png")
        label = self._labels.get(name)
        if label is None:
            label, self._label_problems[name] = _read_masks(folder / "masks", image.shape[1:])
            self._labels.put(name, label)
        sample = Sample(
            torch.from_numpy(image), torch.from_numpy(label.astype(np.int64)), name, kind_of_image(image)
        )
        return sample, self._label_problems[name]


def kind_of_image(image: NDArray[np.float32]) -> str:
    """Kind of microscopy, from the pixels of an image `[3, H, W]` in 0..1.

    "fluorescence": dark ground (median brightness below 0.5); otherwise "stained" where the channels differ (mean of
    the largest minus the smallest above 0.03), else "brightfield". On the Kaggle images the three are far apart:
    median at most 0.16 against at least 0.63, channel difference 0 against at least 0.1.
    """
    if float(np.median(image)) < _DARK_MEDIAN:
        return "fluorescence"
    spread = float((image.max(axis=0) - image.min(axis=0)).mean())
    return "stained" if spread > _GREY_SPREAD else "brightfield"


def _scan(tree: Path, *, is_root: bool) -> tuple[list[str], list[Problem]]:
    """Names of the complete image folders, and what is incomplete. Hidden entries and files of the root are no data."""
    names, problems = [], []
    for entry in sorted(tree.iterdir()):
        if entry.name.startswith(".") or (is_root and not entry.is_dir()):
            continue
        if not entry.is_dir():
            problems.append(
                Problem(str(entry), "a file among the image folders", "move it out of this folder")
            )
        elif not (entry / "images" / f"{entry.name}.png").is_file():
            problems.append(
                Problem(
                    str(entry), f"has no images/{entry.name}.png", "restore the image or remove the folder"
                )
            )
        elif not (entry / "masks").is_dir():
            problems.append(
                Problem(
                    str(entry / "images" / f"{entry.name}.png"),
                    "the image has no labels: there is no masks folder beside it",
                    "restore masks/*.png or remove the image (the contest's test set has no masks)",
                )
            )
        else:
            names.append(entry.name)
    if not names and not any((entry / "images").is_dir() for entry in tree.iterdir()):
        raise DataError(
            "the folder holds no images",
            file=tree,
            remedy="expected stage1_train/<id>/images/<id>.png or <id>/images/<id>.png in it",
        )
    return names, problems


def _read_masks(folder: Path, size: tuple[int, ...]) -> tuple[NDArray[np.int32], list[Problem]]:
    """All masks of one image as a label map int32 `[H, W]`."""
    label = np.zeros(size, dtype=np.int32)
    problems = []
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    files = [entry for entry in entries if entry.suffix.lower() == ".png"]
    problems += [
        Problem(str(entry), "not a PNG mask, not read", "move it out of the masks folder")
        for entry in entries
        if entry not in files
    ]
    if not files:
        problems.append(
            Problem(
                str(folder),
                "the folder holds no masks: the image counts as pure background",
                "restore the masks; an image without nuclei has one mask file without pixels",
            )
        )
    for number, file in enumerate(files, start=1):
        mask_size, (top, left), window = read_mask(file)
        if mask_size != tuple(size):
            raise DataError(
                f"the mask is {mask_size[1]} x {mask_size[0]} pixels, its image is {size[1]} x {size[0]}",
                file=file,
                remedy="restore the mask that belongs to this image",
            )
        if window.size == 0:
            if len(files) > 1:
                problems.append(Problem(str(file), "the mask has no pixels", "remove the file"))
            continue
        target = label[top : top + window.shape[0], left : left + window.shape[1]]
        overlap = int(np.count_nonzero(window & (target != 0)))
        if overlap > _OVERLAP_PIXELS:
            problems.append(
                Problem(
                    str(file),
                    f"the mask shares {overlap} pixels with earlier masks, which keep them",
                    "draw the nuclei without overlap",
                )
            )
        target[window & (target == 0)] = number
    return label, problems
