"""The annotations of the Semantic Boundaries Dataset (SBD) for images of PASCAL VOC: `inst/*.mat` and `cls/*.mat`.

GTinst holds instances 1..K with one category each, GTcls the class of every pixel; both 0 where there is background.
Part of format `voc` (`voc.py`), which decides when they are used.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .matlab import label_field, read_structs
from .sample import DataError

_FOLDERS = ("benchmark_RELEASE/dataset", "dataset", "")


def find_sbd(root: Path) -> Path | None:
    """The folder with img/, cls/ and inst/, or None."""
    return next((root / inside for inside in _FOLDERS if (root / inside / "inst").is_dir()), None)


def read_sbd(folder: Path, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Instances and classes of one image, each int64 `[H, W]`.

    Raises:
        DataError: a file is missing or damaged, or the two do not belong together.
    """
    instance_file, class_file = folder / "inst" / f"{name}.mat", folder / "cls" / f"{name}.mat"
    (instance, *_), (semantic, *_) = (
        read_structs(instance_file, "GTinst"),
        read_structs(class_file, "GTcls"),
    )
    instances = label_field(instance_file, instance, "Segmentation")
    classes = label_field(class_file, semantic, "Segmentation")
    if instances.shape != classes.shape:
        raise DataError(
            f"its map is {instances.shape[1]} x {instances.shape[0]} pixels, "
            f"that of {class_file} is {classes.shape[1]} x {classes.shape[0]}",
            file=instance_file,
            remedy="copy both files again from the benchmark",
        )
    categories = label_field(instance_file, instance, "Categories").ravel()
    numbers = np.unique(instances[instances > 0])
    if numbers.size and int(numbers[-1]) > categories.size:
        raise DataError(
            f"has an instance {int(numbers[-1])} but only {categories.size} categories",
            file=instance_file,
            remedy="copy the file again from the benchmark",
        )
    return instances, classes
