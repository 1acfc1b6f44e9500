"""A trained model as an object that segments images: `rpe.load(checkpoint).predict(image)`.

It joins preprocessing, the network and the task's decoding. Where an image is large, both see one tile after the other
(`tiling.py`), and memory beyond the image and the result does not grow with the image. Writing result files is
`export.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import rpe_ops

from . import tasks
from .build import build_model
from .checkpoint import load_weights, read_checkpoint
from .classes import Classes
from .config import Config, DecodeConfig
from .decode import trajectory
from .errors import UserError
from .images import Image, as_image
from .limits import check_limits
from .model import RPE, Output
from .prediction import Prediction
from .preprocess import Stretch
from .reach import measured_reach
from .report import ColourBasis
from .settings import from_mapping, to_mapping
from .tiling import Tile, cells, samples, tile_sizes, tiles

_TILE = 1024
"""Side in pixels of the tiles of a large image."""
_CONTEXT = 128
"""Pixels that tiles see around their cores at least."""
_MOST_CONTEXT = 512
"""And at most for the sake of the network, wherever it may look: a tile is four times its core then."""
_SAMPLE, _MOST_SAMPLES = 256, 6
"""Side in pixels of the places that decide on the colours of a large image's embedding, and their number along an
axis."""


class Predictor:
    """A network with the settings that turn its output into objects.

    Args:
        model: the network.
        config: preprocessing and decoding rules.
        device: where to run.
        classes: names and category ids of the classes that it predicts.
    """

    def __init__(
        self,
        model: RPE,
        config: Config,
        device: str | torch.device = "cpu",
        classes: Classes | None = None,
    ) -> None:
        self.model, self.classes = model.to(device).eval(), classes or Classes()
        self.config, self.device = config, torch.device(device)
        self.task = tasks.get(config.task)

    def predict(
        self,
        image: Image,
        *,
        num_steps: int | None = None,
        keep_embedding: bool = True,
        paint_embedding: bool = False,
    ) -> Prediction:
        """Segment one image of any size.

        Args:
            image: a file, `[H, W]` or `[H, W, 3]` array (integers are divided by their type's maximum), or a
                tensor `[3, H, W]` in 0..1.
            num_steps: mean-shift steps, in place of the config's.
            keep_embedding: False leaves the result's embedding empty where the image is large.
            paint_embedding: where the image is large, give the embedding as a picture, in 3 bytes a cell.

        Raises:
            DataError: the file cannot be read.
            UserError: the array is not an image.
        """
        return self.predict_batch(
            [image], num_steps=num_steps, keep_embedding=keep_embedding, paint_embedding=paint_embedding
        )[0]

    def predict_batch(
        self,
        images: Sequence[Image],
        *,
        num_steps: int | None = None,
        keep_embedding: bool = True,
        paint_embedding: bool = False,
    ) -> list[Prediction]:
        """Segment images, as `predict` does each; those of one size pass through the network together."""
        rules, tensors = self._rules(num_steps), [as_image(image) for image in images]
        by_size: dict[torch.Size, list[int]] = {}
        for index, tensor in enumerate(tensors):
            by_size.setdefault(tensor.shape, []).append(index)
        found: dict[int, Prediction] = {}
        for (_, height, width), group in by_size.items():
            size, parts = (height, width), self._parts(height, width)
            if len(parts) == 1:
                outputs = self._network([tensors[index] for index in group], parts[0])
                for place, index in enumerate(group):
                    one = (None if maps is None else maps[place : place + 1] for maps in outputs)
                    found[index] = self.decode(Output(*one), size, rules)  # type: ignore[arg-type]
            else:
                for index in group:
                    found[index] = self._join(tensors[index], parts, rules, keep_embedding, paint_embedding)
        return [found[index] for index in range(len(tensors))]

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

    def embed(self, image: Tensor) -> Output:
        """Network output of one image `[3, H, W]`, preprocessed as in training; tiled where it is large."""
        parts, stretch = self._parts(image.shape[1], image.shape[2]), Stretch.of(image, self.config.model)
        if len(parts) == 1:
            return self._network([image], parts[0], stretch)
        maps: list[Tensor | None] = [None] * len(Output._fields)
        for tile in parts:
            output = self._network([image], tile, stretch)
            maps = [
                None if part is None else self._fill(whole, part, tile, image)
                for whole, part in zip(maps, output, strict=True)
            ]
        return Output(*maps)  # type: ignore[arg-type]

    def _join(
        self, image: Tensor, parts: list[Tile], rules: DecodeConfig, keep_embedding: bool, paint: bool
    ) -> Prediction:
        """Tile by tile through network and task."""
        stretch = Stretch.of(image, self.config.model)
        mosaic = self.task.mosaic((image.shape[1], image.shape[2]), self.model.grouping, rules)
        embedding: Tensor | None = None
        painted: Tensor | None = None
        basis = self._basis(image, stretch) if paint else None
        for tile in parts:
            output = self._network([image], tile, stretch)
            mosaic.add(tile, output)
            if keep_embedding:
                embedding = self._fill(embedding, output.embedding, tile, image)
            if basis is not None:
                picture = torch.from_numpy(basis.apply(output.embedding[0]))
                painted = self._fill(painted, picture.permute(2, 0, 1)[None], tile, image)
        kept = np.zeros((self.model.dim, 0, 0), dtype=np.float32)
        found = mosaic.finish(kept if embedding is None else embedding[0].cpu().numpy())
        return found if painted is None else replace(found, embedding_rgb=painted[0].permute(1, 2, 0).numpy())

    def _basis(self, image: Tensor, stretch: Stretch) -> ColourBasis:
        """Colours for the embedding of a large image, the same for all its tiles."""
        places = samples(image.shape[1], image.shape[2], _SAMPLE, _MOST_SAMPLES, self._quantum)
        return ColourBasis.fit([self._network([image], place, stretch).embedding[0] for place in places])

    def _parts(self, height: int, width: int) -> list[Tile]:
        """The tiles of an image; a single one where it is small."""
        stride = self.model.output_stride

        def cut(context: int) -> list[Tile]:
            core, margin = tile_sizes(_TILE, context, self._quantum, self.config.decode.window * stride)
            return tiles(height, width, core, margin)

        parts = cut(_CONTEXT)
        if len(parts) == 1:
            return (
                parts  # more context makes it no smaller, and how far the network sees need not be measured
            )
        return cut(min(max(_CONTEXT, self.reach + stride), _MOST_CONTEXT))  # maps are enlarged bilinearly

    @cached_property
    def reach(self) -> int:
        """Pixels around a place on which the network's output there depends, 512 where it is more: as the backbone's
        `reach` says, or measured."""
        stated = getattr(self.model.backbone, "reach", None)
        return measured_reach(self.model, self._quantum, _MOST_CONTEXT) if stated is None else int(stated)

    @property
    def _quantum(self) -> int:
        """Pixels by which the network may be shifted without a change."""
        return int(getattr(self.model.backbone, "total_stride", _CONTEXT))

    @torch.no_grad()
    def _network(self, images: Sequence[Tensor], tile: Tile, stretch: Stretch | None = None) -> Output:
        """Network output of one tile of images of one size; `stretch` saves measuring them anew for every tile."""
        rows, columns = tile.view
        views = []
        for image in images:
            measured = Stretch.of(image, self.config.model) if stretch is None else stretch
            views.append(measured(image[:, rows, columns].to(self.device)))
        output: Output = self.model(torch.stack(views), (rows.start, columns.start))
        return output

    def _fill(self, whole: Tensor | None, part: Tensor, tile: Tile, image: Tensor) -> Tensor:
        """Put the core of a tile's map `[1, C, h, w]` into that of the image."""
        stride = self.model.output_stride
        if whole is None:
            size = (-(-image.shape[1] // stride), -(-image.shape[2] // stride))
            whole = part.new_empty(1, part.shape[1], *size)
        rows, columns = (cells(place, stride) for place in tile.core)
        inner_rows, inner_columns = (cells(place, stride) for place in tile.core_in_view)
        whole[..., rows, columns] = part[..., inner_rows, inner_columns]
        return whole


def load(
    checkpoint: str | Path,
    *,
    device: str = "auto",
    backbone: nn.Module | None = None,
    decode: Mapping[str, Any] | None = None,
) -> Predictor:
    """A `Predictor` from a checkpoint of `rpe train`.

    Args:
        checkpoint: model.pt or checkpoint.pt.
        device: where to run; "auto" takes a GPU where there is one.
        backbone: module for a checkpoint that was trained with one of your own.
        decode: decoding rules in place of the checkpoint's, `{"threshold": 0.8, "num_steps": 5}`; those that are not
            named stay. The file is not changed.

    Raises:
        UserError: the file is missing, not a checkpoint, of a newer format or of another model; a rule is unknown or
            outside its range.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a PyTorch without that kind of device
        reason = str(error).splitlines()[0]
        raise UserError(
            f"device {device!r} cannot be used here ({reason}); take 'cpu', or leave it out for the fastest"
        ) from error
    content = read_checkpoint(checkpoint)
    config: Config = content["config"]
    if rpe_ops.available_backends(device).get(config.backend) is not None:
        config = replace(config, backend="auto")  # the backend it was trained with does not run here
    if decode:
        rules = {**to_mapping(config)["decode"], **decode}
        chosen = from_mapping(DecodeConfig, rules, source="decode", prefix="decode.")
        config = replace(config, decode=chosen)
        check_limits(config)
    try:
        model = build_model(config, backbone)
    except ValueError as error:
        raise UserError(
            f"{checkpoint}: its model cannot be built: {error}; register the backbone or pass it to rpe.load"
        ) from error
    load_weights(model, content["model"], str(checkpoint))
    return Predictor(model, config, device, content["classes"])
