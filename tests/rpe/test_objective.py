"""The objective equals the operators composed by hand; windows and samples keep what they promise."""

import pytest
import torch
import torch.nn.functional as F

import rpe_ops
from rpe.config import ObjectiveConfig
from rpe.grouping import RecurrentGrouping
from rpe.losses import core_loss, foreground_loss, label_insides
from rpe.model import Output
from rpe.objective import Objective
from rpe.sampling import sample_balanced
from rpe.windows import pack


def random_problem(stride: int = 2) -> tuple[Output, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    embedding = F.normalize(torch.randn(2, 5, 6, 7, generator=generator), dim=1).requires_grad_()
    label = torch.randint(-1, 4, (2, 6 * stride, 7 * stride), generator=generator)
    return Output(embedding, torch.randn(2, 1, 6, 7, generator=generator)), label


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("background", ["ignore", "instance"])
def test_objective_is_the_operators_composed(background: str) -> None:
    output, label = random_problem()
    config = ObjectiveConfig(background=background, window=0, foreground_weight=0.5)  # type: ignore[arg-type]
    grouping = RecurrentGrouping(num_steps=2, kappa=7.0, eta=0.8)
    losses = Objective(config)(output, label, grouping, generator())

    small = label[:, ::2, ::2].flatten(1)
    points = output.embedding.flatten(2).transpose(1, 2)
    offsets, rows, labels = [0], [], []
    for image in range(2):
        keep = small[image] != -1
        if background == "ignore":
            keep &= small[image] != 0
        rows.append(points[image, keep])
        labels.append(small[image, keep])
        offsets.append(offsets[-1] + int(keep.sum()))
    packed, packed_label, packed_offsets = torch.cat(rows), torch.cat(labels), torch.tensor(offsets)
    moved = rpe_ops.mean_shift(
        packed, kappa=7.0, eta=0.8, num_steps=2, offsets=packed_offsets, return_trajectory=True
    )
    expected = torch.stack(
        [
            rpe_ops.pairwise_loss(
                step, packed_label, normalizer="weights", reduction="mean", offsets=packed_offsets
            )
            for step in (packed, *moved)
        ]
    )
    torch.testing.assert_close(losses.steps, expected)
    torch.testing.assert_close(losses.foreground, foreground_loss(output.foreground, label))
    torch.testing.assert_close(losses.total, expected.sum() + 0.5 * losses.foreground)

    (given,) = torch.autograd.grad(losses.steps.sum(), output.embedding)
    (wanted,) = torch.autograd.grad(expected.sum(), output.embedding)
    torch.testing.assert_close(given, wanted)


@pytest.mark.parametrize("max_points", [0, 5])
def test_a_batch_is_the_mean_of_its_images_however_it_is_divided(max_points: int) -> None:
    output, label = random_problem()
    label[1, :8] = 0  # windows of which one image has fewer than the other
    objective = Objective(ObjectiveConfig(window=3, max_points=max_points))
    grouping = RecurrentGrouping(num_steps=2, kappa=7.0)
    whole = objective(output, label, grouping, generator())
    parts = []
    for image in (slice(0, 1), slice(1, 2)):
        assert output.foreground is not None
        part = Output(output.embedding[image], output.foreground[image])
        parts.append(objective(part, label[image], grouping, generator()))
    for name in ("total", "steps", "foreground"):
        torch.testing.assert_close(
            getattr(whole, name), (getattr(parts[0], name) + getattr(parts[1], name)) / 2
        )


def test_labels_that_take_no_part_leave_a_zero_loss_with_a_gradient() -> None:
    output, label = random_problem()
    losses = Objective(ObjectiveConfig(window=4))(
        output, torch.zeros_like(label), RecurrentGrouping(num_steps=1), generator()
    )
    assert losses.steps.tolist() == [0.0, 0.0]
    (gradient,) = torch.autograd.grad(losses.steps.sum(), output.embedding, allow_unused=True)
    assert gradient is None or not gradient.any()


def test_embedding_must_cover_the_label() -> None:
    output, _ = random_problem()
    with pytest.raises(ValueError, match="at any stride"):
        Objective(ObjectiveConfig())(
            output, torch.zeros(2, 40, 7, dtype=torch.int64), RecurrentGrouping(1), generator()
        )


def test_foreground_loss_leaves_ignored_pixels_out() -> None:
    label = torch.tensor([[[1, 0, -1], [2, 0, -1]]])
    logit = torch.tensor([[[[20.0, -20.0, 20.0], [20.0, -20.0, -20.0]]]])
    assert foreground_loss(logit, label) < 1e-3
    assert foreground_loss(-logit, label) > 10


def test_with_a_core_the_insides_alone_are_compared() -> None:
    label = torch.zeros(1, 6, 9, dtype=torch.int64)
    label[0, 1:6, :4], label[0, 1:6, 4:8], label[0, 1:6, 8] = 1, 2, -1
    inside = torch.zeros(1, 6, 9, dtype=torch.bool)
    inside[0, 2:6, :3] = inside[0, 2:6, 5:8] = (
        True  # neither the edge of an image nor what is ignored makes a rim
    )
    assert torch.equal(label_insides(label), inside)

    embedding = F.normalize(torch.randn(1, 3, 6, 9, generator=generator()), dim=1)
    logit = torch.randn(1, 2, 6, 9, generator=generator())
    losses = Objective(ObjectiveConfig(window=0))(
        Output(embedding, logit), label, RecurrentGrouping(num_steps=0), generator()
    )
    points, chosen = embedding[0][:, inside[0]].T, label[inside]
    expected = rpe_ops.pairwise_loss(points, chosen, normalizer="weights", reduction="mean")
    torch.testing.assert_close(losses.steps[0], expected)
    parts = foreground_loss(logit[:, :1], label) + core_loss(logit[:, 1:], label)
    torch.testing.assert_close(losses.foreground, parts)


def test_core_loss_weighs_rims() -> None:
    label = torch.zeros(1, 7, 7, dtype=torch.int64)
    label[0, 1:6, 1:6] = 1
    inside = label_insides(label)
    right = torch.where(inside, 20.0, -20.0)[:, None]
    assert core_loss(right, label) < 1e-6
    rim, ground = right.clone(), right.clone()
    rim[0, 0, 1, 1], ground[0, 0, 0, 0] = 20.0, 20.0
    torch.testing.assert_close(core_loss(rim, label), 3 * core_loss(ground, label))
    label[0, 0, 0] = -1
    assert core_loss(ground, label) < 1e-6


@pytest.mark.parametrize("size", [0, 3, 4, 50])
@pytest.mark.parametrize("origin", [(0, 0), (2, 1)])
def test_windows_partition_the_mask(size: int, origin: tuple[int, int]) -> None:
    mask = torch.rand(2, 7, 9, generator=generator()) > 0.4
    packed = pack(mask, size, origin)
    assert torch.equal(packed.cell.sort().values, mask.reshape(-1).nonzero().squeeze(1))
    for start, end in zip(packed.offsets, packed.offsets[1:], strict=False):
        cell = packed.cell[start:end]
        assert len(cell) > 0 and bool((cell.diff() > 0).all())
        image, row, column = cell // 63, cell // 9 % 7, cell % 9
        assert image.unique().numel() == 1
        if size:
            assert ((row + origin[0]) // size).unique().numel() == 1
            assert ((column + origin[1]) // size).unique().numel() == 1
    maps = torch.arange(2 * 3 * 63, dtype=torch.float32).view(2, 3, 7, 9)
    torch.testing.assert_close(packed.rows(maps)[:, 1], packed.values(maps[:, 1]))


def test_sampling_shares_the_budget_among_instances() -> None:
    sizes = {0: [100, 3, 40, 1], 1: [5, 5]}
    label = torch.cat([torch.full((n,), k) for window in sizes.values() for k, n in enumerate(window)])
    offsets = torch.tensor([0, 144, 154])
    priority = torch.rand(154, generator=generator())
    keep = sample_balanced(label, offsets, 24, priority)
    kept = [int(keep[(label == k) & (torch.arange(154) < 144)].sum()) for k in range(4)]
    assert kept == [10, 3, 10, 1]
    assert bool(keep[144:].all()), "a window within its budget is kept whole"
    assert torch.equal(keep, sample_balanced(label, offsets, 24, priority.clone()))
    other = sample_balanced(label, offsets, 24, priority.flip(0))
    assert not torch.equal(keep, other) and other.sum() == keep.sum()


def test_sampled_objective_weighs_instances_by_their_sampled_points() -> None:
    output, label = random_problem()
    objective = Objective(ObjectiveConfig(window=0, max_points=9))
    packed, packed_label = objective.pack_points(label[:, ::2, ::2], generator())
    assert bool((packed.offsets.diff() <= 9).all()) and len(packed.cell) == len(packed_label)
    losses = objective(output, label, RecurrentGrouping(num_steps=0), generator())
    expected = rpe_ops.pairwise_loss(
        packed.rows(output.embedding),
        packed_label,
        normalizer="weights",
        reduction="mean",
        offsets=packed.offsets,
    )
    torch.testing.assert_close(losses.steps, expected[None])
