"""`show_config`: what a bug report needs. It looks, builds nothing, and never fails because a part is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
from typing import Any

import torch

from rpe_ops import dispatch, settings
from rpe_ops.version import __version__


class Config(dict[str, Any]):
    """A dictionary that prints as an aligned table."""

    def __repr__(self) -> str:
        width = max((len(key) for key in self), default=0)
        lines = []
        for key, value in self.items():
            entries = [f"{k}: {v}" for k, v in value.items()] if isinstance(value, dict) else [str(value)]
            lines += [f"{key if i == 0 else '':<{width}}  {entry}" for i, entry in enumerate(entries or [""])]
        return "\n".join(lines)

    __str__ = __repr__


def show_config() -> Config:
    """Versions, backends, build cache, compiler, CUDA architectures and threads.

    Returns:
        A dictionary that prints as a table: `print(rpe_ops.show_config())`. Paste it into a bug report.
    """
    from rpe_ops.backends import cuda, native

    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    backends = {
        f"{name} on {device}": reason or "available"
        for device in devices
        for name, reason in dispatch.available_backends(device).items()
    }
    return Config(
        {
            "rpe_ops": __version__,
            "python": f"{platform.python_version()} ({sys.executable})",
            "platform": platform.platform(),
            "torch": f"{torch.__version__} (CUDA {torch.version.cuda or 'none'})",
            "triton": _version("triton"),
            "numpy": _version("numpy"),
            "gpus": _gpus(),
            "cuda architectures": " ".join(torch.cuda.get_arch_list())
            if torch.cuda.is_available()
            else "none",
            "float32 matmul precision": torch.get_float32_matmul_precision(),
            "cpus": os.cpu_count(),
            "torch threads": torch.get_num_threads(),
            "backends": backends,
            "build cache": _cache(),
            "native build": native.describe(),
            "cuda build": cuda.describe(),
        }
    )


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))


def _cache() -> str:
    try:
        return str(settings.cache_root())
    except (RuntimeError, OSError) as error:
        return f"none: {error}"
