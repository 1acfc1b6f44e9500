"""One self-contained HTML page per run, and the same facts as JSON beside it.

Pictures are inlined as PNG, style and the few lines of script stand in the page: it opens anywhere, without a network.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..metrics.overlap import LabelMap
from .colours import ColourBasis, Picture, image_to_rgb, label_to_rgb, overlay
from .figures import Curve, curves_png, data_uri, lines_png, png_bytes
from .mistakes import LEGEND, align_labels, find_mistakes
from .style import SCRIPT, STYLE
from .tables import (
    config_table,
    given_table,
    group_table,
    image_table,
    recall_table,
    results_by_name,
    summary_table,
    threshold_table,
)

_PANEL_PIXELS = 512
"""Longer side of a stored picture; larger ones are reduced."""
_BRIGHT_QUANTILE = 0.995
_DARK = 0.6
"""Images whose brightest pixels (the quantile above) stay under this are shown brighter."""
_MOST_BRIGHTENING = 12.0


@dataclass(frozen=True, eq=False)
class ReportImage:
    """One image of the report.

    Attributes:
        name: its heading.
        image: float `[3, H, W]` in 0..1.
        prediction: integer label map `[H, W]`.
        target: integer label map `[H, W]`, -1 = ignored; None where there is no ground truth.
        embeddings: `[D, h, w]` after loop 0, 1, ..., T, at any resolution; may be empty. NaN = pixel that took no part.
        caption: more words beside the name.
        has_background: label 0 is background.
        panels: captions and pictures of the task, shown below those of the label maps.
        compare: show the label maps.
    """

    name: str
    image: Tensor
    prediction: LabelMap
    target: LabelMap | None = None
    embeddings: Sequence[Tensor | NDArray[np.floating]] = field(default_factory=tuple)
    caption: str = ""
    has_background: bool = True
    panels: Sequence[tuple[str, Picture]] = field(default_factory=tuple)
    compare: bool = True


def write_report(
    path: str | Path,
    title: str,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    curves: Mapping[str, Curve],
    images: Sequence[ReportImage],
    *,
    made_with: Mapping[str, Any] | None = None,
) -> Path:
    """Write the report of a run, and its JSON under the same name with the suffix .json.

    Args:
        path: the HTML file; its folder is created.
        title: heading.
        config: settings, may be nested.
        metrics: `Evaluator.result()`, or several of them by name, side by side; may be empty.
        curves: (steps, values) by name, for example the loss; may be empty.
        images: what to show.
        made_with: what the numbers follow from, for the JSON.

    Returns:
        The path of the JSON file.
    """
    page = Path(path)
    page.parent.mkdir(parents=True, exist_ok=True)
    results = results_by_name(metrics)
    parts = [f"<h1>{escape(title)}</h1>"]
    if results:
        parts += [_section("Result", summary_table(results)), *_details_of(results)]
    if any(len(values) for _, values in curves.values()):
        plot = f'<img class=plot src="{data_uri(curves_png(curves))}" alt="training curves">'
        parts.append(_section("Training", plot))
    rows = [_image_row(image) for image in images]
    if rows:
        parts.append(_section("Images", _legend() + "".join(row for row, _ in rows)))
    if config:
        parts.append(_fold("Configuration", config_table(config)))
    _write(page, _document(title, "".join(parts)))

    facts = {
        "title": title,
        **({} if made_with is None else {"made_with": made_with}),
        "config": config,
        "metrics": metrics,
        "curves": {
            name: {"steps": list(steps), "values": list(values)} for name, (steps, values) in curves.items()
        },
        "images": [{"name": image.name, **facts} for image, (_, facts) in zip(images, rows, strict=True)],
    }
    beside = page.with_suffix(".json")
    _write(beside, json.dumps(_plain(facts), indent=1))
    return beside


def _image_row(item: ReportImage) -> tuple[str, dict[str, Any]]:
    """The pictures of one image, and the facts told in its captions."""
    size = (item.image.shape[1], item.image.shape[2])
    prediction = item.prediction
    facts: dict[str, Any] = {"height": size[0], "width": size[1], "caption": item.caption}
    image, factor = _brightened(item.image)
    heading = "input" if factor == 1 else f"input, {factor:.1f} times as bright"
    shown: list[tuple[str, Picture]] = [(heading, image_to_rgb(image))]
    if not item.compare:
        shown += item.panels
    elif item.target is None:
        shown += [("predicted", label_to_rgb(prediction)), ("contours", overlay(image, prediction))]
    else:
        aligned = align_labels(prediction, item.target, has_background=item.has_background)
        mistakes = find_mistakes(prediction, item.target, has_background=item.has_background)
        facts["instances"] = mistakes.counts
        shown += [
            ("contours of the prediction", overlay(image, aligned)),
            ("predicted", label_to_rgb(aligned)),
            ("ground truth", label_to_rgb(item.target)),
            (f"mistakes: {mistakes.caption()}", mistakes.picture()),
        ]
    bands = [_band(shown, size, smallest=200)]
    if item.compare and item.panels:
        bands.append(_band(item.panels, size, smallest=150))
    if item.embeddings:
        basis = ColourBasis.fit(item.embeddings)
        coloured = [
            (f"embedding, t = {step}", basis.apply(embedding))
            for step, embedding in enumerate(item.embeddings)
        ]
        bands.append(_band(coloured, size, smallest=150))
    caption = f" <span class=quiet>{escape(item.caption)}</span>" if item.caption else ""
    return f"<article><h3>{escape(item.name)}{caption}</h3>{''.join(bands)}</article>", facts


def _brightened(image: Tensor) -> tuple[Tensor, float]:
    """A dark image, as fluorescence is, made visible for people; and by which factor."""
    brightest = float(np.quantile(image.detach().cpu().numpy(), _BRIGHT_QUANTILE)) if image.numel() else 1.0
    if not 0 < brightest < _DARK:
        return image, 1.0
    factor = min(1 / brightest, _MOST_BRIGHTENING)
    return image * factor, factor


def _band(pictures: Sequence[tuple[str, Picture]], size: tuple[int, int], *, smallest: int) -> str:
    """Pictures side by side, all with the proportions of the image, however fine they are."""
    figures = "".join(
        f'<figure><img src="{data_uri(png_bytes(picture, max_side=_PANEL_PIXELS))}" alt="{escape(caption)}" '
        f'style="aspect-ratio:{size[1]}/{size[0]}"><figcaption>{escape(caption)}</figcaption></figure>'
        for caption, picture in pictures
    )
    return f'<div class=band style="--smallest:{smallest}px">{figures}</div>'


def _details_of(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    parts = []
    for name, result in results.items():
        groups = group_table(result)
        if groups:
            heading = f"By kind and size{': ' + name if name else ''}"
            parts.append(_section(heading, groups) if len(results) == 1 else _fold(heading, groups))
    for name, result in results.items():
        suffix = f": {name}" if name else ""
        for title, content in result.get("tables", {}).items():
            parts.append(_section(title + suffix, given_table(content)))
        for title, plot in result.get("plots", {}).items():
            png = lines_png(plot["lines"], plot["x"], plot["y"])
            shown = f'<img class=plot src="{data_uri(png)}" alt="{escape(title)}">'
            parts.append(
                _section(title + suffix, shown) if len(results) == 1 else _fold(title + suffix, shown)
            )
    curves = threshold_table(results) + recall_table(results)
    if curves:
        parts.append(_fold("Average precision by IoU, average recall by number of proposals", curves))
    for name, result in results.items():
        rows = image_table(result)
        if rows:
            parts.append(_fold(f"Every image, worst first{': ' + name if name else ''}", rows))
    return parts


def _legend() -> str:
    swatches = "".join(
        f'<span><i style="background:rgb{colour}"></i>{name}</span>' for name, colour in LEGEND.items()
    )
    return (
        f"<p class=legend>Mistakes: {swatches}</p><p class=quiet>Predicted instances have the colour of the "
        "true instance they match (IoU 0.1 or more). The loops of one image share their embedding colours "
        "(principal components as red, green, blue); black pixels took no part. Click a picture to enlarge it.</p>"
    )


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{escape(heading)}</h2>{content}</section>"


def _fold(heading: str, content: str) -> str:
    return f"<details><summary>{escape(heading)}</summary>{content}</details>"


def _document(title: str, body: str) -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body><main>{body}</main><script>{SCRIPT}</script></body></html>\n"
    )


def _plain(value: Any) -> Any:
    """Only what JSON knows: numbers that are not finite become null, paths and other things text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (np.generic, Tensor, np.ndarray)):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def _write(path: Path, text: str) -> None:
    """Under a temporary name first, so that a reader never sees half a file."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
