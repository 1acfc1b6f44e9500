"""What only a GPU can show: streams, CUDA graphs, the same numbers. Every test skips, with the reason, without one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import numerics
import problems
import rpe_ops
from rpe_ops import dispatch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine"),
]


@pytest.fixture(params=list(dispatch.BACKENDS))
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every registered backend that runs on CUDA tensors."""
    reason = rpe_ops.available_backends("cuda")[request.param]
    if reason is not None:
        pytest.skip(f"backend {request.param}: {reason}")
    numerics.serve(request.param)
    yield request.param
    numerics.serve(None)


def objective(rows: Tensor, label: Tensor, backend: str) -> Tensor:
    moved = rpe_ops.mean_shift(rows, kappa=9.0, num_steps=2, backend=backend)
    loss = rpe_ops.pairwise_loss(rows, label, backend=backend)
    return loss + rpe_ops.pairwise_loss(moved, label, normalize=False, backend=backend)


def problem() -> tuple[Tensor, Tensor]:
    return problems.clustered(200, 16).float().cuda(), problems.labels(200).cuda()


def run(rows: Tensor, label: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """The objective and its gradient."""
    leaf = rows.detach().requires_grad_()
    loss = objective(leaf, label.to(leaf.device), backend)
    loss.backward()
    return loss.detach(), leaf.grad


def assert_right(rows: Tensor, label: Tensor, given: tuple[Tensor, Tensor], judge: str) -> None:
    """Against float64 by the backend `judge`, within the error of its computation in the dtype of the rows."""
    exact, exact_grad = run(rows.double(), label, judge)
    eager, eager_grad = run(rows, label, judge)
    numerics.assert_values(given[0], exact, eager)
    numerics.assert_gradients(given[1], exact_grad, eager_grad, scale=10 * float(exact_grad.abs().max()))


def test_same_numbers_as_on_the_cpu(backend):
    rows, label = problem()
    assert_right(rows.cpu(), label, run(rows, label, backend), "reference")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("dim", [8, 16, 32, 64, 128])
def test_many_tiles_of_every_width(backend, dim, dtype):
    """Asynchronous copies and products of thousands of tiles: a hazard among them shows as a wrong number, or as other
    bits the next time."""
    if backend not in numerics.HALF_PRODUCTS:
        pytest.skip(f"backend {backend}: its tiles and products are PyTorch's own")
    rows = problems.clustered(16_421, dim).to(dtype).cuda()
    label = problems.labels(16_421).cuda()
    first = run(rows, label, backend)
    assert_right(rows, label, first, "torch")
    for _ in range(10):
        assert all(map(torch.equal, run(rows, label, backend), first))


def test_components_agree_with_the_cpu(backend):
    rows, _ = problem()
    threshold = problems.clear_margin(rows.cpu(), 0.9)
    label = rpe_ops.connected_components(rows, threshold=threshold, backend=backend)
    expected = rpe_ops.connected_components(rows.cpu(), threshold=threshold, backend="reference")
    assert torch.equal(label.cpu(), expected)


def test_other_streams(backend):
    rows, label = problem()
    expected = objective(rows, label, backend)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(10_000_000)
        late = rows * 1.0
        loss = objective(late, label, backend)
    torch.cuda.current_stream().wait_stream(stream)
    numerics.assert_same(loss, expected)


def test_a_cuda_graph_replays_with_other_numbers(backend):
    if backend in ("reference", "torch"):
        pytest.skip("the PyTorch backends read the offsets on the host")
    rows, label = problem()
    leaf = rows.clone().requires_grad_()

    def step() -> tuple[Tensor, Tensor]:
        loss = objective(leaf, label, backend)
        return loss, torch.autograd.grad(loss, leaf)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss, grad = step()
    with torch.no_grad():
        leaf.copy_(rows.flip(1))
    graph.replay()
    replayed = loss.clone(), grad.clone()
    for value, expected in zip(replayed, step(), strict=True):
        numerics.assert_same(value.detach(), expected.detach())


def test_equal_inputs_give_equal_bits(backend):
    rows, label = problem()
    assert all(map(torch.equal, run(rows, label, backend), run(rows, label, backend)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_recurrence_over_every_pixel_of_an_image_stays_below_3_gb(backend, dtype):
    """512 x 512 pixels, five steps and their gradient; one N x N matrix alone would take 137 or 275 GB."""
    if backend in ("reference", "torch"):
        pytest.skip("the PyTorch backends take minutes")
    rows = torch.randn(512 * 512, 64, generator=problems.generator(0)).to("cuda", dtype).requires_grad_()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    others = torch.cuda.memory_allocated() - rows.nbytes
    rpe_ops.mean_shift(rows, kappa=20.0, num_steps=5, backend=backend).sum().backward()
    torch.cuda.synchronize()
    assert torch.cuda.max_memory_allocated() - others < 3e9
    assert bool(rows.grad.isfinite().all())


def test_label_on_another_device_is_refused():
    rows, label = problem()
    with pytest.raises(ValueError, match="pairwise_loss: label must be on the device of embedding, cuda"):
        rpe_ops.pairwise_loss(rows, label.cpu())
