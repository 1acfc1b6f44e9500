"""Result files of `rpe predict`: label map (16-bit PNG), overlay, embedding as RGB, and objects as COCO RLE
JSON.

Only writes; what is in a prediction is `prediction.py`, and which files a task has `tasks/`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from .errors import UserError
from .metrics import encode_labels
from .prediction import Prediction
from .report import embedding_to_rgb, overlay

_MOST_LABELS = 2**16 - 1
_MOST_PIXELS = 4096
"""Longer side of overlay and embedding pictures."""


def write_prediction(folder: Path, name: str, image: Tensor, prediction: Prediction) -> dict[str, Path]:
    """Write the files of one image.

    Args:
        folder: where to; created.
        name: stem of the files.
        image: `[3, H, W]` in 0..1, the overlay's ground.
        prediction: its objects.

    Returns:
        Paths by role: labels, overlay, objects, and embedding where the prediction has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = {
        "labels": write_label_map(folder / f"{name}.labels.png", prediction.labels),
        "overlay": write_overlay(folder / f"{name}.overlay.png", image, prediction.labels),
        "objects": folder / f"{name}.objects.json",
    }
    if prediction.embedding.size:
        paths["embedding"] = write_embedding(folder / f"{name}.embedding.png", prediction)
    paths["objects"].write_text(json.dumps(coco_objects(name, prediction)), encoding="utf-8")
    return paths


def write_label_map(path: Path, labels: NDArray[np.integer]) -> Path:
    """`[H, W]` as a 16-bit PNG."""
    if labels.max(initial=0) > _MOST_LABELS:
        raise UserError(
            f"{path}: {labels.max()} objects do not fit a 16-bit label map; raise decode.min_size"
        )
    Image.fromarray(labels.astype(np.uint16)).save(path)
    return path


def write_overlay(path: Path, image: Tensor, labels: NDArray[np.integer]) -> Path:
    """Contours and tints over the image `[3, H, W]`; of a very large one every n-th pixel."""
    step = _thinning(labels)
    Image.fromarray(overlay(image[:, ::step, ::step], labels[::step, ::step])).save(path)
    return path


def write_embedding(path: Path, prediction: Prediction) -> Path:
    """The embedding as colours, at the size of the overlay."""
    colours = np.asarray(embedding_to_rgb(prediction.embedding))
    step = _thinning(prediction.labels)
    height, width = prediction.labels[::step, ::step].shape
    size = (width, height)
    Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).save(path)
    return path


def coco_objects(name: str, prediction: Prediction) -> list[dict[str, Any]]:
    """COCO results: one entry per object with `segmentation` (compressed RLE), `bbox` (x, y, width, height),
    `area` and `score`.
    """
    codes = prediction.proposals
    if codes is None:
        codes = tuple(encode_labels(prediction.labels, range(1, len(prediction.scores) + 1)))
    kinds = [1] * len(codes) if prediction.classes is None else prediction.classes.tolist()
    objects = []
    for index, (code, kind, score) in enumerate(zip(codes, kinds, prediction.scores, strict=True), start=1):
        objects.append(
            {
                "image_id": name,
                "category_id": kind,
                "id": index,
                "segmentation": {
                    "size": [int(side) for side in code["size"]],
                    "counts": code["counts"].decode("ascii"),
                },
                "bbox": [float(value) for value in coco_mask.toBbox(code)],
                "area": int(coco_mask.area(code)),
                "score": round(float(score), 6),
            }
        )
    return objects


def _thinning(labels: NDArray[np.integer]) -> int:
    """Every how many pixels of a label map its pictures show."""
    return -(-max(labels.shape) // _MOST_PIXELS)
