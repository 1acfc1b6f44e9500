"""Backend "cpu": C++ kernels of `csrc`, built at the first call that needs them."""

from __future__ import annotations


def unavailable_reason(device_type: str) -> str | None:
    """None where it can run, else the reason. Builds nothing."""
    return "the native kernels are not part of this checkout yet"


def prepare() -> None:
    """Build or load the extension; raises with the reason."""


def describe() -> dict[str, str]:
    """What `rpe_ops.show_config` says of the native build."""
    return {}
