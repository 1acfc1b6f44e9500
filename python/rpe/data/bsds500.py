"""Format `bsds500`: the Berkeley Segmentation Data Set, every image cut into regions by several annotators.

data/images/<split>/<id>.jpg and data/groundTruth/<split>/<id>.mat, with or without BSDS500/ or BSR/BSDS500/ above.
Regions cover the image: there is no background. All annotators stand in the sample; training takes one of them at
random for every view (`augment`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .dataset import Dataset
from .listing import list_files
from .matlab import label_field, read_structs
from .reading import read_image
from .registry import register
from .sample import DataError, Problem, Sample
from .splits import existing_root

_SPLITS = ("train", "val", "test")
_FOLDERS = ("", "data", "BSDS500/data", "BSR/BSDS500/data")


@register("bsds500")
class Bsds500(Dataset):
    """Regions by several annotators; split trainval is train and val, None everything.

    The label map is that of the annotator with the median number of regions (the lower one of two, the first of
    equals): the same for every reading.
    """

    has_background = False
    streams = True

    def __init__(self, root: str, split: str | None = None, *, strict: bool = True) -> None:
        super().__init__(root, split)
        folder = existing_root(root, self.format)
        tree = next((folder / inside for inside in _FOLDERS if (folder / inside / "images").is_dir()), None)
        if tree is None:
            raise DataError(
                "there is no folder data/images in it",
                file=folder,
                remedy="give the folder that holds BSDS500/data/images and BSDS500/data/groundTruth",
            )
        present = [name for name in _SPLITS if (tree / "images" / name).is_dir()]
        wanted = {None: present or ["train"], "trainval": ["train", "val"]}.get(split, [str(split)])
        for name in wanted:
            if name not in present:
                raise DataError(
                    "no such folder",
                    file=tree / "images" / name,
                    remedy=f"use one of the splits {', '.join(present or _SPLITS)}",
                )
        self._files: list[tuple[Path, Path]] = []
        for name in wanted:
            self._add_split(tree / "images" / name, tree / "groundTruth" / name)
        if strict:
            self._raise_first_problem()

    def _load(self, index: int) -> tuple[Sample, list[Problem]]:
        image_file, truth_file = self._files[index]
        image = read_image(image_file)
        annotations, boundaries = [], []
        for struct in read_structs(truth_file, "groundTruth"):
            annotations.append(label_field(truth_file, struct, "Segmentation"))
            boundaries.append(label_field(truth_file, struct, "Boundaries") > 0)
        for values in (*annotations, *boundaries):
            if values.shape != image.shape[1:]:
                raise DataError(
                    f"a map in it is {values.shape[1]} x {values.shape[0]} pixels, "
                    f"its image {image_file.name} is {image.shape[2]} x {image.shape[1]}",
                    file=truth_file,
                    remedy="restore the file that belongs to this image",
                )
        problems = [
            Problem(
                str(truth_file),
                f"annotator {number} leaves {int((annotation == 0).sum())} pixels without a region: "
                "they form one more",
                "regions are numbered from 1; copy the file again from the benchmark",
            )
            for number, annotation in enumerate(annotations, start=1)
            if (annotation == 0).any()
        ]
        maps = tuple(torch.from_numpy(annotation) for annotation in annotations)
        sample = Sample(
            torch.from_numpy(image),
            maps[_median_annotator(annotations)],
            self.names[index],
            annotations=maps,
            boundaries=tuple(torch.from_numpy(boundary) for boundary in boundaries),
        )
        return sample, problems

    def _add_split(self, images: Path, truths: Path) -> None:
        """Pair the files of one split by their names."""
        found, image_problems = list_files(images, ".jpg")
        truth, truth_problems = list_files(truths, ".mat")
        self.structure_problems += image_problems + truth_problems
        for stem in sorted(found.keys() | truth.keys(), key=lambda stem: (len(stem), stem)):
            if stem not in truth:
                self._report(found[stem], f"the image has no annotation {truths / stem}.mat")
            elif stem not in found:
                self._report(truth[stem], f"the annotation has no image {images / stem}.jpg")
            elif stem in self.names:
                self._report(found[stem], "an image of this name is in another split already")
            else:
                self.names.append(stem)
                self._files.append((found[stem], truth[stem]))
        if not found and not truth:
            raise DataError("the folder holds no images", file=images, remedy="put <id>.jpg files into it")

    def _report(self, file: Path, message: str) -> None:
        self.structure_problems.append(
            Problem(str(file), message, "restore what is missing or move the file away")
        )


def _median_annotator(annotations: list[NDArray[np.int64]]) -> int:
    """Position of the annotator with the median number of regions."""
    regions = [int(np.count_nonzero(np.bincount(annotation.ravel()))) for annotation in annotations]
    return regions.index(sorted(regions)[(len(regions) - 1) // 2])
