"""The training objective: pairwise loss on the embedding and after every grouping step, plus the losses of the heads.

It composes `rpe_ops.pairwise_loss`, `RecurrentGrouping` and `windows.pack`; it computes no pair itself and
knows no optimiser. Every loss of a batch is the mean of its images' losses, so that a batch may be divided among
processes and accumulated parts.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

import rpe_ops

from .config import ObjectiveConfig
from .data.sample import IGNORE
from .grouping import RecurrentGrouping
from .losses import boundary_loss, core_loss, foreground_loss, label_insides, semantic_loss
from .model import Output, has_core, stride_of
from .sampling import sample_balanced
from .windows import Packed, pack, random_origin


class Losses(NamedTuple):
    """What one step minimises, and its parts for the log."""

    total: Tensor
    """0-d: the sum of all parts, each times its weight."""
    steps: Tensor
    """`[num_steps + 1]` pairwise loss of the embedding and after each step, each entering with weight 1."""
    foreground: Tensor
    """0-d, 0 where the model has no foreground head."""
    semantic: Tensor
    """0-d, 0 where the model has no semantic head."""
    boundary: Tensor
    """0-d, summed over the depths and the fused map; 0 where the model has no boundary head."""


class Objective(nn.Module):
    """Loss of a batch.

    Args:
        config: margins, weights and windows.
        backend: `rpe_ops` backend.
        pairs: what the embedding is to tell apart: "instance" (the labels) or "class" (the semantic map).
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        backend: str = "auto",
        pairs: Literal["instance", "class"] = "instance",
    ) -> None:
        super().__init__()
        self.config, self.backend, self.pairs = config, backend, pairs

    def forward(
        self,
        output: Output,
        label: Tensor,
        grouping: RecurrentGrouping,
        generator: torch.Generator,
        semantic: Tensor | None = None,
    ) -> Losses:
        """Compare one forward pass with label maps.

        Args:
            output: of the model, at stride s.
            label: `[B, H, W]` int64, 0 = background, -1 = ignored.
            grouping: the recurrent grouping whose every step is supervised.
            generator: CPU generator for the window grid and the sampling.
            semantic: `[B, H, W]` int64 classes, -1 = ignored; needed by a semantic head alone.

        Raises:
            ValueError: the model has a semantic head and the data has no classes.
        """
        if semantic is None and output.semantic is not None:
            raise ValueError(
                "Objective: the model has a semantic head and the data has no classes; "
                "use a format with classes (voc, coco, synthetic) or task = 'instance'"
            )
        steps = self.pairwise(
            output, label if semantic is None or self.pairs == "instance" else semantic, grouping, generator
        )
        nothing = steps.new_zeros(())
        config = self.config
        foreground = nothing
        if output.foreground is not None:
            foreground = foreground_loss(output.foreground[:, :1], label)
            if has_core(output.foreground):
                foreground = foreground + core_loss(output.foreground[:, 1:], label)
        classes = nothing
        if output.semantic is not None and semantic is not None:
            classes = semantic_loss(output.semantic, semantic)
        boundary = nothing if output.boundary is None else boundary_loss(output.boundary, label)
        total = (
            config.embedding_weight * steps.sum()
            + config.foreground_weight * foreground
            + config.semantic_weight * classes
            + config.boundary_weight * boundary
        )
        return Losses(total, steps, foreground, classes, boundary)

    def pairwise(
        self, output: Output, label: Tensor, grouping: RecurrentGrouping, generator: torch.Generator
    ) -> Tensor:
        """`[num_steps + 1]` pairwise loss of the embedding and after each step: the mean over images of the mean over
        their windows, summed over the embedding's depths."""
        stride = stride_of(output.embedding, (label.shape[1], label.shape[2]))
        if output.foreground is not None and has_core(output.foreground):
            label = torch.where(label_insides(label) | (label <= 0), label, IGNORE)
        packed, packed_label = self.pack_points(label[:, ::stride, ::stride], generator)
        image = packed.images(output.embedding[0, 0].numel())
        share = (len(label) * torch.bincount(image, minlength=len(label))[image]).reciprocal()  # [W]
        depths = 1 if output.boundary is None else output.boundary.shape[1] - 1
        losses = []
        for embedding in packed.rows(output.embedding).chunk(depths, dim=1):
            steps = []
            for points in grouping(embedding, packed.offsets):
                loss = rpe_ops.pairwise_loss(
                    points,
                    packed_label,
                    margin=self.config.margin,
                    weight=self.config.weight,
                    normalizer=self.config.normalizer,
                    reduction="none",
                    offsets=packed.offsets,
                    backend=self.backend,
                )
                steps.append((loss * share).sum())
            losses.append(torch.stack(steps))
        return torch.stack(losses).sum(0)

    def pack_points(self, label: Tensor, generator: torch.Generator) -> tuple[Packed, Tensor]:
        """The points of `[B, h, w]` labels that enter the pairwise loss, with their labels `[T]`."""
        mask = label != IGNORE
        if self.config.background == "ignore":
            mask &= label != 0
        window = self.config.window
        packed = pack(mask, window, random_origin(window, generator))
        packed_label = packed.values(label)
        if self.config.max_points > 0:
            # One number per place, the same in every image: what is drawn does not depend on the rest of the batch.
            place = torch.rand(label[0].numel(), generator=generator).to(label.device)
            priority = place[packed.cell % len(place)]
            keep = sample_balanced(packed_label, packed.offsets, self.config.max_points, priority)
            packed, packed_label = packed.select(keep), packed_label[keep]
        return packed, packed_label
