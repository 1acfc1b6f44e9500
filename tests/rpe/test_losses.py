"""Losses of the heads by hand, and how the objective joins them: what the embedding tells apart, its depths."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from rpe.config import ObjectiveConfig
from rpe.grouping import RecurrentGrouping
from rpe.losses import boundary_loss, label_boundaries, semantic_loss
from rpe.model import Output
from rpe.objective import Objective


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_semantic_loss_is_the_mean_over_images_of_the_mean_over_pixels() -> None:
    logit = torch.randn(2, 3, 4, 5, generator=generator())
    semantic = torch.randint(-1, 3, (2, 4, 5), generator=generator())
    semantic[1, 1:] = -1
    expected = (
        sum(F.cross_entropy(logit[i : i + 1], semantic[i : i + 1], ignore_index=-1) for i in (0, 1)) / 2
    )
    torch.testing.assert_close(semantic_loss(logit, semantic), expected)
    assert semantic_loss(logit, torch.full_like(semantic, -1)) == 0


def test_boundaries_of_labels_are_two_pixels_wide_and_spare_ignored_ones() -> None:
    label = torch.tensor([[[1, 1, 1, 2, 2, -1, 3], [1, 1, 1, 1, 1, -1, 3]]])
    expected = [[0, 0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0, 0]]
    assert label_boundaries(label)[0].int().tolist() == expected


def test_boundary_loss_weighs_boundaries_like_the_rest() -> None:
    """2 of 10 pixels are boundary. At logit 0 each pixel costs log 2: 0.2 x 0.8 + 0.8 x 0.2 of it, for each map."""
    label = torch.tensor([[[1] * 5 + [2] * 5]])
    zero = torch.zeros(1, 3, 1, 10)
    torch.testing.assert_close(boundary_loss(zero, label), torch.tensor(3 * 0.32 * math.log(2)))
    ignored = torch.tensor([[[1] * 5 + [2] * 5 + [-1] * 10]])
    wide = torch.zeros(1, 3, 1, 20)
    torch.testing.assert_close(boundary_loss(wide, ignored), boundary_loss(zero, label))
    right = torch.where(label_boundaries(label), 20.0, -20.0)[:, None]
    assert boundary_loss(right, label) < 1e-6 < 1 < boundary_loss(-right, label)
    assert boundary_loss(zero, torch.full_like(label, -1)) == 0


def heads_problem() -> tuple[Output, torch.Tensor, torch.Tensor]:
    """Output with every head, labels, and classes under which instances 1 and 2 are one."""
    random = generator()
    embedding = F.normalize(torch.randn(2, 6, 4, 5, generator=random), dim=1)
    label = torch.randint(1, 4, (2, 8, 10), generator=random)
    semantic = torch.where(label == 3, 2, 1)
    maps = {name: torch.randn(2, n, 4, 5, generator=random) for name, n in (("semantic", 3), ("boundary", 3))}
    return Output(embedding, torch.randn(2, 1, 4, 5, generator=random), **maps), label, semantic


def test_total_is_the_weighted_sum_of_the_parts() -> None:
    output, label, semantic = heads_problem()
    config = ObjectiveConfig(
        window=0, embedding_weight=0.5, foreground_weight=2.0, semantic_weight=3.0, boundary_weight=5.0
    )
    losses = Objective(config)(output, label, RecurrentGrouping(1, kappa=5.0), generator(), semantic)
    parts = [losses.steps.sum(), losses.foreground, losses.semantic, losses.boundary]
    assert all(part > 0 for part in parts)
    expected = sum(weight * part for weight, part in zip((0.5, 2.0, 3.0, 5.0), parts, strict=True))
    torch.testing.assert_close(losses.total, expected)


def test_the_embedding_tells_apart_instances_or_classes() -> None:
    output, label, semantic = heads_problem()
    grouping, config = RecurrentGrouping(0), ObjectiveConfig(window=0)
    plain = Output(output.embedding, semantic=output.semantic)
    by_class = Objective(config, pairs="class")(plain, label, grouping, generator(), semantic)
    by_instance = Objective(config)(plain, label, grouping, generator(), semantic)
    alone = Output(output.embedding)
    torch.testing.assert_close(
        by_class.steps, Objective(config)(alone, semantic, grouping, generator()).steps
    )
    torch.testing.assert_close(
        by_instance.steps, Objective(config)(alone, label, grouping, generator()).steps
    )
    assert not torch.equal(by_class.steps, by_instance.steps)


def test_each_depth_of_a_boundary_model_has_its_own_pairwise_loss() -> None:
    """Two depths of three channels: the loss is the sum of those of the two embeddings alone, whatever their length."""
    output, label, _ = heads_problem()
    grouping, objective = RecurrentGrouping(1, kappa=5.0), Objective(ObjectiveConfig(window=0))
    both = objective(Output(output.embedding, boundary=output.boundary), label, grouping, generator())
    single = [
        objective(Output(F.normalize(depth, dim=1)), label, grouping, generator()).steps
        for depth in output.embedding.chunk(2, dim=1)
    ]
    torch.testing.assert_close(both.steps, single[0] + single[1])


def test_a_semantic_head_needs_classes() -> None:
    output, label, _ = heads_problem()
    with pytest.raises(ValueError, match="the data has no classes"):
        Objective(ObjectiveConfig())(output, label, RecurrentGrouping(0), generator())
