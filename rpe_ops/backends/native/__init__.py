"""Backend "cpu": C++ kernels of `csrc`, built at the first call that needs them.

`rpe_ops/extensions` compiles and loads them; the operator files call `torch.ops.rpe_ops_native.*`.
"""

from __future__ import annotations

import torch

from rpe_ops.extensions import cpu
from rpe_ops.extensions.loader import Loader

loader = Loader(cpu.EXTENSION)


def unavailable_reason(device: torch.device) -> str | None:
    """None where it can run, else the reason. Builds nothing."""
    if device.type != "cpu":
        return f"runs on CPU tensors, these are on {device.type}"
    return loader.unavailable_reason()


def prepare() -> None:
    """Build or load the extension; raises with the reason."""
    loader.load()


def describe() -> dict[str, str]:
    """What `rpe_ops.show_config` says of the native build."""
    return loader.describe()
