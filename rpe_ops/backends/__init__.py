"""The backends and their registry: one folder each, one file per operator in it, identical signatures everywhere.

A backend sees packed rows `[T, D]` in float32 or float64 with `offsets [B+1]`; normalisation, label handling, NaN
rules and normalisers are done above. Its package has `unavailable_reason(device)`; where it serves only some
dtypes or widths, `unsupported_reason(dtype, dim)`; where something must be built or loaded, `prepare()`.
CONTRIBUTING.md says how to add one.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# Public name -> package.
BACKENDS: dict[str, str] = {
    "reference": "rpe_ops.backends.reference",
    "torch": "rpe_ops.backends.blocked",
    "cpu": "rpe_ops.backends.native",
    "triton": "rpe_ops.backends.triton",
    "cuda": "rpe_ops.backends.cuda",
}


def package(backend: str) -> ModuleType:
    """The package of a backend."""
    return importlib.import_module(BACKENDS[backend])


def operator_module(backend: str, operator: str) -> ModuleType:
    """The module `backends/<b>/<operator>.py` of a resolved backend."""
    return importlib.import_module(f"{BACKENDS[backend]}.{operator}")
