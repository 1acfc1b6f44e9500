"""The report's tables as HTML: summary, groups of images, average recall, single images, configuration.

Only text from numbers; which tables there are is decided in page.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

SUMMARY = {
    "ap50": ("AP at IoU 0.5", "TP / (TP + FP + FN), mean over images"),
    "ap_mean": ("AP mean", "mean over IoU 0.50, 0.55, ..., 0.95"),
    "f1_50": ("F1 at IoU 0.5", "counts pooled over images"),
    "ari": ("ARI", "adjusted Rand index on foreground pixels"),
    "sbd": ("SBD", "symmetric best Dice"),
    "abs_dic": ("|DiC|", "absolute difference in count, mean over images"),
}
_COUNTS = {"images": "images", "instances": "instances", "predicted": "predicted"}
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
    """One row per result: the headline numbers."""
    tips = dict(SUMMARY.values())
    rows = [
        [escape(name or "result"), *(number(result["overall"].get(key)) for key in (*_COUNTS, *SUMMARY))]
        for name, result in results.items()
    ]
    return table(["", *_COUNTS.values(), *tips], rows, tips=tips)


def group_table(result: Mapping[str, Any]) -> str:
    """One row per kind, size group and shape; empty where no grouping parts the images."""
    rows = []
    for grouping, title in _GROUPINGS.items():
        groups = result.get(grouping, {})
        for name, group in groups.items() if len(groups) > 1 else ():
            numbers = (number(group.get(key)) for key in (*_COUNTS, *SUMMARY))
            rows.append([f"<span class=quiet>{title}</span> {escape(name)}", *numbers])
    tips = dict(SUMMARY.values())
    return table(["images by", *_COUNTS.values(), *tips], rows, tips=tips) if rows else ""


def threshold_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """AP at each IoU threshold, one row per result."""
    thresholds = list(
        dict.fromkeys(key for result in results.values() for key in result["overall"].get("ap", {}))
    )
    rows = [
        [escape(name or "AP"), *(number(result["overall"].get("ap", {}).get(key)) for key in thresholds)]
        for name, result in results.items()
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
    """One row per image, worst AP first."""
    keys = ("kind", "width", "height", "instances", "predicted", "ap50", "ap_mean", "ari", "sbd", "dic")
    rows = sorted(result.get("images", []), key=lambda row: (row["ap50"], row["name"]))
    cells = [[escape(row["name"]), *(number(row.get(key)) for key in keys)] for row in rows]
    return table(["image", *keys], cells) if rows else ""


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
