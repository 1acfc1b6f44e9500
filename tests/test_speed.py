"""Speed of backend `cpu` that a change must not lose: ratios of times inside one run, one thread each, in turns.

A ratio of two best times hardly depends on what else the machine does, and no clock has to be trusted. Bounds lie
far below what an idle AVX-512 machine shows (benchmarks/results), so that AVX2 and a busy machine pass.
"""

import time
from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn import functional as F

import naive
import problems
import rpe_ops

NUM_POINTS = 4096
ROUNDS = 4


@pytest.fixture(autouse=True)
def _one_thread_of_vector_code() -> Iterator[None]:
    reason = rpe_ops.available_backends("cpu")["cpu"]
    if reason is not None:
        pytest.skip(f"no native kernels: {reason}")
    rpe_ops.pairwise_loss(torch.eye(4), torch.arange(4), backend="cpu")  # built and loaded
    if torch.ops.rpe_ops_native.set_simd("auto") == "portable":
        pytest.skip("the CPU has neither AVX-512 nor AVX2: its compiler decides how fast portable code is")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def times_faster(fused: Callable[[], object], other: Callable[[], object]) -> float:
    """The best time of `other` over that of `fused`, each called in turn."""
    best = [float("inf"), float("inf")]
    for _ in range(ROUNDS):
        for index, call in enumerate((fused, other)):
            start = time.perf_counter()
            call()
            best[index] = min(best[index], time.perf_counter() - start)
    return best[1] / best[0]


def rows(dim: int) -> torch.Tensor:
    return F.normalize(problems.clustered(NUM_POINTS, dim, clusters=12).float(), dim=1).requires_grad_()


@pytest.mark.parametrize("dim, bound", [(16, 10.0), (64, 6.0)])
def test_the_loss_with_gradient_against_naive_pytorch(dim, bound):
    embedding, label = rows(dim), problems.labels(NUM_POINTS, instances=12)

    def fused() -> None:
        rpe_ops.pairwise_loss(embedding, label, backend="cpu").backward()

    assert times_faster(fused, lambda: naive.pairwise_loss(embedding, label).backward()) > bound


def attention(embedding: torch.Tensor) -> torch.Tensor:
    x = embedding[None, None]
    return F.normalize(F.scaled_dot_product_attention(x, x, x, scale=20.0)[0, 0], dim=1)


@pytest.mark.parametrize("dim", [8, 16, 64])
def test_a_step_with_gradient_against_attention(dim):
    embedding = rows(dim)

    def fused() -> None:
        rpe_ops.mean_shift(embedding, kappa=20.0, normalize=False, backend="cpu").sum().backward()

    assert times_faster(fused, lambda: attention(embedding).sum().backward()) > 1.1


def test_bfloat16_products_where_the_cpu_has_them():
    if torch.ops.rpe_ops_native.set_simd("auto") != "avx512_bf16":
        pytest.skip("this CPU has no bfloat16 products")
    embedding = rows(64)
    half = embedding.detach().bfloat16().requires_grad_()

    def run(points: torch.Tensor) -> None:
        rpe_ops.mean_shift(points, kappa=20.0, backend="cpu").sum().backward()

    assert times_faster(lambda: run(half), lambda: run(embedding)) > 1.2


def test_a_tolerance_pays_on_clusters():
    embedding = F.normalize(problems.clustered(4 * NUM_POINTS, 16, clusters=30, spread=0.2).float(), dim=1)

    def run(tol: float) -> None:
        rpe_ops.mean_shift(embedding, kappa=50.0, num_steps=6, tol=tol, backend="cpu")

    assert times_faster(lambda: run(1e-3), lambda: run(0.0)) > 2.0


def test_a_tolerance_costs_little_where_nothing_can_be_left_out():
    embedding = F.normalize(problems.directions(4 * NUM_POINTS, 16).float(), dim=1)

    def run(tol: float) -> None:
        rpe_ops.mean_shift(embedding, kappa=10.0, num_steps=2, tol=tol, backend="cpu")

    assert times_faster(lambda: run(1e-3), lambda: run(0.0)) > 0.75


def seeded_loop(x: torch.Tensor, num_seeds: int) -> torch.Tensor:
    """Seeded mean shift as robotics code writes it: seeds, ten iterations, the nearest mode of each point."""
    index, nearest = [0], x @ x[0]
    for _ in range(num_seeds - 1):
        index.append(int(nearest.argmin()))
        nearest = torch.maximum(nearest, x @ x[index[-1]])
    modes = x[index]
    for _ in range(10):
        kernel = torch.exp(20.0 * (modes @ x.T))
        modes = F.normalize(kernel @ x / kernel.sum(1, keepdim=True), dim=1)
    return (x @ modes.T).argmax(1)


def test_seeds_against_the_loop_of_robotics_code():
    points = F.normalize(problems.clustered(160 * 120, 64, clusters=8).float(), dim=1)

    def three_calls() -> None:
        seeds = points[rpe_ops.select_seeds(points, 100, first=0, backend="cpu")]
        modes = rpe_ops.mean_shift(points, kappa=20.0, num_steps=10, seeds=seeds, backend="cpu")
        rpe_ops.assign_to_modes(points, modes, threshold=0.95, backend="cpu")

    with torch.no_grad():
        assert times_faster(three_calls, lambda: seeded_loop(points, 100)) > 1.1
