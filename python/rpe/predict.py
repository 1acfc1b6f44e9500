"""A trained model as an object that segments images: `rpe.load(checkpoint).predict(image)`.
 It joins preprocessing, the network (in overlapping tiles where an image is large) and `decode.py`. Writing
result files is `export.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import rpe_ops

from . import tasks
from .build import build_model
from .checkpoint import load_weights, read_checkpoint
from .config import Config, DecodeConfig
from .data import read_image
from .decode import trajectory
from .errors import UserError
from .model import RPE, Output
from .prediction import Prediction
from .preprocess import preprocess

_TILE = 1024
"""Side in pixels up to which an image passes through the network at once."""
_CONTEXT = 128
"""Pixels around a tile that the network sees too."""


class Predictor:
    """A network with the settings that turn its output into objects.

    Args:
        model: the network.
        config: preprocessing and decoding rules.
        device: where to run.
    """

    def __init__(self, model: RPE, config: Config, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device).eval()
        self.config, self.device = config, torch.device(device)
        self.task = tasks.get(config.task)

    def predict(
        self, image: str | Path | NDArray[np.generic] | Tensor, *, num_steps: int | None = None
    ) -> Prediction:
        """Segment one image.

        Args:
            image: a file, `[H, W]` or `[H, W, 3]` array (integers are divided by their type's maximum), or a
                tensor `[3, H, W]` in 0..1.
            num_steps: mean-shift steps, in place of the config's.

        Raises:
            DataError: the file cannot be read.
            UserError: the array is not an image.
        """
        tensor = as_image(image)
        return self.decode(self.embed(tensor), (tensor.shape[1], tensor.shape[2]), self._rules(num_steps))

    def decode(self, output: Output, size: tuple[int, int], rules: DecodeConfig) -> Prediction:
        """Objects from the network output of one image of `size` (H, W)."""
        return self.task.decode(output, size, self.model.grouping, rules)

    def trajectory(self, image: Tensor, *, num_steps: int | None = None) -> list[NDArray[np.float32]]:
        """Embeddings `[D, h, w]` of an image `[3, H, W]` before grouping and after each step, NaN in the
        background.
        """
        output = self.embed(image)
        if not self.task.groups:
            return [output.embedding[0].cpu().numpy()]
        foreground = self.task.foreground(output)
        size = (image.shape[1], image.shape[2])
        maps = trajectory(output.embedding[0], foreground, size, self.model.grouping, self._rules(num_steps))
        return [step.cpu().numpy() for step in maps]

    def _rules(self, num_steps: int | None) -> DecodeConfig:
        rules = self.config.decode
        if num_steps is None:
            return rules
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 0:
            raise UserError(f"num_steps must be a whole number of steps, 0 or more, got {num_steps!r}")
        return replace(rules, num_steps=num_steps)

    @torch.no_grad()
    def embed(self, image: Tensor) -> Output:
        """Network output of one image `[3, H, W]`, preprocessed as in training; tiled where it is large."""
        batch = preprocess(image.to(self.device), self.config.model)[None]
        height, width = batch.shape[-2:]
        if max(height, width) <= _TILE + 2 * _CONTEXT:
            output: Output = self.model(batch)
            return output
        stride = self.model.output_stride
        rows, columns = -(-height // stride), -(-width // stride)
        whole: dict[str, Tensor] = {}
        for (top, bottom, above), (left, right, before) in _tiles(height, width):
            view = batch[..., above : bottom + _CONTEXT, before : right + _CONTEXT]
            part: Output = self.model(view, (above, before))
            inner = (
                ...,
                slice((top - above) // stride, (top - above) // stride - (-(bottom - top) // stride)),
                slice((left - before) // stride, (left - before) // stride - (-(right - left) // stride)),
            )
            outer = (
                ...,
                slice(top // stride, -(-bottom // stride)),
                slice(left // stride, -(-right // stride)),
            )
            for name, values in part._asdict().items():
                if values is not None:
                    empty = values.new_empty(1, values.shape[1], rows, columns)
                    whole.setdefault(name, empty)[outer] = values[inner]
        return Output(**whole)


def load(checkpoint: str | Path, *, device: str = "auto", backbone: nn.Module | None = None) -> Predictor:
    """A `Predictor` from a checkpoint of `rpe train`.

    Args:
        checkpoint: model.pt or checkpoint.pt.
        device: where to run; "auto" takes a GPU where there is one.
        backbone: module for a checkpoint that was trained with one of your own.

    Raises:
        UserError: the file is missing, not a checkpoint, of a newer format or of another model.
    """
    content = read_checkpoint(checkpoint)
    config: Config = content["config"]
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if rpe_ops.available_backends(device).get(config.backend) is not None:
        config = replace(config, backend="auto")  # the backend it was trained with does not run here
    try:
        model = build_model(config, backbone)
    except ValueError as error:
        raise UserError(
            f"{checkpoint}: its model cannot be built: {error}; register the backbone or pass it to rpe.load"
        ) from error
    load_weights(model, content["model"], str(checkpoint))
    return Predictor(model, config, device)


def as_image(image: str | Path | NDArray[np.generic] | Tensor) -> Tensor:
    """A file, array or tensor as float32 `[3, H, W]` in 0..1."""
    if isinstance(image, (str, Path)):
        return torch.from_numpy(read_image(Path(image)))
    if isinstance(image, Tensor):
        if image.dim() != 3 or image.shape[0] != 3 or not image.is_floating_point():
            raise UserError(
                f"predict: a tensor image must be floating [3, H, W] in 0..1, got {image.dtype} {list(image.shape)}; "
                "pass a NumPy array for [H, W, 3]"
            )
        return image.float()
    array = np.asarray(image)
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


def _tiles(height: int, width: int) -> Iterator[tuple[tuple[int, int, int], tuple[int, int, int]]]:
    """(start, end, start of the context) along rows and along columns, for each tile."""
    for top in range(0, height, _TILE):
        for left in range(0, width, _TILE):
            yield (
                (top, min(top + _TILE, height), max(0, top - _CONTEXT)),
                (left, min(left + _TILE, width), max(0, left - _CONTEXT)),
            )
