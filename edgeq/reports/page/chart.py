"""What all charts of the page share, as Vega-Lite specifications.

Colours are variables of the style sheet, for light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Spec = dict[str, Any]


def chart(height: int, data: Any, layers: Sequence[Spec], **more: Any) -> Spec:
    """A chart as wide as its container, of layers of marks over some data; `height` in pixels."""
    return {
        "width": "container",
        "height": height,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "data": data,
        "layer": list(layers),
        **more,
    }


def number(field: str, title: str, **more: Any) -> Spec:
    """A field of numbers, and what its axis is called."""
    return {"field": field, "type": "quantitative", "title": title, **more}


def said(**titles: str) -> list[Spec]:
    """What is said of a mark that is pointed at."""
    return [{"field": field, "title": title} for field, title in titles.items()]
