"""From a backend's name to a backend: "auto", explicit choices, reasons, warnings, and what importing costs."""

import json
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest
import torch

import rpe_ops
from rpe_ops import backends, dispatch, settings
from rpe_ops.backends import cuda, triton

NAMES = ["reference", "torch", "cpu", "triton", "cuda"]
ROWS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
LABEL = torch.arange(20) % 3


@pytest.fixture
def forgetful(monkeypatch):
    """Dispatch without its memory of what can run, before and after a test that changes it."""
    caches = [value for value in vars(dispatch).values() if hasattr(value, "cache_clear")]
    for cache in caches:
        cache.cache_clear()
    yield
    monkeypatch.undo()
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def served(monkeypatch) -> list[str]:
    """The names of the backends that served operator calls, in order."""
    names: list[str] = []
    original = backends.operator_module

    def record(backend, operator):
        names.append(backend)
        return original(backend, operator)

    monkeypatch.setattr(backends, "operator_module", record)
    return names


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | environment,
    )


def test_every_name_of_the_contract_is_listed():
    backends = rpe_ops.available_backends("cpu")
    assert list(backends) == NAMES
    assert backends["reference"] is None and backends["torch"] is None
    for reason in backends.values():
        assert reason is None or (isinstance(reason, str) and reason.strip())


def test_devices_are_given_in_any_form():
    expected = rpe_ops.available_backends("cpu")
    assert rpe_ops.available_backends(torch.device("cpu")) == expected
    assert rpe_ops.available_backends("cuda:0")["torch"] is None
    assert rpe_ops.available_backends("cuda:0")["cpu"] is not None
    if not torch.cuda.is_available():
        assert rpe_ops.available_backends() == expected


@pytest.mark.parametrize(
    "error, match, call",
    [
        (
            ValueError,
            "available_backends: device must be .* got 'gpu'",
            lambda: rpe_ops.available_backends("gpu"),
        ),
        (ValueError, "device must be .* got 3.5", lambda: rpe_ops.available_backends(3.5)),
        (ValueError, "warmup: device must be .* got 'gpu'", lambda: rpe_ops.warmup(4, device="gpu")),
        (RuntimeError, "'cuda:99' cannot be used, PyTorch sees", lambda: rpe_ops.warmup(4, device="cuda:99")),
        (ValueError, "warmup: backend must be one of 'auto'", lambda: rpe_ops.warmup(4, backend="fast")),
        (ValueError, "warmup: dim must be at least 1", lambda: rpe_ops.warmup(0)),
        (
            TypeError,
            "warmup: dtype must be one of torch.float16",
            lambda: rpe_ops.warmup(4, dtype=torch.int32),
        ),
        (ValueError, "MeanShift: device must be", lambda: rpe_ops.MeanShift(device="gpu").fit([[1.0, 2.0]])),
    ],
)
def test_mistakes_in_devices_and_names_are_named(error, match, call):
    with pytest.raises(error, match=match):
        call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_warmup_calls_every_operator(backend, served, monkeypatch, dtype):
    called = []
    original = backends.operator_module

    def record(name, operator):
        called.append(operator)
        return original(name, operator)

    monkeypatch.setattr(backends, "operator_module", record)
    seconds = rpe_ops.warmup(5, dtype=dtype, device=torch.get_default_device(), backend=backend)
    assert seconds > 0 and set(served) == {backend}
    assert set(called) == {"mean_shift", "pairwise_loss", "connected_components"}


def test_an_explicit_backend_serves_forward_and_backward(backend, served):
    rows, label = (tensor.to(torch.get_default_device()) for tensor in (ROWS, LABEL))
    leaf = rows.clone().requires_grad_()
    moved = rpe_ops.mean_shift(leaf, kappa=9.0, num_steps=2, backend=backend)
    rpe_ops.pairwise_loss(moved, label, backend=backend).backward()
    rpe_ops.connected_components(rows, threshold=0.9, backend=backend)
    assert set(served) == {backend}


def test_auto_serves_and_never_with_the_reference(served):
    leaf = ROWS.clone().requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moved = rpe_ops.mean_shift(leaf, kappa=9.0)
        rpe_ops.pairwise_loss(moved, LABEL).backward()
        rpe_ops.connected_components(ROWS, threshold=0.9)
    assert len(set(served)) == 1 and served[0] in ("cpu", "torch")


def test_a_failed_build_warns_once_and_the_next_backend_serves(monkeypatch, forgetful, served):
    def fail() -> None:
        raise RuntimeError("kernel.cpp:7: error: expected ';'. Install a C++17 compiler")

    broken = SimpleNamespace(unavailable_reason=lambda device: None, prepare=fail)
    monkeypatch.setitem(sys.modules, "broken_backend", broken)
    monkeypatch.setitem(dispatch.BACKENDS, "cpu", "broken_backend")
    with pytest.warns(RuntimeWarning, match="expected ';'. Install a C[+][+]17 compiler") as caught:
        first = rpe_ops.pairwise_loss(ROWS, LABEL)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        second = rpe_ops.pairwise_loss(ROWS, LABEL)
        rpe_ops.mean_shift(ROWS, kappa=9.0)
    assert set(served) == {"torch"} and torch.equal(first, second)
    with pytest.raises(RuntimeError, match="expected ';'"):
        rpe_ops.pairwise_loss(ROWS, LABEL, backend="cpu")


def test_adding_a_backend_is_one_line(monkeypatch, forgetful, served):
    monkeypatch.setitem(dispatch.BACKENDS, "another", "rpe_ops.backends.blocked")
    assert rpe_ops.available_backends("cpu")["another"] is None
    rpe_ops.pairwise_loss(ROWS, LABEL, backend="another")
    assert served == ["another"]


@pytest.fixture
def two_gpus(monkeypatch, forgetful):
    """PyTorch as it is with two GPUs of compute capability 9.0 and 7.5, the second one current, and Triton."""
    capabilities = {0: (9, 0), 1: (7, 5)}

    def capability(device: torch.device) -> tuple[int, int]:
        return capabilities[1 if device.index is None else device.index]

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", capability)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(triton, "_package_reason", lambda: None)
    monkeypatch.setattr(settings, "triton_interprets", lambda: False)
    monkeypatch.setattr(
        cuda,
        "loader",
        SimpleNamespace(load=lambda: None, unavailable_reason=lambda: None, architectures=lambda: "9.0"),
    )
    return capabilities


def test_each_gpu_is_asked_for_itself(two_gpus):
    def served(device: str) -> str:
        return dispatch.resolve("mean_shift", "auto", torch.device(device), torch.float32, 8)

    assert served("cuda:0") == "triton"
    with pytest.warns(RuntimeWarning, match="needs compute capability 8.0 or newer, this GPU has 7.5"):
        assert served("cuda:1") == "torch"
    assert served("cuda:0") == "triton"
    for backend in ("triton", "cuda"):
        assert rpe_ops.available_backends("cuda:0")[backend] is None
        assert "7.5" in rpe_ops.available_backends("cuda")[backend], "the current one"
        with pytest.raises(RuntimeError, match="cannot run on cuda:1 tensors: needs compute capability 8.0"):
            dispatch.resolve("mean_shift", backend, torch.device("cuda:1"), torch.float32, 8)


def test_a_loaded_extension_for_another_gpu_serves_that_one_alone(two_gpus):
    two_gpus[1] = (12, 0)
    assert dispatch.resolve("mean_shift", "cuda", torch.device("cuda:0"), torch.float32, 8) == "cuda"
    reason = "the kernels loaded are for compute capability 9.0, this GPU has 12.0"
    with pytest.raises(RuntimeError, match=reason):
        dispatch.resolve("mean_shift", "cuda", torch.device("cuda:1"), torch.float32, 8)
    assert dispatch.resolve("mean_shift", "triton", torch.device("cuda:1"), torch.float32, 8) == "triton"


def test_what_was_loaded_is_asked_again(two_gpus, monkeypatch):
    """Before it is loaded nobody knows which GPUs the extension serves."""
    two_gpus[1] = (12, 0)
    loaded: list[str] = []
    monkeypatch.setattr(cuda.loader, "load", lambda: loaded.append("9.0"))
    monkeypatch.setattr(cuda.loader, "architectures", lambda: loaded[0] if loaded else None)
    assert rpe_ops.available_backends("cuda:1")["cuda"] is None
    with pytest.raises(RuntimeError, match="this GPU has 12.0"):
        dispatch.resolve("mean_shift", "cuda", torch.device("cuda:1"), torch.float32, 8)


def test_importing_is_silent_builds_nothing_and_needs_nothing(tmp_path):
    code = """
import sys, rpe_ops, json
loaded = [name for name in ("triton", "scipy", "sklearn", "matplotlib", "rpe") if name in sys.modules]
print(json.dumps([loaded, rpe_ops.available_backends("cpu")["torch"]]), file=sys.stderr)
"""
    result = run_python(code, RPE_OPS_CACHE_DIR=str(tmp_path / "cache"), PATH="", CC="", CXX="")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    assert json.loads(result.stderr) == [[], None]
    assert not (tmp_path / "cache").exists() or not any((tmp_path / "cache").iterdir())


def test_a_triton_of_another_distribution_or_kept_out_is_a_reason(tmp_path):
    """As pytorch-triton or triton-windows, and as tests of programs without it have it."""
    package = tmp_path / "triton"
    package.mkdir()
    code = """
import sys, importlib.metadata, importlib.util, torch, rpe_ops
from rpe_ops.backends import triton
real = importlib.metadata.version
def version(name):
    if name == "triton":
        raise importlib.metadata.PackageNotFoundError(name)
    return real(name)
importlib.metadata.version = version
sys.path.insert(0, FOLDER)
for said, expected in (("3.9.1+git", "runs on NVIDIA GPUs"), ("3.2.0", "3.2.0 is installed"), (None, "no __version__")):
    for name in [name for name in sys.modules if name.split(".")[0] == "triton"]:
        del sys.modules[name]
    with open(FOLDER + "/triton/__init__.py", "w") as file:
        file.write("" if said is None else f"__version__ = {said!r}")
    importlib.invalidate_caches()
    triton._package_reason.cache_clear()
    sys.dont_write_bytecode = True
    assert expected in rpe_ops.available_backends("cpu")["triton"], (said, rpe_ops.available_backends("cpu"))
def refuse(name):
    raise ImportError(name)
importlib.util.find_spec = refuse
triton._package_reason.cache_clear()
assert "not installed" in rpe_ops.available_backends("cpu")["triton"]
""".replace("FOLDER", repr(str(tmp_path)))
    result = run_python(code, TRITON_INTERPRET="0")
    assert result.returncode == 0, result.stderr


def test_without_a_compiler_torch_serves_with_one_warning(tmp_path):
    code = """
import warnings, torch, rpe_ops
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        leaf = torch.randn(9, 3, requires_grad=True)
        rpe_ops.pairwise_loss(rpe_ops.mean_shift(leaf, kappa=9.0), torch.arange(9) % 2).backward()
messages = [str(w.message) for w in caught if "rpe_ops" in str(w.message)]
assert len(messages) == 1, messages
assert rpe_ops.available_backends("cpu")["cpu"] is not None
try:
    rpe_ops.pairwise_loss(leaf, torch.arange(9), backend="cpu")
except RuntimeError as error:
    assert "compiler" in str(error), error
else:
    raise SystemExit("backend cpu ran without a compiler")
"""
    result = run_python(code, RPE_OPS_CACHE_DIR=str(tmp_path / "cache"), PATH=str(tmp_path), CC="", CXX="")
    if "backend cpu ran without a compiler" in result.stderr or "AssertionError: []" in result.stderr:
        pytest.skip("the native library comes built with this installation")
    assert result.returncode == 0, result.stderr


def test_show_config_is_what_a_bug_report_needs():
    text = str(rpe_ops.show_config())
    for word in (rpe_ops.__version__, torch.__version__, *NAMES, "compiler", "thread", "cache", "CUDA"):
        assert word.lower() in text.lower(), f"{word!r} is not in:\n{text}"


def test_the_public_names_are_those_of_the_contract():
    public = {
        "pairwise_loss",
        "mean_shift",
        "connected_components",
        "kappa_from_margin",
        "suggest_margin",
        "available_backends",
        "show_config",
        "nn",
    }
    assert public <= set(rpe_ops.__all__)
    assert all(hasattr(rpe_ops, name) for name in rpe_ops.__all__)


@pytest.mark.parametrize(
    "backend, device_type, dtype, precision, expected",
    [
        ("triton", "cuda", torch.float32, "highest", False),
        ("triton", "cuda", torch.float32, "high", True),
        ("cuda", "cuda", torch.float32, "medium", True),
        ("cuda", "cuda", torch.float16, "highest", True),
        ("triton", "cuda", torch.bfloat16, "highest", True),
        ("triton", "cpu", torch.float32, "medium", False),
        ("cpu", "cpu", torch.bfloat16, "highest", True),
        ("cpu", "cpu", torch.float16, "medium", False),
        ("cpu", "cpu", torch.float32, "medium", False),
    ],
)
def test_who_may_multiply_half_types(monkeypatch, backend, device_type, dtype, precision, expected):
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: precision)
    assert dispatch.half_operands(backend, device_type, dtype) is expected
