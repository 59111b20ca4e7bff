"""Options that several verbs share, each with its help."""

from pathlib import Path
from typing import Annotated

import typer

In = Annotated[Path, typer.Argument(metavar="IN", help="A count file (h5ad, loom, zarr, 10x) or a token set folder.")]
COUNT_FILES = "Count files (h5ad, loom, zarr, 10x h5 or matrix folder), folders or patterns of them."
Counts = Annotated[list[str], typer.Argument(metavar="IN...", help=COUNT_FILES)]
Model = Annotated[str | None, typer.Option(help="A checkpoint folder, a hub name (OWNER/REPO/FOLDER), or 'demo' (a toy of 765 genes).")]
ModelVocab = Annotated[str | None, typer.Option(help="A vocabulary folder or name; completes a checkpoint that carries none.")]
MismatchOk = Annotated[
    bool,
    typer.Option("--vocab-mismatch-ok", help="Take a vocabulary with fewer tokens than the model, or other special tokens; recorded."),
]
Vocab = Annotated[str | None, typer.Option(help="A vocabulary folder, or the name of a shipped or fetched one (default: that of vocab list which knows at least half of the genes).")]
CountsLayer = Annotated[str | None, typer.Option(help="The layer that holds the counts (default: X itself).")]
Raw = Annotated[bool, typer.Option("--raw", help="The counts are in raw.")]
GeneColumn = Annotated[str | None, typer.Option(help="The var column that names the genes (default: found by membership).")]
Genome = Annotated[
    str | None, typer.Option(help="Of an input with genes of several genomes: the one to take (default: the one that the vocabulary knows).")
]
BuildColumn = Annotated[
    str | None, typer.Option(help="The var column that names the genes (default: the one that holds Ensembl ids, else the index).")
]
BuildGenome = Annotated[str | None, typer.Option(help="Of an input with genes of several genomes: the one to take (default: all).")]
CountNonCounts = Annotated[
    bool,
    typer.Option("--allow-non-counts", help="Take values that are not counts (of Salmon, alevin-fry, RSEM); what is not above zero is left out."),
]
AllowNonCounts = Annotated[
    bool, typer.Option("--allow-non-counts", help="Rank values that are not counts; what is not above zero is left out.")
]
AllowRepeatedCells = Annotated[
    bool, typer.Option("--allow-repeated-cells", help="Take several inputs that hold the same cells, which count twice then.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Devices = Annotated[
    str, typer.Option(help="auto (all GPUs, or the processor), cpu, cuda, cuda:N; several with commas share the work.")
]
Precision = Annotated[
    str,
    typer.Option(
        help="fp32, tf32 (CUDA), bf16, fp16, or auto: the fastest that agrees with fp32 (perturb: on shifts); training takes fp32."
    ),
]
TokensPerBatch = Annotated[
    int | None,
    typer.Option(help="Most tokens given to the model at once (default: 4096 on a processor, what fits the memory on a GPU)."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace an output that exists.")]
