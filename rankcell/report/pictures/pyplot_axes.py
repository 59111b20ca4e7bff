"""Axes of new pyplot figures, for the verbs of rc.pl that are called without `ax`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def new_axes(width: float, height: float) -> "Axes":
    """The axes of a new pyplot figure of that many inches, with a constrained layout."""
    from matplotlib import pyplot as plt

    return plt.subplots(figsize=(width, height), layout="constrained")[1]


def filled_axes(width: float, height: float) -> "Axes":
    """Axes that fill a new pyplot figure of that many inches, for pictures that lay out their own."""
    from matplotlib import pyplot as plt

    return plt.figure(figsize=(width, height)).add_axes((0, 0, 1, 1))
