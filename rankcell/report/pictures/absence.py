"""A drawing that tells apart the three ways in which a gene can be missing from a row: deleted, absent in place, masked."""

from typing import TYPE_CHECKING, Any

from rankcell.report.pictures.colours import DOWN, GREY, INK, UP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

GENES = ("CD74", "HLA-DRA", "CD79A", "MS4A1", "RPS3", "ACTB")
LOST = 2
_MOVED = "#D55E00"
ROWS = (
    ("the cell", "as the model reads it: genes from the top rank down"),
    ("delete", "the gene is gone and the rest closes up:\nevery gene below it changes its position"),
    ("absence in place", "no token attends to the gene and it is in no mean;\nthe others keep their positions"),
    ("mask", "the mask token stands where the gene stood:\nthe others see it and keep their positions"),
)


def draw_absence(ax: "Axes") -> "Axes":
    """Four rows of tokens on `ax` (about 9.6 x 3.6 inches): the cell, the gene deleted, absent in place, and masked."""
    ax.set(xlim=(-2.9, 11.3), ylim=(-0.85, 3 * 1.35 + 0.45))
    ax.set_axis_off()
    for k, (name, explanation) in enumerate(ROWS):
        y = (len(ROWS) - 1 - k) * 1.35
        ax.text(-0.75, y, name, ha="right", va="center", fontsize=10.5, color=INK, fontweight="bold")
        ax.text(len(GENES) * 1.06 - 0.15, y, explanation, ha="left", va="center", fontsize=8.8, color=INK, linespacing=1.4)
        _draw_row(ax, name, y)
    for i in range(len(GENES)):
        ax.text(i * 1.06, -0.62, str(i), ha="center", va="center", fontsize=8, color=GREY)
    ax.text(-0.75, -0.62, "position", ha="right", va="center", fontsize=8, color=GREY)
    return ax


def _draw_row(ax: "Axes", name: str, y: float) -> None:
    genes = [g for i, g in enumerate(GENES) if i != LOST] if name == "delete" else list(GENES)
    for i, gene in enumerate(genes):
        lost = i == LOST and name != "delete"
        moved = name == "delete" and i >= LOST
        if lost and name == "absence in place":
            _box(ax, i, y, gene, edge=GREY, face="white", text=GREY, dashed=True)
            ax.plot([i * 1.06 - 0.4, i * 1.06 + 0.4], [y - 0.26, y + 0.26], color=UP, linewidth=1.4, zorder=4)
        elif lost and name == "mask":
            _box(ax, i, y, "<mask>", edge=UP, face="#f8e5e1", text=UP)
        elif lost:
            _box(ax, i, y, gene, edge=UP, face="#f8e5e1", text=UP)
        else:
            _box(ax, i, y, gene, edge=_MOVED if moved else DOWN, face="#fdeee3" if moved else "#e4eef7", text=INK)
        if moved:
            arrow = {"arrowstyle": "-|>", "color": _MOVED, "linewidth": 1.2, "shrinkA": 0, "shrinkB": 0}
            ax.annotate("", (i * 1.06 - 0.12, y + 0.46), ((i + 1) * 1.06 - 0.3, y + 0.46), arrowprops=arrow)


def _box(ax: "Axes", i: int, y: float, name: str, *, edge: str, face: str, text: str, dashed: bool = False) -> None:
    from matplotlib.patches import FancyBboxPatch

    look: dict[str, Any] = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "linewidth": 1.1, "linestyle": (0, (3, 2)) if dashed else "-"}
    ax.add_patch(FancyBboxPatch((i * 1.06 - 0.45, y - 0.28), 0.9, 0.56, facecolor=face, edgecolor=edge, zorder=2, **look))
    ax.text(i * 1.06, y, name, ha="center", va="center", fontsize=8.2, color=text, parse_math=False, zorder=3)
