"""Result files of `rpe predict`: label map (16-bit PNG), overlay, embedding as RGB, and objects as COCO RLE
JSON.

Only writes; what is in a prediction is `predict.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco_mask
from torch import Tensor

from .errors import UserError
from .predict import Prediction
from .report import embedding_to_rgb, overlay

_MOST_LABELS = 2**16 - 1


def write_prediction(folder: Path, name: str, image: Tensor, prediction: Prediction) -> dict[str, Path]:
    """Write the files of one image.

    Args:
        folder: where to; created.
        name: stem of the files.
        image: `[3, H, W]` in 0..1, the overlay's ground.
        prediction: its objects.

    Returns:
        Paths by role: labels, overlay, embedding, objects.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if len(prediction.scores) > _MOST_LABELS:
        raise UserError(
            f"{name}: {len(prediction.scores)} objects do not fit a 16-bit label map; raise decode.min_size"
        )
    paths = {
        "labels": folder / f"{name}.labels.png",
        "overlay": folder / f"{name}.overlay.png",
        "embedding": folder / f"{name}.embedding.png",
        "objects": folder / f"{name}.objects.json",
    }
    Image.fromarray(prediction.labels.astype(np.uint16)).save(paths["labels"])
    Image.fromarray(overlay(image, prediction.labels)).save(paths["overlay"])
    colours = np.asarray(embedding_to_rgb(prediction.embedding))
    size = (prediction.labels.shape[1], prediction.labels.shape[0])
    Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).save(paths["embedding"])
    paths["objects"].write_text(json.dumps(coco_objects(name, prediction)), encoding="utf-8")
    return paths


def coco_objects(name: str, prediction: Prediction) -> list[dict[str, Any]]:
    """COCO results: one entry per object with `segmentation` (compressed RLE), `bbox` (x, y, width, height),
    `area` and `score`.
    """
    objects = []
    for index, score in enumerate(prediction.scores, start=1):
        mask = np.asfortranarray(prediction.labels == index, dtype=np.uint8)
        code = coco_mask.encode(mask)
        objects.append(
            {
                "image_id": name,
                "category_id": 1,
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
