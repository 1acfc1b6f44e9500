"""Whatever a user calls an image, as the tensor that the network takes: files, arrays and tensors.

Normalising its intensities is `preprocess.py`; formats of files are `data/reading.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as Pillow
from torch import Tensor

from .data import DataError, read_image
from .errors import UserError

Image: TypeAlias = "str | Path | NDArray[np.generic] | Tensor"
_ANIMATED_SUFFIXES = (".avif", ".gif", ".webp")
"""Of formats that hold one image or an animation."""


def as_image(image: Image) -> Tensor:
    """A file, array or tensor as float32 `[3, H, W]` in 0..1."""
    if isinstance(image, (str, Path)):
        _require_one_frame(Path(image))
        return torch.from_numpy(read_image(Path(image)))
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise UserError(
                f"predict: a tensor image must be floating [3, H, W] in 0..1, got {image.dtype} {list(image.shape)}; "
                "pass a NumPy array for [H, W, 3]"
            )
        return image.float()
    array: NDArray[Any] = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[:, :, None], 3, axis=2)
    described = f"{array.dtype} {list(array.shape)}"
    if array.ndim != 3 or array.shape[2] not in (3, 4) or array.size == 0:
        raise UserError(f"predict: an image array must be [H, W] or [H, W, 3] with pixels, got {described}")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0.0 and array.max() <= 1.0):
            raise UserError(
                f"predict: a floating image must be finite in 0..1, got {described} from {array.min():g} to "
                f"{array.max():g}; divide it by its largest possible value"
            )
    elif array.dtype not in (np.uint8, np.uint16, np.bool_):
        raise UserError(
            f"predict: an image array must be uint8, uint16, bool or floating in 0..1, got {described}; "
            "convert it with .astype(np.uint8)"
        )
    scale = float(np.iinfo(array.dtype).max) if array.dtype.kind == "u" else 1.0
    planes = np.ascontiguousarray(array[:, :, :3].transpose(2, 0, 1), dtype=np.float32)
    return torch.from_numpy(planes / np.float32(scale))


def _require_one_frame(path: Path) -> None:
    """Refuse an animation; what cannot be opened is the reader's to tell."""
    if path.suffix.lower() not in _ANIMATED_SUFFIXES:
        return
    try:
        with Pillow.open(path) as picture:
            frames = int(getattr(picture, "n_frames", 1))
    except Exception:
        return
    if frames > 1:
        raise DataError(
            f"is an animation of {frames} frames", file=path, remedy="save each frame as an image of its own"
        )
