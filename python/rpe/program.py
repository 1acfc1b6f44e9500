"""The network alone as a `torch.export` program, for other runtimes: images in, feature maps out, any batch and size.

Grouping and decoding stay in Python: their sizes depend on the image.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from .errors import UserError
from .model import RPE


class _Maps(nn.Module):
    """The maps that a model has, by name."""

    def __init__(self, model: RPE) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, origin: Tensor) -> dict[str, Tensor]:
        output = self.model(image, origin)
        return {name: maps for name, maps in output._asdict().items() if maps is not None}


def export_network(model: RPE) -> ExportedProgram:
    """Trace a model in evaluation mode.

    Returns:
        A program that maps `image` float32 `[B, 3, H, W]`, preprocessed as in training, and `origin` int64 `[B, 2]`
        (row and column of the first pixel, zeros for a whole image) to a dict of maps, the fields of `model.Output`
        that the model has. B is 1 or more; H and W are multiples, from twice on, of the backbone's `total_stride`, or
        of its output stride where it does not tell one.
    """
    stride = getattr(model.backbone, "total_stride", model.output_stride)
    example = (torch.zeros(2, 3, 3 * stride, 4 * stride), torch.zeros(2, 2, dtype=torch.int64))
    batch, rows, columns = Dim("batch", min=1), Dim("rows", min=2), Dim("columns", min=2)
    shapes = {"image": {0: batch, 2: stride * rows, 3: stride * columns}, "origin": {0: batch}}
    return torch.export.export(_Maps(model).eval().cpu(), example, dynamic_shapes=shapes)


def write_network(model: RPE, path: Path) -> None:
    """Write the program; `torch.export.load` reads it.

    Raises:
        UserError: the file's name does not end in .pt2.
    """
    if path.suffix != ".pt2":
        raise UserError(
            f"{path}: an exported program is a .pt2 file; name it {path.with_suffix('.pt2').name}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.export.save(export_network(model), path)
