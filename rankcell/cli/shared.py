"""Arguments and options that several verbs have and no class of options holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from rankcell.model.options import AUTO, Compute, OneDevice
from rankcell.options import Help

In = Annotated[Path, typer.Argument(metavar="IN", help="A count file (h5ad, loom, zarr, 10x) or a token set folder.")]
CountFiles = Annotated[
    list[str], typer.Argument(metavar="IN...", help="Count files (h5ad, loom, zarr, 10x h5 or matrix folder), folders or patterns of them.")
]
Results = Annotated[Path, typer.Argument(metavar="DIR", help="The results folder of rankcell perturb.")]
Carried = Annotated[list[str], Help("A cell column to carry along; may be repeated.", "COL")]
Force = Annotated[bool, Help("Replace an output that exists.")]


@dataclass(frozen=True)
class ComputeOnOne(Compute):
    """Where and how a model runs whose work is not shared out over devices."""

    device: OneDevice = AUTO
