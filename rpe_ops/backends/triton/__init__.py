"""Backend "triton": fused kernels for NVIDIA GPUs, or for Triton's interpreter where there is none.

`shapes.py` says how the work is cut, `launching.py` how rows and kernels meet; `<op>.py` prepares the operands and
launches the kernels of `kernels/<op>.py`. Nothing here imports Triton before a call needs it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import re

import torch

from rpe_ops import settings

OLDEST_TRITON = (3, 6)
OLDEST_CAPABILITY = (8, 0)
LARGEST_DIM = 256


def unavailable_reason(device: torch.device) -> str | None:
    """None where it can run, else the reason. Compiles nothing."""
    return _package_reason() or _device_reason(device)


@functools.cache
def _package_reason() -> str | None:
    """Why the installed Triton cannot serve, or None."""
    try:
        found = importlib.util.find_spec("triton")
    except (ImportError, ValueError):  # what keeps programs from importing it may raise here already
        found = None
    if found is None:
        return "triton is not installed; it comes with PyTorch's CUDA builds for Linux, or pip install triton"
    version = _version()
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None:
        return f"module triton does not say its version ({version}); pip install triton"
    if tuple(map(int, numbers.groups())) < OLDEST_TRITON:
        oldest = ".".join(map(str, OLDEST_TRITON))
        return f"needs triton {oldest} or newer, {version} is installed; pip install --upgrade triton"
    return None


def _version() -> str:
    """Of the installed Triton, by its distribution; the module's own word where that has another name."""
    try:
        return importlib.metadata.version("triton")
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        return str(getattr(importlib.import_module("triton"), "__version__", "no __version__"))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _device_reason(device: torch.device) -> str | None:
    """Why it cannot run on this device, or None."""
    if settings.triton_interprets():
        return None if device.type in ("cpu", "cuda") else f"cannot interpret tensors on {device.type}"
    if device.type != "cuda":
        return f"runs on NVIDIA GPUs, these tensors are on {device.type}; TRITON_INTERPRET=1 runs it slowly on a CPU"
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    if torch.version.hip is not None:
        return "has not been tried on AMD GPUs"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_CAPABILITY:
        return f"needs compute capability 8.0 or newer, this GPU has {capability[0]}.{capability[1]}"
    return None


def unsupported_reason(dtype: torch.dtype, dim: int) -> str | None:
    """None where it serves rows of this dtype and width, else the reason."""
    if dtype is torch.float64:
        return "computes in float32 at most, the embedding is float64"
    if dim > LARGEST_DIM:
        return f"serves up to {LARGEST_DIM} columns, the embedding has {dim}"
    return None


def describe() -> dict[str, str]:
    """What `rpe_ops.show_config` says of it."""
    if importlib.util.find_spec("triton") is None:
        return {"triton": "not installed"}
    version = importlib.metadata.version("triton")
    return {"triton": version + (" (interpreter)" if settings.triton_interprets() else "")}
