"""`rpe_ops.pairwise_loss` at its edges, and its determinism; the ordinary case: `test_pairwise_loss.py`."""

import pytest
import torch
from test_pairwise_loss import check, run, run_naive
from torch.nn import functional as F

import numerics
import problems
import rpe_ops
from rpe_ops.backends import images

# Sizes


@pytest.mark.parametrize("num_points", problems.SIZES)
def test_every_size(backend, num_points, poisoned_memory):
    embedding = problems.clustered(num_points, 5, seed=num_points).float()
    label = problems.labels(num_points, seed=num_points)
    check(embedding, label, backend, margin=problems.clear_margin(embedding, 0.4))


@pytest.mark.parametrize("dim", problems.DIMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_dim(backend, dim, dtype, poisoned_memory):
    embedding = problems.clustered(67, dim, seed=dim).to(dtype)
    check(embedding, problems.labels(67), backend, margin=problems.clear_margin(embedding, 0.4))


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e6])
def test_a_weight_of_minus_zero_is_zero(backend, size):
    embedding, label = problems.clustered(40, 5).float(), problems.labels(40)
    weight = (problems.masses(40) * size).float()
    weight[3:9] = 0.0
    results = [
        run(embedding, label, weight=chosen, backend=backend)
        for chosen in (weight, torch.where(weight == 0.0, -0.0, weight))
    ]
    for value, other in zip(*results, strict=True):
        assert torch.equal(value, other)


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-24, 1e19, 1e25, 1e38])
def test_the_scale_of_weights_does_not_count_where_they_are_divided_by(backend, size):
    """Squares of these leave the range of float32."""
    embedding, label = problems.clustered(40, 5).float(), problems.labels(40)
    options = {"margin": problems.clear_margin(embedding), "backend": backend}
    loss, grad = run(embedding, label, weight="uniform", normalizer="weights", **options)
    scaled = run(embedding, label, weight=torch.full((40,), size), normalizer="weights", **options)
    torch.testing.assert_close(scaled[0], loss)
    torch.testing.assert_close(scaled[1], grad)


def test_rounding_takes_no_loss_below_zero(backend):
    """Three instances of equal points, right angles apart, and a single point."""
    for seed in range(10):
        label = torch.arange(90) % 3
        generator = torch.Generator().manual_seed(seed)
        length = torch.rand(90, 1, generator=generator, device="cpu").to(label.device) + 0.1
        axes = torch.randn(6, 6, generator=generator.manual_seed(seed), device="cpu")
        axes = torch.linalg.qr(axes)[0].to(label.device)
        for rows in (slice(None), slice(1)):
            loss, _ = run((axes[label] * length)[rows], label[rows], margin=1.0, backend=backend)
            assert 0.0 <= float(loss) < 1e-5


def test_no_pair_exceeds_a_margin_of_one(backend):
    """Products of rounded rows do; all that is left is the pull of each row to itself."""
    rows = F.normalize(problems.directions(20, 5, seed=3).float(), dim=1).repeat(2, 1)
    options = {"normalize": False, "normalizer": "none", "backend": backend}
    loss, grad = run(rows, torch.arange(40), margin=1.0, **options)
    assert float(loss) < 1e-6
    numerics.assert_same(grad, -rows)


@pytest.mark.parametrize("num_points", [31, 65])
def test_uniform_and_tensor_weights_at_odd_sizes(backend, num_points):
    embedding, label = problems.clustered(num_points, 17).float(), problems.labels(num_points)
    margin = problems.clear_margin(embedding)
    check(embedding, label, backend, margin=margin, weight="uniform")
    weight = problems.masses(num_points).float()
    weight[::3] = 0.0
    check(embedding, label, backend, margin=margin, weight=weight, normalizer="weights")


@pytest.mark.parametrize("shape", [(0, 3), (0, 5, 3), (2, 0, 3), (0, 0, 3)])
@pytest.mark.parametrize("reduction", ["sum", "mean", "none"])
def test_nothing_gives_zero(backend, shape, reduction):
    label = torch.zeros(shape[:-1], dtype=torch.int64)
    loss, grad = run(torch.zeros(shape), label, reduction=reduction, backend=backend)
    expected = (shape[0],) if reduction == "none" and len(shape) == 3 else ()
    assert torch.equal(loss, torch.zeros(expected))
    assert grad.shape == shape


def test_packed_batch_without_images_or_points(backend):
    for offsets, num_images in (([0], 0), ([0, 0, 0], 2)):
        options = {"offsets": torch.tensor(offsets), "reduction": "none", "backend": backend}
        loss, grad = run(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), **options)
        assert torch.equal(loss, torch.zeros(num_images))
        assert grad.shape == (0, 4)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64, torch.uint8])
def test_offsets_of_any_integer_dtype(backend, dtype):
    batch = problems.ragged((3, 0, 4))
    expected = run(batch.embedding, batch.label, offsets=batch.offsets, backend=backend)
    result = run(batch.embedding, batch.label, offsets=batch.offsets.to(dtype), backend=backend)
    assert all(map(torch.equal, result, expected))


# Instances


@pytest.mark.parametrize("instances", [1, 2, 50])
def test_one_instance_and_one_point_instances(backend, instances):
    embedding, label = problems.clustered(50, 4), torch.arange(50) % instances
    check(embedding, label, backend, margin=problems.clear_margin(embedding, 0.7))


def test_everything_ignored_is_zero(backend):
    batch = problems.ragged((6, 9, 5))
    label = batch.label.clone()
    label[6:15] = -1
    options = {"ignore_index": -1, "offsets": batch.offsets, "reduction": "none", "backend": backend}
    for weight in ("instance", "uniform", problems.masses(20)):
        for normalizer in ("points", "weights", "none"):
            loss, grad = run(batch.embedding, label, weight=weight, normalizer=normalizer, **options)
            assert loss[1] == 0.0 and bool(loss.isfinite().all()) and bool((loss[[0, 2]] > 0).all())
            assert torch.equal(grad[6:15], torch.zeros(9, 4, dtype=grad.dtype))
    loss, grad = run(batch.embedding, torch.full((20,), -1), ignore_index=-1, backend=backend)
    assert loss == 0.0 and torch.equal(grad, torch.zeros_like(grad))


def test_all_weights_zero_is_zero(backend):
    embedding, label = problems.clustered(12, 3), problems.labels(12)
    for normalizer in ("points", "weights", "none"):
        loss, grad = run(embedding, label, weight=torch.zeros(12), normalizer=normalizer, backend=backend)
        assert loss == 0.0 and torch.equal(grad, torch.zeros_like(grad))


@pytest.mark.parametrize(
    "dtype, values, ignore_index",
    [
        (torch.uint8, [0, 1, 128, 255], 255),
        (torch.int8, [-128, -1, 0, 127], -1),
        (torch.int16, [-32_768, -1, 0, 32_767], -1),
        (torch.int32, [-(2**31), -1, 0, 2**31 - 1], 2**31 - 1),
        (torch.int64, [-(2**63), -1, 0, 2**63 - 1], 2**63 - 1),
        (torch.int64, [-(2**63), -1, 0, 2**63 - 1], -(2**63)),
        (torch.uint16, [0, 1, 32_768, 65_535], 65_535),
        (torch.uint32, [0, 1, 2**31, 2**32 - 1], 2**32 - 1),
        (torch.uint64, [0, 1, 2**63, 2**64 - 1], 2**64 - 1),
        (torch.uint64, [0, 1, 2**63, 2**64 - 1], 2**63),
    ],
)
def test_label_dtypes_and_extreme_values(backend, dtype, values, ignore_index):
    embedding, plain = problems.clustered(23, 4), problems.labels(23)
    label = torch.tensor([values[y] for y in plain.tolist()], dtype=dtype)
    for ignored, plain_ignored in ((None, None), (ignore_index, values.index(ignore_index))):
        expected = run(embedding, plain, ignore_index=plain_ignored, backend=backend)
        result = run(embedding, label, ignore_index=ignored, backend=backend)
        for mine, theirs in zip(result, expected, strict=True):
            numerics.assert_same(mine, theirs)


@pytest.mark.parametrize(
    "dtype, values, ignore_index",
    [
        (torch.uint8, [0, 1, 255], -1),
        (torch.uint8, [0, 1, 255], 256),
        (torch.uint64, [0, 1, 2**64 - 1], -1),
        (torch.int64, [0, 1, -1], 2**64 - 1),
        (torch.int64, [0, 1, -1], 2**64),
    ],
)
def test_ignore_index_that_no_label_can_have_ignores_nothing(backend, dtype, values, ignore_index):
    embedding, plain = problems.clustered(12, 4), problems.labels(12, instances=3)
    label = torch.tensor([values[y] for y in plain.tolist()], dtype=dtype)
    loss, _ = run(embedding, label, ignore_index=ignore_index, backend=backend)
    numerics.assert_same(loss, run(embedding, plain, backend=backend)[0])


# Values


@pytest.mark.parametrize("dtype", problems.DTYPES)
def test_zero_rows(backend, dtype):
    embedding = problems.clustered(20, 4).to(dtype)
    embedding[[0, 7, 8]] = 0.0
    label = problems.labels(20)
    for margin in (0.3, 0.5, 0.8):
        # at 0.5 the zero rows lie on the hinge's edge, where the subgradient is 0
        clear = margin if margin == 0.5 else problems.clear_margin(embedding, margin)
        check(embedding, label, backend, margin=clear)
        _, grad = run(embedding, label, margin=margin, backend=backend)
        assert torch.equal(grad[[0, 7, 8]], torch.zeros(3, 4, dtype=dtype))


def test_a_zero_row_has_similarity_one_half_with_itself(backend):
    loss, _ = run(torch.zeros(1, 4), torch.tensor([0]), backend=backend)
    assert loss == 0.5
    loss, _ = run(torch.zeros(3, 4), torch.tensor([0, 1, 2]), margin=0.25, normalizer="none", backend=backend)
    numerics.assert_same(loss, torch.tensor(3 * 0.5 + 6 * 0.25))


def test_equal_and_opposite_points(backend):
    rows = torch.tensor([[3.0, 0.0], [1.0, 0.0], [-2.0, 0.0], [-1.0, 0.0]])
    for label in ([0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 1, 1], [0, 1, 0, 1]):
        check(rows, torch.tensor(label), backend, margin=0.25)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_nonfinite_input_stays_in_its_image(backend, value):
    batch = problems.ragged((6, 9, 0, 5))
    options = {"offsets": batch.offsets, "backend": backend, "reduction": "none"}
    expected_loss, expected_grad = run(batch.embedding, batch.label, **options)
    spoilt = batch.embedding.clone()
    spoilt[8, 2] = value
    loss, grad = run(spoilt, batch.label, **options)
    others = torch.tensor([0, 2, 3])
    assert bool(loss[1].isnan()) and torch.equal(loss[others], expected_loss[others])
    outside = torch.ones(20, dtype=torch.bool)
    outside[6:15] = False
    assert bool(grad[6:15].isnan().all())
    numerics.assert_same(grad[outside], expected_grad[outside])


def test_nonfinite_input_of_one_unbatched_image(backend):
    rows = problems.clustered(10, 3)
    rows[3, 1] = torch.inf
    loss, grad = run(rows, problems.labels(10), normalize=True, backend=backend)
    assert bool(loss.isnan()) and bool(grad.isnan().all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_at_the_ends_of_their_range(backend, dtype):
    limits = torch.finfo(dtype)
    unit = problems.clustered(20, 4)
    unit = unit / unit.norm(dim=1, keepdim=True)
    for size in (limits.max / 2, limits.tiny * 16):
        rows = (unit * size).to(dtype)
        loss, grad = run(rows, problems.labels(20), backend=backend)
        loss = loss.to(dtype) if backend in numerics.HALF_PRODUCTS else loss
        numerics.assert_values(loss, run(rows.double(), problems.labels(20), backend="reference")[0])
        assert bool(grad.isfinite().all())


def test_float32_rows_of_extreme_length(backend):
    unit, label = problems.clustered(20, 4), problems.labels(20)
    scale = torch.tensor([1e-30, 1e-10, 1.0, 1e10, 1e30]).repeat(4)[:, None].double()
    loss, grad = run((unit * scale).float(), label, backend=backend)
    exact_loss, exact_grad = run(unit, label, backend="reference")
    numerics.assert_values(loss, exact_loss)
    assert bool(grad.isfinite().all())
    numerics.assert_gradients((grad.double() * scale).float(), exact_grad, run_naive(unit.float(), label)[1])


# Memory layouts


def test_strided_inputs(backend):
    rows, label = problems.clustered(24, 6), problems.labels(24)
    weight = problems.masses(24)
    expected = run(rows, label, weight=weight, backend=backend)
    wide = torch.zeros(24, 13, dtype=problems.widest())
    wide[:, 1:13:2] = rows
    views = {
        "transposed": rows.T.contiguous().T,
        "strided columns": wide[:, 1:13:2],
        "strided rows": rows.repeat_interleave(2, dim=0)[::2],
        "offset": torch.cat([rows[:1], rows])[1:],
    }
    for name, view in views.items():
        strided = torch.stack([label, label], 1)[:, 0], torch.stack([weight, weight], 1)[:, 1]
        view = view.detach().requires_grad_()
        loss = rpe_ops.pairwise_loss(view, strided[0], weight=strided[1], backend=backend)
        (grad,) = torch.autograd.grad(loss, view)
        assert torch.equal(loss.detach(), expected[0]), name
        assert torch.equal(grad, expected[1]), name


def test_expanded_inputs(backend):
    rows, label = problems.clustered(12, 3), problems.labels(12)
    loss, grad = run(rows, label, backend=backend)
    leaf = rows.clone().requires_grad_()
    total = rpe_ops.pairwise_loss(leaf.expand(3, 12, 3), label.expand(3, 12), backend=backend)
    total.backward()
    numerics.assert_same(total.detach(), 3 * loss)
    numerics.assert_same(leaf.grad, 3 * grad)


def test_inputs_are_left_as_they_were(backend):
    rows, label, weight = problems.clustered(12, 3), problems.labels(12), problems.masses(12)
    before = rows.clone(), label.clone(), weight.clone()
    leaf = rows.requires_grad_()
    rpe_ops.pairwise_loss(
        leaf, label, weight=weight, normalize=False, ignore_index=1, backend=backend
    ).backward()
    assert all(map(torch.equal, (leaf, label, weight), before))


# Determinism


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_equal_inputs_give_equal_bits(backend, dtype):
    embedding, label = problems.clustered(257, 17).to(dtype), problems.labels(257, instances=9)
    first = run(embedding, label, backend=backend)
    again = run(embedding.clone(), label.clone(), backend=backend)
    assert all(map(torch.equal, first, again))


def test_threads_do_not_change_the_bits_of_cpu(backend, restored_threads):
    if backend != "cpu":
        pytest.skip("PyTorch's own matrix products may depend on the number of threads")
    embedding, label = problems.clustered(1_111, 17).float(), problems.labels(1_111, instances=9)
    results = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        results.append(run(embedding, label, backend=backend))
    assert all(map(torch.equal, *results))


def test_devices_that_cannot_reduce_segments(monkeypatch):
    """Apple's GPUs; the sums of a CPU stand in for theirs."""
    embedding, label = problems.clustered(40, 5).float().requires_grad_(), problems.labels(40)
    offsets = torch.tensor([0, 0, 15, 40])

    def result() -> tuple[torch.Tensor, ...]:
        options = {"offsets": offsets, "normalizer": "weights", "reduction": "none", "backend": "torch"}
        loss = rpe_ops.pairwise_loss(embedding, label, **options)
        return loss, *torch.autograd.grad(loss.sum(), embedding)

    expected = result()
    monkeypatch.setattr(images, "_REDUCES_SEGMENTS", ())
    monkeypatch.setattr(torch, "segment_reduce", None)
    for found, right in zip(result(), expected, strict=True):
        numerics.assert_same(found, right)
