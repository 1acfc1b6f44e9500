"""Backend "torch": plain PyTorch in blocks of rows, memory O(N D). Runs where nothing else does.

The same numbers as `reference`, one band of rows against all columns at a time, so that no N x N tensor exists.
"""

from __future__ import annotations

import torch


def unavailable_reason(device: torch.device) -> str | None:
    """None: this backend runs on every device."""
    return None
