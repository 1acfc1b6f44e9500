"""Format `voc`: PASCAL VOC 2012 segmentation, and the annotations of the Semantic Boundaries Dataset (SBD) beside it.

ROOT (or VOC2012, VOCdevkit/VOC2012 in it) has JPEGImages, SegmentationClass, SegmentationObject and lists in
ImageSets/Segmentation; SBD is benchmark_RELEASE/dataset, dataset or ROOT itself. Either is enough. Palette index 255
is IGNORE. An image with VOC's own annotation takes that one, except in the splits sbd_train and sbd_val.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .dataset import Dataset
from .listing import list_files
from .reading import read_image, read_label_map
from .registry import register
from .sample import IGNORE, DataError, Problem, Sample
from .sbd import find_sbd, read_sbd
from .splits import existing_root, read_split

CLASSES = (
    *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)
"""Classes of PASCAL VOC, at the numbers that its files use."""
_VOC_FOLDERS = ("", "VOC2012", "VOCdevkit/VOC2012")
_LISTS = Path("ImageSets") / "Segmentation"
_VOID = 255
_STRAY_PIXELS = 8
"""Pixels in which instances and classes may disagree before it is worth a word."""


@register("voc")
class Voc(Dataset):
    """VOC images with instances and classes.

    Splits: the lists in ImageSets/Segmentation (train, val, trainval, ...); sbd_train and sbd_val, the lists of SBD;
    train_aug, where no list has this name: everything in train, sbd_train and sbd_val that is not in val. With SBD
    alone train and val are its lists. None is every annotated image. ROOT/class_names.txt replaces `CLASSES`.
    """

    streams = True

    def __init__(self, root: str, split: str | None = None, *, strict: bool = True) -> None:
        super().__init__(root, split)
        folder = existing_root(root, self.format)
        trees = (folder / inside for inside in _VOC_FOLDERS)
        self._voc = next((tree for tree in trees if (tree / "SegmentationObject").is_dir()), None)
        self._sbd = find_sbd(folder)
        if self._voc is None and self._sbd is None:
            raise DataError(
                "there is no folder SegmentationObject (VOC) and no folder inst (SBD) in it",
                file=folder,
                remedy="give the folder VOC2012, or the one that holds benchmark_RELEASE",
            )
        self.classes = _class_names(folder)
        self._only_sbd = self._voc is None or (split or "").startswith("sbd_")
        voc_names = self._annotated(self._voc, ("SegmentationObject", "SegmentationClass"), ".png")
        sbd_names = self._annotated(self._sbd, ("inst", "cls"), ".mat")
        self._voc_names = frozenset(voc_names)
        known = sbd_names if self._only_sbd else list(dict.fromkeys(voc_names + sbd_names))
        self.names, split_problems = self._select(split, known)
        self.structure_problems += split_problems
        self._find_images()
        if strict:
            self._raise_first_problem()

    def _annotated(self, tree: Path | None, folders: tuple[str, str], suffix: str) -> list[str]:
        """Names of the images with both their files in the folders for instances and for classes."""
        if tree is None:
            return []
        instances, problems = list_files(tree / folders[0], suffix)
        classes, class_problems = list_files(tree / folders[1], suffix)
        self.structure_problems += problems + class_problems
        for stem in sorted(instances.keys() ^ classes.keys()):
            there, missing = (folders[0], folders[1]) if stem in instances else (folders[1], folders[0])
            self.structure_problems.append(
                Problem(
                    str(tree / missing / f"{stem}{suffix}"),
                    f"is not there, only the one in {there} is",
                    "restore it or remove the other",
                )
            )
        return [stem for stem in instances if stem in classes]

    def _select(self, split: str | None, known: list[str]) -> tuple[list[str], list[Problem]]:
        """Names of a split, all of them annotated."""
        if split is None:
            return known, []
        if split.startswith("sbd_") and self._sbd is not None:
            return read_split(self._sbd / f"{split.removeprefix('sbd_')}.txt", split, known)
        if self._voc is None and self._sbd is not None:
            return read_split(self._sbd / f"{split}.txt", split, known)
        lists = (self._voc or Path(self.root)) / _LISTS
        if split == "train_aug" and self._sbd is not None and not (lists / "train_aug.txt").is_file():
            parts = [lists / "train.txt", self._sbd / "train.txt", self._sbd / "val.txt"]
            read = [read_split(path, split, known) for path in parts]
            held_out = set(read_split(lists / "val.txt", split, known)[0])
            names = dict.fromkeys(name for names, _ in read for name in names)
            return [name for name in names if name not in held_out], [row for _, rows in read for row in rows]
        return read_split(lists / f"{split}.txt", split, known)

    def _find_images(self) -> None:
        """Leave out, and report, names without a picture. VOC's pictures without an annotation are for other tasks."""
        folders = [self._voc / "JPEGImages"] if self._voc is not None else []
        folders += [self._sbd / "img"] if self._sbd is not None else []
        pictures: dict[str, Path] = {}
        for folder in reversed(folders):
            files, problems = list_files(folder, ".jpg")
            pictures.update(files)
            self.structure_problems += problems
        for name in self.names:
            if name not in pictures:
                self.structure_problems.append(
                    Problem(
                        str(folders[0] / f"{name}.jpg"),
                        "the image is annotated and not there",
                        "restore it or remove its annotation",
                    )
                )
        self.names = [name for name in self.names if name in pictures]
        self._pictures = [pictures[name] for name in self.names]

    def _load(self, index: int) -> tuple[Sample, list[Problem]]:
        name, picture = self.names[index], self._pictures[index]
        image = read_image(picture)
        if self._voc is not None and not self._only_sbd and name in self._voc_names:
            file = self._voc / "SegmentationObject" / f"{name}.png"
            class_file = self._voc / "SegmentationClass" / f"{name}.png"
            instances, classes = read_label_map(file), read_label_map(class_file)
        else:
            assert self._sbd is not None
            file = class_file = self._sbd / "inst" / f"{name}.mat"
            instances, classes = read_sbd(self._sbd, name)
        for path, values in ((file, instances), (class_file, classes)):
            if values.shape != image.shape[1:]:
                raise DataError(
                    f"the map is {values.shape[1]} x {values.shape[0]} pixels, "
                    f"its image {picture.name} is {image.shape[2]} x {image.shape[1]}",
                    file=path,
                    remedy="restore the annotation that belongs to this image",
                )
        label, semantic, instance_class, problems = self._combine(instances, classes, file, class_file)
        sample = Sample(
            torch.from_numpy(image),
            torch.from_numpy(label),
            name,
            semantic=torch.from_numpy(semantic),
            instance_class=instance_class,
        )
        return sample, problems

    def _combine(
        self, instances: NDArray[np.int64], classes: NDArray[np.int64], file: Path, class_file: Path
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[int, int], list[Problem]]:
        """Label map, semantic map, class of every instance (that of most of its pixels), and disagreements.

        Void in either map is IGNORE in the label; so are pixels of a class without an instance, and instances without
        a class.
        """
        is_void = classes == _VOID
        semantic = np.where(is_void, IGNORE, classes)
        if semantic.max() >= len(self.classes):
            raise DataError(
                f"holds class {int(semantic.max())}, there are the classes 0 to {len(self.classes) - 1}",
                file=class_file,
                remedy="correct the map; other classes than VOC's are listed in ROOT/class_names.txt",
            )
        is_stray = (instances == 0) & (semantic > 0)
        label = np.where(is_void | (instances == _VOID) | is_stray, IGNORE, instances)
        inside = (label > 0) & (semantic >= 0)
        votes = np.zeros((int(label.max()) + 1, len(self.classes)), dtype=np.int64)
        np.add.at(votes, (label[inside], semantic[inside]), 1)
        foreground = votes[:, 1:]
        present = np.flatnonzero(votes.sum(axis=1))
        instance_class = {
            int(number): 1 + int(foreground[number].argmax())
            for number in present
            if foreground[number].any()
        }
        classless = [number for number in present if int(number) not in instance_class]
        label[np.isin(label, classless)] = IGNORE
        problems = [
            Problem(
                str(file), f"instance {number} has no class in {class_file.name}", "correct one of the maps"
            )
            for number in classless
        ]
        split = int(votes[present].sum() - sum(votes[number, c] for number, c in instance_class.items()))
        for count, what in (
            (split, "belong to an instance of another class"),
            (int(is_stray.sum()), "have a class and no instance, and are ignored"),
        ):
            if count > _STRAY_PIXELS:
                problems.append(Problem(str(file), f"{count} pixels {what}", "correct one of the maps"))
        return label, semantic, instance_class, problems


def _class_names(folder: Path) -> tuple[str, ...]:
    path = folder / "class_names.txt"
    if not path.is_file():
        return CLASSES
    names = path.read_text(encoding="utf-8", errors="replace").split("\n")
    names = [name.strip() for name in names if name.strip()]
    if len(names) < 2:
        raise DataError(
            "lists no classes", file=path, remedy="write one class per line, the background first"
        )
    return tuple(names)
