"""Farthest points and nearest rows: products with few rows, in plain PyTorch (`backends/seeding.py`)."""

from __future__ import annotations

from rpe_ops.backends.seeding import farthest_points, nearest_rows

__all__ = ["farthest_points", "nearest_rows"]
