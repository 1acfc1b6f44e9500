"""Format `coco`: instances in COCO's JSON, with polygons or either RLE form; crowds are ignored.

ROOT/annotations/instances_<split>.json with pictures in ROOT/<split>/, or one JSON in ROOT with pictures in
ROOT/images/ or beside it, or ROOT is the JSON itself. Split "train" also means instances_train2017.json where that is
the only match; with a single JSON a split reads ROOT/<split>.txt. Masks are decoded when their image is read.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from .coco_files import base_folder, find_images, find_jsons
from .coco_index import CocoImage, CocoIndex, open_index
from .dataset import Dataset
from .reading import read_image
from .registry import register
from .run_lengths import encode_runs, pixels_inside, run_lengths
from .sample import IGNORE, DataError, Problem, Sample
from .splits import select_split


class _Entry(NamedTuple):
    """Where an image comes from: its JSON, its number there, its folder."""

    source: int
    number: int
    folder: Path


class _Mask(NamedTuple):
    """One annotation with its mask as run lengths."""

    annotation: dict[str, Any]
    runs: NDArray[np.int64]
    is_crowd: bool


@register("coco")
class Coco(Dataset):
    """Pictures with COCO instances; label k is the k-th annotation of its image that is no crowd.

    Where masks overlap the smaller one keeps the pixel (of equals the later one): large things are painted first, so
    that what lies on them stays. Pixels that only a crowd covers are IGNORE in the label and in the semantic map.

    Attributes:
        category_ids: of class k in the JSON, at position k - 1.
    """

    streams = True

    def __init__(self, root: str, split: str | None = None, *, strict: bool = True) -> None:
        super().__init__(root, split)
        jsons, self._is_listed = find_jsons(root, split)
        self._indices = [open_index(path) for path in jsons]
        self.structure_problems = [problem for index in self._indices for problem in index.problems]
        self._set_classes()
        self._entries: dict[str, _Entry] = {}
        for source, index in enumerate(self._indices):
            self._add_images(source, index)
        if self._is_listed and split is not None:
            self.names, problems = select_split(base_folder(root), split, list(self._entries))
            self.structure_problems += problems
        else:
            self.names = list(self._entries)
        if strict:
            self._raise_first_problem()

    def image_id(self, index: int) -> int:
        """Id of an image in its JSON."""
        entry = self._entries[self.names[index]]
        return self._indices[entry.source].images[entry.number].id

    def ground_truth(self, index: int) -> list[dict[str, Any]]:
        """The annotations of an image with their masks as drawn, overlaps and crowds included: what COCO's own
        evaluation compares with.

        Returns:
            Dicts with id, category_id (of the JSON), iscrowd, area in pixels, bbox `[x, y, width, height]`, and the
            mask as pycocotools' compressed RLE under "segmentation".
        """
        entry = self._entries[self.names[index]]
        image = self._indices[entry.source].images[entry.number]
        height, width = image.height, image.width
        if not height or not width:
            height, width = read_image(entry.folder / image.file_name).shape[1:]
        found = []
        for mask in self._masks(entry, height, width)[0]:
            rle = encode_runs(mask.runs, height, width)
            found.append(
                {
                    "id": mask.annotation["id"],
                    "category_id": mask.annotation["category_id"],
                    "iscrowd": int(mask.is_crowd),
                    "area": int(coco_mask.area(rle)),
                    "bbox": [float(value) for value in coco_mask.toBbox(rle)],
                    "segmentation": rle,
                }
            )
        return found

    def _load(self, index: int) -> tuple[Sample, list[Problem]]:
        name = self.names[index]
        entry = self._entries[name]
        json_image = self._indices[entry.source].images[entry.number]
        file = entry.folder / json_image.file_name
        image = read_image(file)
        height, width = image.shape[1:]
        self._require_size(entry, json_image, file, height, width)
        masks, problems = self._masks(entry, height, width)
        label, instance_class, hidden = self._paint(masks, height, width)
        problems += [
            self._problem(entry, mask.annotation, "has no pixels that can be seen") for mask in hidden
        ]
        of_label = np.zeros(len(masks) + 2, dtype=np.int64)
        of_label[list(instance_class)] = list(instance_class.values())
        of_label[IGNORE] = IGNORE
        sample = Sample(
            torch.from_numpy(image),
            torch.from_numpy(label),
            name,
            semantic=torch.from_numpy(of_label[label]),
            instance_class=instance_class,
        )
        return sample, problems

    def _paint(
        self, masks: list[_Mask], height: int, width: int
    ) -> tuple[NDArray[np.int64], dict[int, int], list[_Mask]]:
        """Label map `[H, W]`, the class of every label that is in it, and the masks without a pixel in it."""
        columns = np.zeros(width * height, dtype=np.int64)
        instances = [mask for mask in masks if not mask.is_crowd]
        for mask in masks:
            if mask.is_crowd:
                columns[pixels_inside(mask.runs)] = IGNORE
        areas = [int(mask.runs[1::2].sum()) for mask in instances]
        for place in sorted(range(len(instances)), key=lambda place: -areas[place]):
            columns[pixels_inside(instances[place].runs)] = place + 1
        visible = np.bincount(columns + 1, minlength=len(instances) + 2)[2:] > 0
        classes = {
            place + 1: 1 + self.category_ids.index(mask.annotation["category_id"])
            for place, mask in enumerate(instances)
            if visible[place]
        }
        hidden = [mask for place, mask in enumerate(instances) if not visible[place]]
        return np.ascontiguousarray(columns.reshape(width, height).T), classes, hidden

    def _masks(self, entry: _Entry, height: int, width: int) -> tuple[list[_Mask], list[Problem]]:
        """Every annotation of an image, decoded, and what is wrong with them without making them useless."""
        masks, problems = [], []
        for annotation in self._indices[entry.source].annotations(entry.number):
            segmentation = annotation.get("segmentation")
            if isinstance(segmentation, list):
                polygons = [part for part in segmentation if not isinstance(part, list) or len(part) >= 6]
                if polygons and len(polygons) < len(segmentation):
                    problems.append(
                        self._problem(entry, annotation, "has a polygon of fewer than three points")
                    )
                    segmentation = polygons
            try:
                runs = run_lengths(segmentation, height, width)
            except ValueError as error:
                raise self._problem(entry, annotation, f"cannot be used: {error}").error() from error
            masks.append(_Mask(annotation, runs, bool(annotation.get("iscrowd", 0))))
        return masks, problems

    def _problem(self, entry: _Entry, annotation: dict[str, Any], message: str) -> Problem:
        index = self._indices[entry.source]
        image = index.images[entry.number]
        text = f"annotation {annotation['id']} of image {image.id} ({image.file_name}) {message}"
        return Problem(str(index.path), text, "correct or remove the annotation")

    def _require_size(self, entry: _Entry, image: CocoImage, file: Path, height: int, width: int) -> None:
        wanted = (image.height or height, image.width or width)
        if wanted != (height, width):
            raise DataError(
                f"the image is {width} x {height} pixels, {self._indices[entry.source].path.name} says "
                f"{wanted[1]} x {wanted[0]}",
                file=file,
                remedy="restore the image that the annotations were drawn on",
            )

    def _set_classes(self) -> None:
        """Classes in ascending order of their ids; all files must agree."""
        first = self._indices[0]
        for index in self._indices[1:]:
            if (index.category_ids, index.category_names) != (first.category_ids, first.category_names):
                raise DataError(
                    f"its categories are not those of {first.path.name}",
                    file=index.path,
                    remedy="open one of the two files by its path, or give them the same categories",
                )
        self.category_ids = first.category_ids
        self.classes = ("background", *first.category_names)

    def _add_images(self, source: int, index: CocoIndex) -> None:
        """Note every image whose file is there."""
        folder = find_images(index, base_folder(self.root))
        listing = set(os.listdir(folder))
        for number, image in enumerate(index.images):
            name = str(Path(image.file_name).with_suffix(""))
            message = ""
            if image.file_name not in listing and not (folder / image.file_name).is_file():
                message = f"image {image.id} is not there: {folder / image.file_name}"
            elif name in self._entries:
                message = f"image {image.id} has the name {name}, which another image has already"
            if message:
                self.structure_problems.append(
                    Problem(str(index.path), message, "restore the image or take it out of the file")
                )
            else:
                self._entries[name] = _Entry(source, number, folder)
