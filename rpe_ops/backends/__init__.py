"""The backends and their registry: one folder each, one file per operator in it, identical signatures everywhere.

A backend sees packed rows `[T, D]` in float32 or float64 with `offsets [B+1]`; normalisation, label handling, NaN
rules and normalisers are done above. Its package has `unavailable_reason(device_type)`; where it serves only some
dtypes or widths, `unsupported_reason(dtype, dim)`; where something must be built or loaded, `prepare()`.
CONTRIBUTING.md says how to add one.
"""

from __future__ import annotations

import importlib
from types import ModuleType

# Public name -> package. A value of None is a name the contract reserves and this version does not have.
BACKENDS: dict[str, str | None] = {
    "reference": "rpe_ops.backends.reference",
    "torch": "rpe_ops.backends.blocked",
    "cpu": "rpe_ops.backends.native",
    "triton": "rpe_ops.backends.triton",
    "cuda": None,
}


def package(backend: str) -> ModuleType | None:
    """The package of a backend, None for a name without one."""
    name = BACKENDS[backend]
    return None if name is None else importlib.import_module(name)


def operator_module(backend: str, operator: str) -> ModuleType:
    """The module `backends/<b>/<operator>.py` of a resolved backend."""
    return importlib.import_module(f"{BACKENDS[backend]}.{operator}")
