"""However the work is cut, the numbers are the same: bands, blocks, SIMD variants, threads; problems of many tiles."""

import pytest
import torch
from test_mean_shift import KINDS, check, inputs, kinds, run, scalars
from test_pairwise_loss import check as check_loss
from test_pairwise_loss import run as run_loss
from torch import Tensor

import naive
import numerics
import problems
import rpe_ops
from rpe_ops.backends import images
from rpe_ops.backends.native import loader

# Around the quantum of rows and the largest block of the C++ kernels, and several blocks with a ragged last one.
LARGE = pytest.mark.large
SIZES = (47, 48, 49, 95, 96, 97, *(pytest.param(size, marks=LARGE) for size in (239, 241, 1_111)))


def everything(backend: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """All outputs and gradients of all operators on one ragged batch, second derivatives included."""
    batch = problems.ragged((170, 0, 3, 260), dim=7)
    embedding, threshold = batch.embedding.to(dtype), problems.clear_margin(batch.embedding, 0.9)
    margin, offsets = problems.clear_margin(batch.embedding), batch.offsets
    results = {
        "label": rpe_ops.connected_components(
            embedding, threshold=threshold, offsets=offsets, backend=backend
        )
    }
    leaf = embedding.clone().requires_grad_()
    loss = rpe_ops.pairwise_loss(
        leaf, batch.label, margin=margin, offsets=offsets, reduction="none", backend=backend
    )
    (grad,) = torch.autograd.grad(loss.sum(), leaf, create_graph=True)
    results |= {
        "loss": loss,
        "loss grad": grad,
        "loss curvature": torch.autograd.grad(grad.square().sum(), leaf)[0],
    }
    for kind, options in KINDS.items():
        tensors = {"embedding": embedding}
        shapes = {"offsets": offsets}
        if "num_seeds" in options:
            tensors["seeds"] = problems.directions(130, 7, seed=4).to(dtype)
            shapes["seed_offsets"] = torch.tensor([0, 100, 105, 110, 130])
        if "masses" in options:
            tensors["weight"] = problems.masses(433).to(dtype)
        tensors |= scalars(20.0, 0.8, dtype)
        leaves = {name: tensor.clone().requires_grad_() for name, tensor in tensors.items()}
        moved = rpe_ops.mean_shift(**leaves, **shapes, backend=backend)
        upstream = problems.directions(*moved.shape).to(dtype)
        grads = torch.autograd.grad((moved * upstream).sum(), list(leaves.values()), create_graph=True)
        second = torch.autograd.grad(grads[0].square().sum(), leaves["embedding"])[0]
        results |= {f"{kind}: moved": moved, f"{kind}: curvature": second}
        results |= {f"{kind}: grad {name}": grad for name, grad in zip(leaves, grads, strict=True)}
    return {name: value.detach() for name, value in results.items()}


def assert_all_same(results: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, value in results.items():
        if value.is_floating_point():
            numerics.assert_same(value, expected[name])
        else:
            assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def from_reference(one_thread: None) -> dict[str, Tensor]:
    return everything("reference", torch.float64)


@LARGE
@pytest.mark.float64
def test_all_operators_on_many_tiles(backend, from_reference):
    assert_all_same(everything(backend, torch.float64), from_reference)


@pytest.mark.parametrize("elements", [1, 300, 5_000])
def test_bands_of_any_height(monkeypatch, elements, one_thread, from_reference):
    monkeypatch.setattr(images, "BAND_ELEMENTS_CPU", elements)
    assert_all_same(everything("torch", torch.float64), from_reference)


def assert_near(results: dict[str, Tensor], exact: dict[str, Tensor], eager: dict[str, Tensor]) -> None:
    """Results of any dtype against float64, with the error of PyTorch in that dtype for a measure."""
    for name, value in results.items():
        if value.is_floating_point():
            # the gradients of kappa and eta are sums over some 3,000 upstream entries of size one, which cancel
            scale = 0.3 * 3_000**0.5 if value.ndim == 0 else 0.0
            numerics.assert_gradients(value, exact[name], eager[name], scale=scale)
        else:
            assert torch.equal(value, exact[name]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_simd_variant(dtype, restored_threads, from_reference):
    reason = rpe_ops.available_backends("cpu")["cpu"]
    if reason is not None:
        pytest.skip(f"backend cpu: {reason}")
    torch.set_num_threads(2)
    eager = everything("reference", dtype)
    variants = loader.load().build_info()["simd_supported"]
    assert "portable" in variants
    try:
        for variant in variants:
            assert torch.ops.rpe_ops_native.set_simd(variant) == variant
            assert_near(everything("cpu", dtype), from_reference, eager)
    finally:
        torch.ops.rpe_ops_native.set_simd("auto")


@pytest.mark.parametrize("num_points", SIZES)
def test_losses_of_many_tiles(backend, num_points):
    embedding = problems.clustered(num_points, 9, clusters=12, spread=0.6).float()
    label = problems.labels(num_points, instances=12)
    margin = problems.clear_margin(embedding, 0.6)
    check_loss(embedding, label, backend, margin=margin)
    check_loss(embedding, label, backend, margin=margin, weight="uniform", ignore_index=5)


@kinds
@pytest.mark.parametrize("num_points", [97, pytest.param(1_111, marks=LARGE)])
@pytest.mark.parametrize("kappa", [10.0, 1_000.0])
def test_steps_of_many_tiles(backend, kind, num_points, kappa):
    tensors = inputs(num_points, 9, **(kind | ({"num_seeds": 53} if "num_seeds" in kind else {})))
    tensors = {name: tensor.float() for name, tensor in tensors.items()}
    upstream = problems.directions(*tensors.get("seeds", tensors["embedding"]).shape).float()
    wide = {name: tensor.double() for name, tensor in tensors.items()}
    exact, exact_grads = run(naive.mean_shift, wide, upstream.double(), kappa=kappa)
    eager, eager_grads = run(naive.mean_shift, tensors, upstream, kappa=kappa)
    moved, grads = run(rpe_ops.mean_shift, tensors, upstream, kappa=kappa, backend=backend)
    numerics.assert_values(moved, exact, eager)
    for name, grad in grads.items():
        numerics.assert_gradients(
            grad, exact_grads[name], eager_grads[name], scale=float(upstream.abs().max())
        )


@LARGE
def test_tight_clusters_where_most_of_the_kernel_is_nothing(backend):
    """Far tiles may be skipped only where they cannot matter, in the forward and the backward alike."""
    rows = problems.clustered(600, 8, clusters=10, spread=0.02)[torch.arange(600) * 7 % 600]
    for kappa in (50.0, 400.0):
        tensors = {"embedding": rows, "weight": problems.masses(600)} | scalars(kappa, 0.9)
        check(tensors, backend, num_steps=2)


@LARGE
def test_threads_of_a_ragged_batch(backend, restored_threads):
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(everything(backend, torch.float32))
    for name, value in results[0].items():
        for other in results[1:]:
            if backend == "cpu" and "curvature" not in name:
                assert torch.equal(other[name], value), name
            elif value.is_floating_point():
                numerics.assert_same(other[name], value, scale=float(value.abs().max()))


@LARGE
def test_loss_of_one_large_image_and_many_small_ones(backend):
    lengths = (900, *[3] * 200, 0, 40)
    batch = problems.ragged(lengths, dim=5)
    loss, grad = run_loss(
        batch.embedding, batch.label, offsets=batch.offsets, reduction="none", backend=backend
    )
    for image in (0, 1, 77, 201, 202):
        rows = batch.images()[image]
        alone, alone_grad = run_loss(batch.embedding[rows], batch.label[rows], backend="reference")
        numerics.assert_same(loss[image], alone, scale=1.0)
        numerics.assert_same(grad[rows], alone_grad, scale=0.1)
