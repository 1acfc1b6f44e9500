"""Result files of `rpe predict`: label map (16-bit PNG; int32 TIFF where it has more labels), overlay, embedding as
RGB, and objects as COCO RLE JSON.

Only writes; what is in a prediction is `prediction.py`, further pictures are those of the task (`tasks/`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from scipy.ndimage import find_objects
from torch import Tensor

from .classes import Classes
from .metrics.coco import encode_part
from .prediction import Prediction
from .report import embedding_to_rgb, overlay

_MOST_LABELS = 2**16 - 1
"""Of a 16-bit PNG."""
_MOST_PIXELS = 4096
"""Longer side of overlay and embedding pictures; those of larger images show every n-th pixel."""


def write_prediction(
    folder: Path,
    name: str,
    image: Tensor,
    prediction: Prediction,
    further: Mapping[str, NDArray[Any]] | None = None,
    classes: Classes | None = None,
) -> dict[str, Path]:
    """Write the files of one image.

    Args:
        folder: where to; created.
        name: stem of the files.
        image: `[3, H, W]` in 0..1, the overlay's ground.
        prediction: its objects.
        further: more pictures by role, uint8 or uint16.
        classes: names and category ids for the objects.

    Returns:
        Paths by role: labels, overlay, embedding (where the prediction has it), the further ones, objects.
    """
    folder.mkdir(parents=True, exist_ok=True)
    height, width = prediction.labels.shape
    step = -(-max(height, width) // _MOST_PIXELS)
    pictures: dict[str, NDArray[Any]] = {
        "overlay": overlay(image[:, ::step, ::step], prediction.labels[::step, ::step])
    }
    colours = prediction.embedding_rgb
    if colours is None and prediction.embedding.size:
        colours = embedding_to_rgb(prediction.embedding)
    if colours is not None:
        size = (pictures["overlay"].shape[1], pictures["overlay"].shape[0])
        pictures["embedding"] = np.asarray(Image.fromarray(colours).resize(size, Image.Resampling.NEAREST))
    pictures |= further or {}
    paths = {"labels": folder / f"{name}.labels.png"}
    if len(prediction.scores) > _MOST_LABELS:
        paths["labels"].unlink(missing_ok=True)  # of another prediction
        paths["labels"] = folder / f"{name}.labels.tif"
        tifffile.imwrite(paths["labels"], prediction.labels, compression="zlib")
    else:
        pictures["labels"] = prediction.labels.astype(np.uint16)
    for role, picture in pictures.items():
        paths[role] = folder / f"{name}.{role}.png"
        Image.fromarray(picture).save(paths[role])
    paths["objects"] = folder / f"{name}.objects.json"
    paths["objects"].write_text(json.dumps(coco_objects(name, prediction, classes)), encoding="utf-8")
    return paths


class ResultsFile:
    """COCO results of many images as one JSON list, written image by image: what `pycocotools.coco.COCO.loadRes` takes.
    The file is there once the `with` block has ended well.

    Args:
        path: the file.
        classes: of the data set that the results are for.
    """

    def __init__(self, path: Path, classes: Classes) -> None:
        self.path, self.classes = path, classes
        self._temporary = path.with_name(f".{path.name}.writing")
        self._count = 0

    def __enter__(self) -> ResultsFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._temporary, "w", encoding="utf-8")
        return self

    def add(self, image_id: int, prediction: Prediction) -> None:
        """Write the objects of one image."""
        for entry in coco_objects(str(image_id), prediction, self.classes):
            self._file.write(("[\n" if self._count == 0 else ",\n") + json.dumps(entry))
            self._count += 1

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self._file.write("[]\n" if self._count == 0 else "\n]\n")
        self._file.close()
        if kind is None:
            self._temporary.replace(self.path)
        else:
            self._temporary.unlink()


def coco_objects(name: str, prediction: Prediction, classes: Classes | None = None) -> list[dict[str, Any]]:
    """COCO results: one entry per object with `segmentation` (compressed RLE), `bbox` (x, y, width, height),
    `area`, `score`, `category_id`, and where the model says them `class` (its position) and `category` (its name). The
    time is that of the objects' boxes, not of a whole mask for each.

    `image_id` is the name, as a number where it is one: COCO's own images are called so.
    """
    height, width = prediction.labels.shape
    known = classes or Classes()
    objects = []
    for index, code in _codes(prediction):
        kind = None if prediction.classes is None else int(prediction.classes[index - 1])
        objects.append(
            {
                "image_id": int(name) if name.isdecimal() else name,
                "category_id": known.category_id(kind),
                **({} if kind is None else {"class": kind, "category": known.name(kind)}),
                "id": index,
                "segmentation": {"size": [height, width], "counts": code["counts"].decode("ascii")},
                "bbox": [float(value) for value in coco_mask.toBbox(code)],
                "area": int(coco_mask.area(code)),
                "score": float(str(prediction.scores[index - 1])),  # the shortest that float32 reads back
            }
        )
    return objects


def _codes(prediction: Prediction) -> Iterator[tuple[int, dict[str, Any]]]:
    """Number and compressed run-length code of each object; labels without a pixel are left out."""
    if prediction.proposals is not None:
        yield from enumerate(prediction.proposals, start=1)
        return
    for index, box in enumerate(find_objects(prediction.labels), start=1):
        if box is not None:
            first = (box[0].start, box[1].start)
            yield index, encode_part(prediction.labels[box] == index, first, prediction.labels.shape)
