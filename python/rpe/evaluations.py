"""Where the files of an evaluation go: a folder of its own for each checkpoint, data set, split and set of rules.

`evaluation.json` says what it was made with. One of another origin is never replaced unasked, one of the same origin
not in silence. The numbers are `evaluate.py`'s, the files `report/page.py`'s.
"""

from __future__ import annotations

import json
import re
from itertools import count
from pathlib import Path
from typing import Any

from .checkpoint import read_config
from .errors import UserError
from .origin import differences, origin_of
from .predict import Predictor
from .settings import to_mapping

PAGE = "evaluation.html"
NUMBERS = "evaluation.json"
COCO_RESULTS = "coco_results.json"
_LONGEST = 150
"""Characters of a folder's name."""


def evaluation_origin(predictor: Predictor, data: str, split: str | None) -> dict[str, Any]:
    """What the numbers of an evaluation follow from: the data set, its split, and the predictor's own origin."""
    name, _, root = data.partition(":")
    place = Path(root)
    return {
        "data": f"{name}:{place.resolve()}" if root and place.exists() else data,
        "split": split,
        **origin_of(predictor),
    }


def evaluation_folder(checkpoint: Path, origin: dict[str, Any]) -> Path:
    """Where `rpe evaluate` writes by default: `evaluations/DATA-SPLIT` beside the checkpoint, with the decoding rules
    that are not the checkpoint's; and with a number where another evaluation has that name.
    """
    own, used = to_mapping(read_config(checkpoint).decode), origin["decode"]
    name, _, root = origin["data"].partition(":")
    parts = [name, Path(root).name, origin["split"] or "all"]
    parts += [f"{key}={value}" for key, value in used.items() if own[key] != value]
    words = [re.sub(r"[^\w.=-]+", "_", part).strip("_") for part in parts if part]
    base = checkpoint.parent / "evaluations" / "-".join(words)[:_LONGEST]
    for number in count(1):
        folder = base if number == 1 else base.with_name(f"{base.name}-{number}")
        if _earlier(folder) in (None, origin):
            return folder
    raise AssertionError("count() ends")


def claim_folder(folder: Path, origin: dict[str, Any], *, overwrite: bool) -> str:
    """What will be replaced in a folder of results, in words; empty where nothing will.

    Raises:
        UserError: an evaluation of another origin is there, and `overwrite` is off.
    """
    before = _earlier(folder)
    if before is None:
        return ""
    if before == origin:
        return f"replaces the same evaluation in {folder}"
    changes = differences(before, origin) if before else "it does not say of what"
    if not overwrite:
        raise UserError(
            f"{folder / NUMBERS}: another evaluation is there ({changes}); choose another --out, or add --overwrite "
            "to replace it"
        )
    return f"replaces another evaluation in {folder} ({changes})"


def _earlier(folder: Path) -> dict[str, Any] | None:
    """The origin of the evaluation in a folder; None without one, empty where it does not say."""
    path = folder / NUMBERS
    if not path.exists():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return dict(facts["made_with"])
    except (ValueError, KeyError, TypeError):
        return {}
