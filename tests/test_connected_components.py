"""`rpe_ops.connected_components` on every backend: values, algebraic facts, edges, determinism. Labels are exact."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import naive
import problems
import rpe_ops


def components(embedding: Tensor, threshold: float, backend: str, **options) -> Tensor:
    label = rpe_ops.connected_components(embedding, threshold=threshold, backend=backend, **options)
    assert label.dtype == torch.int64 and label.shape == embedding.shape[:-1]
    return label


def by_walking(embedding: Tensor, threshold: float) -> Tensor:
    return torch.tensor(naive.looped_components(embedding.tolist(), threshold), dtype=torch.int64)


def in_order_of_appearance(label: Tensor) -> Tensor:
    """The same partition with its parts numbered as they appear."""
    number: dict[int, int] = {}
    return torch.tensor([number.setdefault(value, len(number)) for value in label.tolist()])


def clearance() -> float:
    """How far from a pair's similarity a threshold must be for no rounding to matter."""
    return 8.0 * torch.finfo(problems.widest()).eps


def ring(num_points: int, seed: int = 0) -> Tensor:
    """Neighbours on a circle in shuffled order: a component as long as a path can be."""
    angle = torch.arange(num_points, dtype=problems.widest()) * (2.0 * math.pi / (num_points + 1))
    order = problems.permutation(num_points, seed=seed)
    return torch.stack([angle.cos(), angle.sin()], 1)[order]


# Value


@pytest.mark.parametrize("wanted", [0.2, 0.5, 0.8, 0.95, 0.99])
def test_value_is_the_walk_through_the_graph(backend, wanted):
    for seed in range(4):
        embedding = problems.clustered(40, 3, seed=seed, clusters=6, spread=0.5)
        threshold = problems.clear_margin(embedding, wanted)
        assert torch.equal(components(embedding, threshold, backend), by_walking(embedding, threshold))


@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_dtypes(backend, dtype):
    embedding = problems.clustered(50, 8, clusters=5, spread=0.3).to(dtype)
    threshold = problems.clear_margin(embedding, 0.9)
    assert torch.equal(components(embedding, threshold, backend), by_walking(embedding, threshold))


def test_first_appearance_numbers_the_labels(backend):
    rows = torch.eye(4)[[2, 0, 2, 3, 0, 1]]
    assert components(rows, 0.9, backend).tolist() == [0, 1, 0, 2, 1, 3]


def test_at_a_threshold_of_zero_opposite_points_are_one(backend):
    for seed in range(30):
        row = torch.randn(1, 7, generator=torch.Generator().manual_seed(seed), device="cpu")
        row = row.to(torch.get_default_device())
        assert components(torch.cat([row, -row, 3 * row]), 0.0, backend).tolist() == [0, 0, 0]


def test_the_threshold_itself_joins(backend):
    orthogonal = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert components(orthogonal, 0.5, backend).tolist() == [0, 0]
    assert components(orthogonal, math.nextafter(0.5, 1.0), backend).tolist() == [0, 1]
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert components(opposite, 0.0, backend).tolist() == [0, 0]
    assert components(opposite, 1e-6, backend).tolist() == [0, 1]


# Algebraic facts


def test_order_of_points_changes_the_numbering_alone(backend):
    embedding = problems.clustered(60, 8, clusters=6, spread=0.5)
    threshold = problems.clear_margin(embedding, 0.9)
    label = components(embedding, threshold, backend)
    assert 2 < int(label.max()) < 50
    for seed in range(4):
        order = problems.permutation(60, seed=seed)
        permuted = components(embedding[order], threshold, backend)
        assert torch.equal(permuted, in_order_of_appearance(label[order]))


def test_rotation_and_scale_change_nothing(backend):
    embedding = problems.clustered(60, 8, clusters=6, spread=0.5)
    threshold = problems.clear_margin(embedding, 0.9)
    label = components(embedding, threshold, backend)
    assert torch.equal(components(embedding @ problems.rotation(8), threshold, backend), label)
    scale = 10.0 ** problems.directions(60, 1)
    assert torch.equal(components(embedding * scale, threshold, backend), label)


def test_duplicated_points_share_their_label(backend):
    embedding = problems.clustered(40, 8, clusters=6, spread=0.5)
    threshold = problems.clear_margin(embedding, 0.9)
    label = components(embedding, threshold, backend)
    twice = components(torch.cat([embedding, embedding]), threshold, backend)
    assert torch.equal(twice, torch.cat([label, label]))


def test_ragged_images_are_independent(backend):
    batch = problems.ragged()
    threshold = problems.clear_margin(batch.embedding, 0.9)
    label = components(batch.embedding, threshold, backend, offsets=batch.offsets)
    for rows in batch.images():
        assert torch.equal(label[rows], components(batch.embedding[rows], threshold, backend))


def test_batch_of_images(backend):
    embedding = problems.clustered(60, 4).reshape(3, 20, 4)
    threshold = problems.clear_margin(embedding, 0.9)
    label = components(embedding, threshold, backend)
    for image in range(3):
        assert torch.equal(label[image], components(embedding[image], threshold, backend))


@pytest.mark.parametrize("num_points", [5, 64, 150])
def test_long_chains_are_one_component(backend, num_points):
    near = (1.0 + math.cos(2.0 * math.pi / (num_points + 1))) / 2.0
    rows = ring(num_points)
    assert not components(rows, near - clearance(), backend).any()
    broken = components(rows, min(1.0, near + clearance()), backend)
    assert torch.equal(broken, torch.arange(num_points))


def test_two_chains_that_cross_in_order_stay_apart(backend):
    first = torch.cat([ring(50, seed=1), torch.zeros(50, 2, dtype=problems.widest())], 1)
    second = first.flip(1)
    rows = torch.stack([first, second], 1).reshape(100, 4)
    threshold = (1.0 + math.cos(2.0 * math.pi / 51)) / 2.0 - clearance()
    assert components(rows, threshold, backend).tolist() == [0, 1] * 50


# Edges


@pytest.mark.parametrize("num_points", problems.SIZES)
def test_every_size(backend, num_points, poisoned_memory):
    embedding = problems.clustered(num_points, 8, seed=num_points, clusters=6, spread=0.5).float()
    threshold = problems.clear_margin(embedding, 0.9)
    assert torch.equal(components(embedding, threshold, backend), by_walking(embedding, threshold))


@pytest.mark.parametrize("dim", problems.DIMS)
def test_every_dim(backend, dim, poisoned_memory):
    embedding = problems.clustered(67, dim, clusters=6, spread=0.5).float()
    threshold = problems.clear_margin(embedding, 0.85)
    assert torch.equal(components(embedding, threshold, backend), by_walking(embedding, threshold))


@pytest.mark.parametrize("shape", [(0, 3), (0, 5, 3), (2, 0, 3), (0, 0, 3)])
def test_no_points(backend, shape):
    components(torch.zeros(shape), 0.5, backend)
    components(torch.zeros(0, 3), 0.5, backend, offsets=torch.tensor([0]))


def test_thresholds_zero_and_one(backend):
    embedding = problems.clustered(30, 4)
    assert not components(embedding, 0.0, backend).any()
    alone = components(embedding, 1.0, backend)
    assert alone.max() >= 28, "at 1 only rounding may join two different points"


@pytest.mark.parametrize("dim", problems.DIMS)
@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_equal_rows_are_joined_at_any_threshold(backend, dim, dtype):
    distinct = problems.directions(40, dim, seed=dim)
    if dim == 1:
        distinct = torch.tensor([[0.3], [-1.7]], dtype=problems.widest())
    count = distinct.shape[0]
    rows = torch.cat([distinct, distinct, 3.7 * distinct]).to(dtype)
    for threshold in (1.0, 1.0 - 1e-9):
        label = components(rows, threshold, backend)
        assert torch.equal(label[:count], label[count : 2 * count])
        if dtype in (torch.float32, torch.float64):  # half types round the third copy to other directions
            assert torch.equal(label[:count], label[2 * count :])
        assert dim < 3 or torch.equal(label[:count], torch.arange(count))


def test_equal_rows_are_joined_without_normalising(backend):
    distinct = F.normalize(problems.directions(40, 7).float(), dim=1)
    label = components(torch.cat([distinct, distinct]), 1.0, backend, normalize=False)
    assert torch.equal(label, torch.arange(40).repeat(2))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_points_join_nothing_without_normalising(backend, value):
    rows = torch.tensor([[value, 0.5], [0.6, 0.8], [0.8, 0.6], [0.6, 0.8]])
    assert components(rows, 0.999, backend, normalize=False).tolist() == [0, 1, 2, 1]


def test_zero_rows_are_at_one_half_from_everything(backend):
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]])
    assert components(rows, 0.5, backend).tolist() == [0, 0, 0, 0]
    assert components(rows, 0.6, backend).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_points_join_nothing(backend, value):
    batch = problems.ragged((6, 9, 0, 5))
    threshold = problems.clear_margin(batch.embedding, 0.9)
    expected = components(batch.embedding, threshold, backend, offsets=batch.offsets)
    spoilt = batch.embedding.clone()
    spoilt[8, 2] = value
    label = components(spoilt, threshold, backend, offsets=batch.offsets)
    assert torch.equal(label[:6], expected[:6]) and torch.equal(label[15:], expected[15:])
    inside = label[6:15]
    assert int((inside == inside[2]).sum()) == 1
    assert torch.equal(in_order_of_appearance(inside), inside)


def test_strided_inputs(backend):
    rows = problems.clustered(30, 6)
    threshold = problems.clear_margin(rows, 0.9)
    label = components(rows, threshold, backend)
    assert torch.equal(components(rows.T.contiguous().T, threshold, backend), label)
    assert torch.equal(components(rows.repeat_interleave(2, 0)[::2], threshold, backend), label)
    assert torch.equal(components(rows.expand(2, 30, 6), threshold, backend), label.expand(2, 30))


def test_labels_have_no_gradient_and_the_input_may(backend):
    rows = problems.clustered(10, 3).requires_grad_()
    assert not components(rows, 0.9, backend).requires_grad


def test_without_normalising(backend):
    rows = problems.clustered(30, 4)
    threshold = problems.clear_margin(rows, 0.9)
    unit = naive.unit_rows(rows)
    assert torch.equal(
        components(unit, threshold, backend, normalize=False), components(rows, threshold, backend)
    )


def test_a_batch_without_images(backend):
    nothing = torch.zeros(0, 4, dtype=problems.widest())
    label = rpe_ops.connected_components(nothing, threshold=0.9, offsets=torch.tensor([0]), backend=backend)
    assert label.shape == (0,)


# Determinism


@pytest.mark.large
def test_equal_inputs_give_equal_labels_on_any_number_of_threads(backend, restored_threads):
    rows = problems.clustered(1_111, 8, clusters=40, spread=0.4).float()
    threshold = problems.clear_margin(rows, 0.93)
    results = []
    for threads in (1, 2, 2):
        torch.set_num_threads(threads)
        results.append(components(rows, threshold, backend))
    assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])
    assert torch.equal(results[0], components(rows, threshold, "reference"))
