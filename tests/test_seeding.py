"""`rpe_ops.select_seeds` and `rpe_ops.assign_to_modes`: values, algebraic facts, edges, errors, transformations.

Both return integers, which are exact; what seeds and modes are between them is `mean_shift`'s.
"""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import naive
import problems
import rpe_ops


@pytest.fixture(autouse=True, params=["cpu", "cuda"][: 1 + torch.cuda.is_available()])
def device(request: pytest.FixtureRequest, one_thread: None) -> Iterator[None]:
    """New tensors are on each device in turn."""
    torch.set_default_device(request.param)
    yield
    torch.set_default_device(None)


def seeds_of(embedding: Tensor, indices: Tensor) -> Tensor:
    return embedding.take_along_dim(indices[..., None], dim=-2)


def assign(embedding: Tensor, modes: Tensor, threshold: float = 0.95, **options) -> Tensor:
    label = rpe_ops.assign_to_modes(embedding, modes, threshold=threshold, **options)
    assert label.dtype == torch.int64 and label.shape == embedding.shape[:-1]
    return label


def spread_modes(dim: int = 4) -> Tensor:
    """Directions of which two pairs are near each other."""
    modes = problems.directions(6, dim, seed=7)
    modes[4], modes[5] = modes[0] + 1e-3, modes[2] * 2.0 + 1e-3
    return modes


# Value


@pytest.mark.parametrize("first", [None, 0, 17])
@pytest.mark.parametrize("dim", [2, 8, 64])
def test_seeds_are_the_farthest_points(backend, first, dim):
    embedding = problems.clustered(60, dim, clusters=7)
    expected = naive.looped_farthest_points(embedding.tolist(), 20, first)
    options = {} if first is None else {"first": first}
    assert rpe_ops.select_seeds(embedding, 20, **options, backend=backend).tolist() == expected


@pytest.mark.parametrize("threads", [1, 3])
def test_many_seeds_of_large_images(backend, threads):
    """Larger than what a kernel looks at together, with most points far from any next seed."""
    images = [
        problems.clustered(size, 5, seed=size, clusters=12, spread=0.1) for size in (1_501, 7, 2_000, 1_990)
    ]
    offsets = torch.tensor([0, 1_501, 1_508, 3_508, 5_498])
    arguments = {"embedding": torch.cat(images), "num_seeds": 150, "offsets": offsets}
    torch.set_num_threads(threads)
    index, _ = rpe_ops.select_seeds(**arguments, backend=backend)
    torch.set_num_threads(1)
    assert torch.equal(index, rpe_ops.select_seeds(**arguments, backend="reference")[0])


def test_labels_are_those_of_the_nearest_modes(backend):
    embedding, modes = problems.clustered(80, 4, clusters=9), spread_modes()
    expected = naive.looped_assignment(embedding.tolist(), modes.tolist(), 0.95)
    label = assign(embedding, modes, backend=backend)
    assert label.tolist() == expected and len(set(expected)) > 2


@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_dtypes(backend, dtype):
    embedding = torch.eye(5)[torch.arange(40) % 5].to(dtype)
    index = rpe_ops.select_seeds(embedding, 5, backend=backend)
    assert index.dtype == torch.int64 and sorted(index.remainder(5).tolist()) == [0, 1, 2, 3, 4]
    assert torch.equal(assign(embedding, embedding[:5], backend=backend), torch.arange(40) % 5)


def test_a_chain_of_near_modes_is_one():
    angle = torch.arange(5) * 0.3
    modes = torch.stack([angle.cos(), angle.sin()], 1)
    near = (1.0 + math.cos(0.31)) / 2.0
    assert assign(modes, modes, near).tolist() == [0] * 5
    assert assign(modes, modes, (1.0 + math.cos(0.29)) / 2.0).tolist() == [0, 1, 2, 3, 4]


def test_seeds_climb_and_points_follow_in_batches():
    """The whole use: select, climb, assign; clusters come out as they were made."""
    images = torch.stack(
        [problems.clustered(120, 16, seed=seed, clusters=5, spread=0.3) for seed in range(3)]
    )
    seeds = seeds_of(images, rpe_ops.select_seeds(images, 12))
    modes = rpe_ops.mean_shift(images, kappa=20.0, num_steps=10, seeds=seeds, backend="torch")
    label = assign(images, modes)
    for image in range(3):
        pairs = set(zip((torch.arange(120) % 5).tolist(), label[image].tolist(), strict=True))
        assert len(pairs) == 5 and len({found for _, found in pairs}) == 5


# Algebraic facts


def test_fewer_seeds_are_a_prefix():
    embedding = problems.clustered(60, 8)
    index = rpe_ops.select_seeds(embedding, 30)
    assert torch.equal(rpe_ops.select_seeds(embedding, 11), index[:11])
    assert torch.equal(rpe_ops.select_seeds(embedding, 30, first=int(index[0])), index)


def test_order_rotation_and_scale_change_no_seed():
    embedding = problems.clustered(60, 8)
    index = rpe_ops.select_seeds(embedding, 20)
    order = problems.permutation(60, seed=3)
    assert torch.equal(order[rpe_ops.select_seeds(embedding[order], 20)], index)
    turned = 10.0 ** problems.directions(60, 1) * (embedding @ problems.rotation(8))
    assert torch.equal(rpe_ops.select_seeds(turned, 20), index)


def test_no_point_is_farther_than_the_next_seed():
    """The bound that the method is known for: distances of the seeds to those before them only fall."""
    unit = naive.unit_rows(problems.clustered(200, 6))
    seeds = unit[rpe_ops.select_seeds(unit, 21)]
    gaps = [float((seeds[k] @ seeds[:k].T).max()) for k in range(1, 21)]
    assert gaps == sorted(gaps)
    assert float((unit @ seeds[:20].T).amax(1).min()) == pytest.approx(gaps[-1])


def test_images_are_independent(backend):
    batch = problems.ragged()
    index, seed_offsets = rpe_ops.select_seeds(batch.embedding, 4, offsets=batch.offsets, backend=backend)
    assert seed_offsets.diff().tolist() == [4 if rows.stop > rows.start else 0 for rows in batch.images()]
    seeds = batch.embedding[index]
    label = assign(batch.embedding, seeds, offsets=batch.offsets, mode_offsets=seed_offsets, backend=backend)
    for image, rows in enumerate(batch.images()):
        if rows.stop > rows.start:
            own = slice(*seed_offsets[image : image + 2].tolist())
            alone = rpe_ops.select_seeds(batch.embedding[rows], 4, backend=backend)
            assert torch.equal(index[own] - rows.start, alone)
            assert torch.equal(label[rows], assign(batch.embedding[rows], seeds[own], backend=backend))


def test_a_batch_is_its_images(backend):
    images, modes = problems.clustered(60, 4).reshape(3, 20, 4), problems.directions(3, 5, 4)
    first = torch.tensor([3, 0, 19])
    index = rpe_ops.select_seeds(images, 6, first=first, backend=backend)
    label = assign(images, modes, backend=backend)
    assert torch.equal(index[:, 0], first)
    for image in range(3):
        alone = rpe_ops.select_seeds(images[image], 6, first=int(first[image]), backend=backend)
        assert torch.equal(index[image], alone)
        assert torch.equal(label[image], assign(images[image], modes[image], backend=backend))


def test_modes_have_the_labels_of_their_components(backend):
    modes = spread_modes()
    components = rpe_ops.connected_components(modes, threshold=0.95, backend=backend)
    assert torch.equal(assign(modes, modes, backend=backend), components)
    assert int(components.max()) == 3


# Edges


def test_all_points_as_seeds_are_all_points(backend):
    embedding = problems.clustered(20, 3)
    assert sorted(rpe_ops.select_seeds(embedding, 20, backend=backend).tolist()) == list(range(20))


@pytest.mark.parametrize("dim", problems.DIMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_covered_points_repeat_the_first_seed(backend, dim, dtype):
    distinct = min(3, dim + 1)
    centres = problems.directions(3, dim, seed=1).to(dtype)[:distinct]
    if dim == 1:
        centres = torch.tensor([[1.0], [-1.0]], dtype=dtype)
    copies = centres.repeat(11, 1) * (1.0 + torch.arange(11 * distinct)[:, None]).to(dtype)
    index = rpe_ops.select_seeds(copies, 9, backend=backend)
    assert sorted((index[:distinct] % distinct).tolist()) == list(range(distinct))
    assert bool((index[distinct:] == index[0]).all())


def test_zero_rows_are_at_a_right_angle_to_everything(backend):
    rows = torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 0.01]])
    assert rpe_ops.select_seeds(rows, 3, first=0, backend=backend).tolist() == [0, 1, 2]
    assert assign(rows, rows[:1], 0.9, backend=backend).tolist() == [0, 0, 0]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_nonfinite_points_are_not_chosen_and_belong_to_nothing(backend, value):
    embedding = problems.clustered(12, 3)
    embedding[[0, 7], 1] = value
    kept = embedding.isfinite().all(1).nonzero()[:, 0]
    index = rpe_ops.select_seeds(embedding, 10, backend=backend)
    assert torch.equal(index, kept[rpe_ops.select_seeds(embedding[kept], 10, backend=backend)])
    label = assign(embedding, embedding[kept[:3]], backend=backend)
    assert label[[0, 7]].tolist() == [-1, -1]
    assert torch.equal(label[kept], assign(embedding[kept], embedding[kept[:3]], backend=backend))
    modes = torch.cat([embedding[:1], embedding[kept[:3]]])
    assert torch.equal(assign(embedding[kept], modes, backend=backend), label[kept] + 1)
    assert rpe_ops.select_seeds(embedding[[0, 7]], 2, backend=backend).tolist() == [0, 0]


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_points_belong_to_nothing_without_normalising(backend, value):
    points = torch.tensor([[value, 0.5], [0.6, 0.8], [0.8, 0.6]])
    label = rpe_ops.assign_to_modes(
        points, torch.eye(2).flip(0), threshold=0.99, normalize=False, backend=backend
    )
    assert label.tolist() == [-1, 0, 1]


def test_without_points_or_modes(backend):
    empty = torch.zeros(0, 3)
    index, seed_offsets = rpe_ops.select_seeds(empty, 4, offsets=torch.tensor([0, 0, 0]), backend=backend)
    assert index.shape == (0,) and seed_offsets.tolist() == [0, 0, 0]
    assert rpe_ops.select_seeds(torch.zeros(0, 5, 3), 4, backend=backend).shape == (0, 4)
    assert assign(empty, problems.directions(2, 3).float(), backend=backend).shape == (0,)
    assert assign(torch.eye(3), empty, backend=backend).tolist() == [-1, -1, -1]


def test_strided_inputs_and_gradients_are_taken():
    rows = problems.clustered(30, 6)
    index = rpe_ops.select_seeds(rows, 7)
    leaf = rows.T.contiguous().T.requires_grad_()
    assert torch.equal(rpe_ops.select_seeds(leaf, 7), index)
    assert not assign(leaf, leaf[:3]).requires_grad
    unit = naive.unit_rows(rows)
    assert torch.equal(rpe_ops.select_seeds(unit, 7, normalize=False), index)
    assert torch.equal(assign(unit, unit[index], normalize=False), assign(rows, rows[index]))


def test_equal_inputs_give_equal_seeds(backend):
    rows = problems.clustered(1_111, 8).float()
    index = rpe_ops.select_seeds(rows, 40, backend=backend)
    assert torch.equal(rpe_ops.select_seeds(rows.clone(), 40, backend=backend), index)


# Errors


@pytest.mark.parametrize(
    "error, match, arguments",
    [
        (ValueError, "num_seeds must be at least 1, got 0", {"num_seeds": 0}),
        (TypeError, "num_seeds must be an integer, got float 2.5", {"num_seeds": 2.5}),
        (ValueError, "first must be one of 'farthest' or a row number", {"first": "random"}),
        (TypeError, r"first must be a row number or an integer tensor \[2\]", {"first": 0.5}),
        (ValueError, "got row 9 for image 0, which has 9 points", {"first": 9}),
        (ValueError, "got row -1 for image 1", {"first": torch.tensor([0, -1], device="cpu")}),
        (ValueError, r"got int64 \[3\]", {"first": torch.tensor([0, 0, 0], device="cpu")}),
        (ValueError, "at least one point in each image", {"embedding": torch.zeros(2, 0, 3)}),
        (TypeError, "select_seeds: embedding must be a floating tensor", {"embedding": torch.arange(3)}),
    ],
)
def test_mistakes_in_selecting_are_named(error, match, arguments):
    arguments = {"embedding": torch.ones(2, 9, 3), "num_seeds": 2} | arguments
    with pytest.raises(error, match=match):
        rpe_ops.select_seeds(**arguments)


@pytest.mark.parametrize(
    "error, match, arguments",
    [
        (ValueError, "modes must have 3 columns", {"modes": torch.ones(2, 4, 5)}),
        (TypeError, "modes must have the dtype of embedding", {"modes": torch.ones(2, 4, 3).double()}),
        (ValueError, r"got 1 groups for 2 images; give \[B, M, D\] modes", {"modes": torch.ones(4, 3)}),
        (TypeError, "modes must be a floating tensor", {"modes": None}),
        (ValueError, "threshold must be in", {"threshold": 1.5}),
        (ValueError, "assign_to_modes: mode_offsets|modes must be", {"mode_offsets": torch.tensor([0, 4])}),
    ],
)
def test_mistakes_in_assigning_are_named(error, match, arguments):
    arguments = {
        name: value.to(torch.get_default_device()) if isinstance(value, Tensor) else value
        for name, value in arguments.items()
    }
    arguments = {"embedding": torch.ones(2, 9, 3), "modes": torch.ones(2, 4, 3), "threshold": 0.9} | arguments
    with pytest.raises(error, match=match):
        rpe_ops.assign_to_modes(**arguments)


# Transformations


def test_vmap_over_images():
    images, modes = problems.clustered(60, 4).reshape(3, 20, 4), problems.directions(3, 5, 4)
    index = torch.func.vmap(lambda rows: rpe_ops.select_seeds(rows, 6, backend="torch"))(images)
    assert torch.equal(index, rpe_ops.select_seeds(images, 6))
    label = torch.func.vmap(lambda rows, targets: assign(rows, targets, backend="torch"))(images, modes)
    assert torch.equal(label, assign(images, modes))
    shared = torch.func.vmap(lambda rows: assign(rows, modes[0], backend="torch"))(images)
    assert torch.equal(shared, torch.stack([assign(rows, modes[0]) for rows in images]))


def test_compiled_and_exported():
    class Grouping(torch.nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            seeds = seeds_of(images, rpe_ops.select_seeds(images, 6))
            modes = rpe_ops.mean_shift(images, kappa=20.0, num_steps=5, seeds=seeds, backend="torch")
            return rpe_ops.assign_to_modes(images, modes, threshold=0.9, backend="torch")

    images = problems.clustered(60, 4).reshape(3, 20, 4).float()
    expected = Grouping()(images)
    torch._dynamo.reset()
    compiled = torch.compile(Grouping(), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(images), expected)
    assert torch.equal(torch.export.export(Grouping(), (images,)).module()(images), expected)
    torch._dynamo.reset()


def test_opcheck(backend):
    points = naive.unit_rows(problems.clustered(12, 4))
    offsets, others = torch.tensor([0, 5, 5, 12]), torch.tensor([0, 2, 3, 5])
    first = torch.tensor([-1, 0, 3])
    for arguments in ((points, offsets, 4, first, 0), (points, torch.tensor([0, 6, 12]), 4, first[:2], 6)):
        torch.library.opcheck(torch.ops.rpe_ops.farthest_points, (*arguments, backend))
    torch.library.opcheck(torch.ops.rpe_ops.nearest_rows, (points, points[:5], offsets, others, backend))
