"""The colours, markers and dashes of all pictures."""

from typing import Any

INK, GREY, UP, DOWN = "#1b2733", "#8a97a3", "#b2432f", "#2b6ca3"
PALETTE = [
    "#2b6ca3",
    "#b2432f",
    "#3f8f5b",
    "#8457a6",
    "#c98a1b",
    "#3aa0a8",
    "#c2558f",
    "#7a6a4f",
    "#5566cc",
    "#9aa300",
    "#444b54",
    "#e08a6d",
]
# Okabe and Ito's colours, told apart with any kind of colour vision; the yellow is left out: too pale for lines
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES: tuple[Any, ...] = ("-", (0, (4, 2)), (0, (1, 1.5)))
