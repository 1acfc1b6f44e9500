"""What results were made with: package version, weights, model and rules; and how two such origins differ.

Folders of results keep it (`journal.py`, `evaluations.py`), so that results of another origin are neither taken for
those that are wanted nor replaced in silence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import rpe_ops

from .settings import flatten, to_mapping

if TYPE_CHECKING:
    from .predict import Predictor

_MOST = 4
"""Differences that are told one by one."""


def origin_of(predictor: Predictor) -> dict[str, Any]:
    """Everything that a predictor's results depend on, but for the image: plain values, as JSON has them."""
    digest = hashlib.sha256()
    for name, value in sorted(predictor.model.state_dict().items()):
        digest.update(name.encode() + value.cpu().contiguous().view(-1).numpy().tobytes())
    config = to_mapping(predictor.config)
    return {
        "version": rpe_ops.__version__,
        "weights": digest.hexdigest(),
        "classes": predictor.classes.to_mapping(),
        **{key: config[key] for key in ("task", "model", "grouping", "decode")},
    }


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What differs between two origins, in words; empty where nothing does."""
    old, new = flatten(before), flatten(now)
    told = []
    for key in dict.fromkeys([*old, *new]):
        if old.get(key) != new.get(key):
            told.append(
                "other weights" if key == "weights" else f"{key} was {old.get(key)!r} and is {new.get(key)!r}"
            )
    rest = len(told) - _MOST
    return ", ".join([*told[:_MOST], *([f"and {rest} more"] if rest > 0 else [])])
