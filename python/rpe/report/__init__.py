"""Pictures of embeddings and label maps, and the HTML report of a run.

`write_report` joins them; the single pictures are of use on their own. Nothing here knows a model.
"""

from __future__ import annotations

from .colours import ColourBasis, Picture, embedding_to_rgb, image_to_rgb, label_to_rgb, overlay
from .figures import curves_png, lines_png
from .mistakes import Mistakes, align_labels, find_mistakes
from .page import ReportImage, write_report
from .tables import rank

__all__ = [
    "ColourBasis",
    "Mistakes",
    "Picture",
    "ReportImage",
    "align_labels",
    "curves_png",
    "embedding_to_rgb",
    "find_mistakes",
    "image_to_rgb",
    "label_to_rgb",
    "lines_png",
    "overlay",
    "rank",
    "write_report",
]
