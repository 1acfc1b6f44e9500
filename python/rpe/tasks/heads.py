"""What each task asks of the network; light, so that building a network loads no metric and no report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Heads:
    """Heads beside the embedding, and what the embedding is to tell apart."""

    foreground: bool = False
    semantic: bool = False
    boundary: bool = False
    pairs: Literal["instance", "class"] = "instance"


HEADS = {
    "instance": Heads(foreground=True),
    "proposals": Heads(foreground=True),
    "semantic": Heads(semantic=True, pairs="class"),
    "semantic_instance": Heads(semantic=True),
    "boundary": Heads(boundary=True),
}
"""By the names that `config.task` may have."""
