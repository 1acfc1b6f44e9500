"""From `backend="auto"` to one backend, or an error that lists every backend's reason.

It knows the environment's limits (devices, compilers, packages) and nothing of the user's arguments. The
registry of backends is `rpe_ops/backends/__init__.py`. It never reads what is in a tensor.
"""

from __future__ import annotations

import functools
import operator
import warnings

import torch
from torch import Tensor

from rpe_ops import backends
from rpe_ops.backends import BACKENDS

# What "auto" tries, fastest first. Anything else than these devices is served by "torch".
PREFERENCE: dict[str, tuple[str, ...]] = {"cpu": ("cpu", "torch"), "cuda": ("triton", "cuda", "torch")}


def unavailable_reason(backend: str, device: torch.device) -> str | None:
    """None where `backend` can serve tensors on `device`, else the reason in one sentence. Builds nothing."""
    reason: str | None = backends.package(backend).unavailable_reason(device)
    return reason


def available_backends(device: torch.device | str | None = None) -> dict[str, str | None]:
    """Which backends can run, and why the others cannot.

    Args:
        device: the device the tensors are on, `"cuda"` for the current GPU; default: that if PyTorch sees one, else
            the CPU.

    Returns:
        `{name: None or the reason it cannot run}`, one entry for each backend. Nothing is built: a native backend that
        was not built yet counts as available when its compiler is found.

    Example:
        >>> import rpe_ops
        >>> rpe_ops.available_backends("cpu")["torch"] is None
        True
    """
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    parsed = parsed_device("available_backends", device)
    return {name: unavailable_reason(name, parsed) for name in BACKENDS}


def parsed_device(function: str, device: torch.device | str) -> torch.device:
    """A device given in any form. Raises ValueError where PyTorch knows none of that name."""
    try:
        return torch.device(device)
    except (RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"{function}: device must be a torch.device or a name such as 'cpu' or 'cuda:0', got {device!r} ({reason})"
        ) from None


def usable_device(function: str, device: torch.device | str) -> torch.device:
    """The same, and RuntimeError where it is a GPU that PyTorch does not see."""
    parsed = parsed_device(function, device)
    if parsed.type == "cpu":
        return parsed
    seen = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    kind = torch.accelerator.current_accelerator()
    if kind is None or parsed.type != kind.type or (parsed.index or 0) >= seen:
        has = "no GPU" if not seen or kind is None else f"{seen} {kind.type} device{'s' * (seen > 1)}"
        raise RuntimeError(
            f"{function}: device {str(device)!r} cannot be used, PyTorch sees {has}; use another device, or 'cpu'"
        )
    return parsed


def resolve_for(function: str, backend: str, rows: Tensor) -> str:
    """The name of the backend that serves `rows [.., D]`; see `resolve`."""
    # D is always a number for torch.compile too: kernels and backends are chosen by it
    dim = operator.index(rows.shape[-1])
    return resolve(function, backend, rows.device, rows.dtype, dim)


def resolve(function: str, backend: str, device: torch.device, dtype: torch.dtype, dim: int) -> str:
    """The name of the backend that serves rows of this dtype and width on this device, built and loaded.

    Raises:
        ValueError: no backend has this name.
        RuntimeError: an explicitly chosen backend cannot run here; the message lists every backend's reason.
    """
    if backend == "auto":
        for name in PREFERENCE.get(device.type, ("torch",)):
            if _unsupported_reason(name, dtype, dim) is not None:
                continue
            obstacle = _obstacle(name, device)
            if obstacle is None:
                return name
            _warn_once(name, obstacle)
    check_name(function, backend)
    obstacle = _obstacle(backend, device) or _unsupported_reason(backend, dtype, dim)
    if obstacle is None:
        return backend
    others = "; ".join(f"{name}: {why or 'available'}" for name, why in available_backends(device).items())
    raise RuntimeError(
        f"{function}: backend {backend!r} cannot run on {device} tensors: {obstacle}\n"
        f'Use backend="auto", or one that is available ({others})'
    )


def check_name(function: str, backend: str) -> None:
    """ValueError unless it is "auto" or the name of a backend."""
    if not isinstance(backend, str) or backend not in ("auto", *BACKENDS):
        names = ", ".join(repr(name) for name in ("auto", *BACKENDS))
        raise ValueError(f"{function}: backend must be one of {names}, got {backend!r}; choose one of these")


# torch.compile runs `resolve` while tracing, since a build cannot be traced. This is what
# torch.compiler.assume_constant_result does; calling it would import the whole compiler, and Triton, with rpe_ops.
resolve._dynamo_marked_constant = True  # type: ignore[attr-defined]


def waits_for_device(backend: str) -> str | None:
    """Why a CUDA graph cannot capture `backend`, None where it can."""
    if backend in ("reference", "torch"):
        return f'backend {backend!r}, which reads offsets on the CPU; use backend="triton" or "cuda"'
    return None


def half_operands(backend: str, device_type: str, dtype: torch.dtype) -> bool:
    """Whether `backend` may multiply copies of the rows in its half type. On GPUs that is float16: for half types, and
    for float32 where PyTorch's own `torch.set_float32_matmul_precision` allows as much. On a CPU it is bfloat16, too
    coarse for all but bfloat16."""
    if backend == "cpu":
        return dtype is torch.bfloat16
    if dtype in (torch.float16, torch.bfloat16):
        return True
    return (
        device_type == "cuda" and dtype is torch.float32 and torch.get_float32_matmul_precision() != "highest"
    )


half_operands._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _unsupported_reason(backend: str, dtype: torch.dtype, dim: int) -> str | None:
    """None where `backend` serves rows of this dtype and width, else why not; most serve all."""
    reason = getattr(backends.package(backend), "unsupported_reason", None)
    return None if reason is None else reason(dtype, dim)


@functools.cache
def _obstacle(backend: str, device: torch.device) -> str | None:
    """None once `backend` is built and loaded for this device, else why it is not. Asked once in a process."""
    reason = unavailable_reason(backend, device)
    prepare = getattr(backends.package(backend), "prepare", None)
    if reason is not None or prepare is None:
        return reason
    try:
        prepare()
    except Exception as error:  # whatever a compiler or a loader raises becomes a reason
        return str(error)
    return unavailable_reason(backend, device)  # what was loaded may be for another GPU


@functools.cache
def _warn_once(backend: str, obstacle: str) -> None:
    """Say that "auto" goes on without its first choice."""
    warnings.warn(
        f"rpe_ops: backend {backend!r} cannot run, a slower one serves instead: {obstacle}",
        RuntimeWarning,
        stacklevel=4,
    )
