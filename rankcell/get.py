"""Getters counter: results as DataFrames."""

import os
from typing import Any

__all__ = ["affected_df", "screen_df"]


def screen_df(folder: str | os.PathLike) -> Any:
    """The table of a finished screen (one row per cell and edit); `attrs["symbols"]` maps `genes` to symbols."""
    from rankcell.perturb import read_screen

    screen = read_screen(folder)
    table = screen.table().to_pandas()
    table["rank"] = table["rank"].astype("Int32")
    table.attrs["symbols"] = screen.symbols()
    return table


def affected_df(folder: str | os.PathLike) -> Any:
    """Per perturbed target and affected gene of a finished screen: `edit`, `genes`, `affected`, `n`, `mean_cos`, `sd_cos`."""
    from rankcell.perturb import read_screen

    return read_screen(folder).affected().to_pandas()
