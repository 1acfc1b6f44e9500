"""Backend "reference": plain PyTorch that materialises N x N. The specification, with the derivations.

Clarity over everything: no blocking, no tricks. Every other backend is tested against this one, and this one against
literal loops and `gradcheck`. The formulas are numbered here, and kernels cite the numbers.
"""

from __future__ import annotations

import torch


def unavailable_reason(device: torch.device) -> str | None:
    """None: this backend runs on every device."""
    return None
