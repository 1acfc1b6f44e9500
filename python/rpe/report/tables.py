"""The report's tables as HTML: summary, groups of images, average recall, single images, configuration.

Only text from numbers; which tables there are is decided in page.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

_COUNTS = ("images", "instances", "predicted")
_GROUPINGS = {"by_kind": "kind", "by_size": "image size", "by_shape": "height x width"}


def number(value: Any) -> str:
    """A number for people; a dash where it is undefined."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1000 else f"{value:.0f}"
    return escape(str(value))


def table(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, tips: Mapping[str, str] | None = None
) -> str:
    """Cells are HTML already, headings are text; `tips` explains a heading. The first column is left-aligned."""
    explained = tips or {}
    cells = "".join(
        f'<th title="{escape(explained[heading])}">{escape(heading)}</th>'
        if heading in explained
        else f"<th>{heading}</th>"
        for heading in map(escape, head)
    )
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class=scroll><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>"


def results_by_name(metrics: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Either one result of `Evaluator` or several by name, as several by name."""
    if not metrics:
        return {}
    return {"": metrics} if "overall" in metrics else dict(metrics)


def summary_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """One row per result: the numbers of its columns."""
    keys, tips = _summary_columns(next(iter(results.values())))
    rows = [
        [escape(name or "result"), *(number(result["overall"].get(key)) for key in keys)]
        for name, result in results.items()
    ]
    return table(["", *keys.values()], rows, tips=tips)


def group_table(result: Mapping[str, Any]) -> str:
    """One row per kind, size group and shape; empty where no grouping parts the images."""
    keys, tips = _summary_columns(result)
    rows = []
    for grouping, title in _GROUPINGS.items():
        groups = result.get(grouping, {})
        for name, group in groups.items() if len(groups) > 1 else ():
            numbers = (number(group.get(key)) for key in keys)
            rows.append([f"<span class=quiet>{title}</span> {escape(name)}", *numbers])
    return table(["images by", *keys.values()], rows, tips=tips) if rows else ""


def given_table(content: Mapping[str, Any]) -> str:
    """A table that a result carries: {"head": [...], "rows": [[...], ...]}."""
    return table(content["head"], [[number(cell) for cell in row] for row in content["rows"]])


def threshold_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """AP of label maps at each IoU threshold, one row per result that has them."""
    found = {
        name: ap for name, result in results.items() if isinstance(ap := result["overall"].get("ap"), Mapping)
    }
    thresholds = list(dict.fromkeys(key for ap in found.values() for key in ap))
    rows = [
        [escape(name or "AP"), *(number(ap.get(key)) for key in thresholds)] for name, ap in found.items()
    ]
    return table(["IoU", *thresholds], rows) if thresholds else ""


def recall_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Average recall by number of proposals, one row per result and IoU."""
    rows, head = [], []
    for name, result in results.items():
        for iou, by_number in result["overall"].get("ar", {}).items():
            head = [f"{count} proposals" for count in by_number]
            rows.append(
                [escape(f"{name} IoU {iou}".strip()), *(number(value) for value in by_number.values())]
            )
    return table(["average recall", *head], rows) if rows else ""


def image_table(result: Mapping[str, Any]) -> str:
    """One row per image, worst first, images without a rank last."""
    rows = sorted(result.get("images", []), key=lambda row: (rank(row, result["order"]), row["name"]))
    if not rows:
        return ""
    keys = [key for key, value in rows[0].items() if key != "name" and not isinstance(value, Mapping)]
    cells = [[escape(row["name"]), *(number(row.get(key)) for key in keys)] for row in rows]
    return table(["image", *keys], cells)


def rank(row: Mapping[str, Any], order: str) -> float:
    """What images are sorted by: lower is worse; infinite where it is undefined."""
    value = row.get(order)
    return math.inf if value is None else float(value)


def config_table(config: Mapping[str, Any]) -> str:
    """Nested settings as dotted names."""
    return table(
        ["setting", "value"], [[escape(key), escape(str(value))] for key, value in flatten(config).items()]
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` to `{"a.b": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _summary_columns(result: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Headings by key, counts first, and meanings by heading."""
    headings = {key: key for key in _COUNTS if key in result["overall"]}
    headings |= {key: heading for key, heading, _ in result["columns"]}
    return headings, {heading: meaning for _, heading, meaning in result["columns"]}
