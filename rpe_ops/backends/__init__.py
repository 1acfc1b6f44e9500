"""The backends: one folder each, one file per operator in it, identical signatures everywhere.

A backend sees packed rows `[T, D]` in float32 or float64 with `offsets [B+1]`; normalisation, label handling, NaN
rules and normalisers are done above. `rpe_ops/dispatch.py` is the registry; CONTRIBUTING.md says how to add one.
"""
