"""Fixtures that every folder of tests shares; what one operator needs stands beside its own tests."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import emulation
import numerics
import problems
import rpe_ops
from rpe_ops import backends, dispatch, settings

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--emulate-cuda",
        action="store_true",
        help='run backend "cuda" on CPU tensors: its kernels compiled for an emulated device',
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--emulate-cuda"):
        emulation.serve()
    if settings.triton_interprets() and rpe_ops.available_backends("cpu")["triton"] is None:
        emulation.round_products_once()
    torch.backends.cudnn.allow_tf32 = False  # networks of the tests are compared with those on CPUs


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout, for tests that read the sources themselves."""
    return REPOSITORY


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real images that RPE_TEST_DATA names; skips, with the reason, where there is none."""
    root = os.environ.get("RPE_TEST_DATA")
    if not root:
        pytest.skip("RPE_TEST_DATA is not set: no real data on this machine")
    if not Path(root).is_dir():
        pytest.fail(f"RPE_TEST_DATA names {root}, which is not a folder")
    return Path(root)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for a module of small problems: on a busy machine threads wait for each other far longer than they
    compute. What more threads may change is tested by name."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=list(dispatch.BACKENDS))
def backend(request: pytest.FixtureRequest, one_thread: None) -> Iterator[str]:
    """The name of every registered backend in turn; skips, with its own reason, where it cannot run.

    New tensors are then on the device it runs on: the CPU where it can, else the GPU. The inputs of `problems` have the
    widest dtype it serves.
    """
    name = request.param
    reason = rpe_ops.available_backends("cpu")[name]
    on_gpu = (
        reason is not None and torch.cuda.is_available() and rpe_ops.available_backends("cuda")[name] is None
    )
    if reason is not None and not on_gpu:
        pytest.skip(f"backend {name}: {reason}")
    on_no_gpu = {"triton": settings.triton_interprets()}
    if on_no_gpu.get(name) and request.node.get_closest_marker("large"):
        pytest.skip(f"backend {name}: too many pairs to run without a GPU")
    only_float32 = getattr(backends.package(name), "unsupported_reason", lambda *_: None)(torch.float64, 1)
    parameters = request.node.callspec.params.values()
    if only_float32 and (request.node.get_closest_marker("float64") or torch.float64 in parameters):
        pytest.skip(f"backend {name}: {only_float32}")
    try:
        torch.set_default_device("cuda" if on_gpu else None)
        problems.serve(torch.float32 if only_float32 else torch.float64)
        numerics.serve(name)
        yield name
    finally:
        numerics.serve(None)
        problems.serve(torch.float64)
        torch.set_default_device(None)


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Unwritten memory reads as NaN (integers: as a huge value), so that an output nobody wrote cannot pass as zero."""

    def poison(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            return tensor.fill_(torch.nan)
        return tensor if tensor.dtype is torch.bool else tensor.fill_(torch.iinfo(tensor.dtype).max // 2)

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        original = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *args, _make=original, **kwargs: poison(_make(*args, **kwargs))
        )
    # the same inside ATen, where C++ backends allocate
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture
def restored_threads() -> Iterator[None]:
    """Puts the number of PyTorch's threads back after a test that changes it."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
