"""How the parts of an effect are drawn and called: total, in place, positions, refill."""

from typing import Any

from rankcell.report.pictures.colours import INK

# Okabe and Ito's colours, told apart with any kind of colour vision; shapes and places differ too
LOOKS: dict[str, dict[str, Any]] = {
    "total": {"color": INK, "marker": "o", "markerfacecolor": "white"},
    "position": {"color": "#D55E00", "marker": "^"},
    "refill": {"color": "#009E73", "marker": "D"},
    "in_place": {"color": "#0072B2", "marker": "o"},
}
PART_WORDS = {"total": "total", "position": "position part", "refill": "refill part", "in_place": "in place"}
