"""Backend "cpu": C++ kernels of `csrc`, built at the first call that needs them.

`build.py` says what is compiled, `cache.py` keeps built libraries, `loader.py` loads one; the operator files call
`torch.ops.rpe_ops_native.*`.
"""

from __future__ import annotations

from rpe_ops.backends.native import loader


def unavailable_reason(device_type: str) -> str | None:
    """None where it can run, else the reason. Builds nothing."""
    if device_type != "cpu":
        return f"runs on CPU tensors, these are on {device_type}"
    return loader.unavailable_reason()


def prepare() -> None:
    """Build or load the extension; raises with the reason."""
    loader.load()


def describe() -> dict[str, str]:
    """What `rpe_ops.show_config` says of the native build."""
    return loader.describe()
