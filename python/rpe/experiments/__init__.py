"""`rpe experiment NAME`: small experiments that make the ideas visible, each with one figure and one JSON.

`settings.py` names them and their options, the file of the same name runs one, `record.py` writes what it found. They
use the package as anybody would; nothing else imports them.
"""

from __future__ import annotations

from .settings import EXPERIMENTS

__all__ = ["EXPERIMENTS"]
