"""rankcell perturb"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import AGAIN, progress
from rankcell.cli.verb import say_remarks
from rankcell.wording import one_line

_IN = "A count file (h5ad, loom, zarr, 10x) or a token set folder; with --merge the results folders of the parts."


def perturb(
    source: Annotated[list[Path], typer.Argument(metavar="IN...", help=_IN)],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The results folder; the same command goes on in it.")],
    model: o.Model = None,
    vocab: o.ModelVocab = None,
    vocab_mismatch_ok: o.MismatchOk = False,
    layer: Annotated[int, typer.Option(help="Model layer whose states are compared (-1: output of the last block).")] = -2,
    kind: Annotated[str, typer.Option(help="delete, overexpress, inhibit, activate, mask or move.")] = "delete",
    genes: Annotated[
        str, typer.Option(metavar="all|A,B|@FILE", help="Genes, one by one: all that a cell shows, names, or a file of names.")
    ] = "all",
    group: Annotated[bool, typer.Option("--group", help="Perturb the named genes together.")] = False,
    any: Annotated[bool, typer.Option("--any", help="Groups, pairs and sets also where a cell shows only some of their genes.")] = False,
    pairs: Annotated[bool, typer.Option("--pairs", help="Perturb each two of the named genes together.")] = False,
    anchor: Annotated[str | None, typer.Option(metavar="G", help="Perturb this gene together with each of --genes.")] = None,
    sets: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Named sets, each perturbed together: GMT, JSON, or a table NAME<TAB>GENE.")
    ] = None,
    quarters: Annotated[
        int | None, typer.Option(metavar="N", help="inhibit, activate: by how many quarters of the cell's genes (1 to 4; default 1).")
    ] = None,
    to_rank: Annotated[int | None, typer.Option(metavar="N", help="move: the rank to move to (0: top).")] = None,
    refill: Annotated[bool, typer.Option("--refill", help="delete: the next genes of the uncropped cell enter.")] = False,
    start: Annotated[str | None, typer.Option(metavar="COL=STATE", help="Perturb only these cells.")] = None,
    toward: Annotated[
        list[str], typer.Option(metavar="COL=STATE", help="Also score the movement toward these cells; may be repeated.")
    ] = [],
    states: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Further states: what embed --include state wrote, or a table of state, readout, embedding."),
    ] = None,
    readout: Annotated[
        list[str], typer.Option(metavar="WHAT", help="genes, cell, cls: which are scored; several with commas. cls alone is faster.")
    ] = ["genes", "cell", "cls"],
    distance: Annotated[str, typer.Option(help="cos, or euclidean: distances beside the cosines.")] = "cos",
    affected: Annotated[bool, typer.Option("--affected", help="Also a table per affected gene: mean over cells.")] = False,
    affected_top: Annotated[
        int | None, typer.Option(metavar="K", help="Also the K genes that each edit of a cell moves most, cell by cell.")
    ] = None,
    affected_raw: Annotated[bool, typer.Option("--affected-raw", help="Also every affected gene, cell by cell (large).")] = False,
    readout_compat: Annotated[
        str, typer.Option(help="'geneformer' keeps the perturbed gene in the cell readout of --toward.")
    ] = "rankcell",
    cells: Annotated[int | None, typer.Option(metavar="N", help="Only the first N cells (with --seed: N drawn).")] = None,
    seed: Annotated[int | None, typer.Option(help="Draw --cells with this seed.")] = None,
    obs: Annotated[
        list[str], typer.Option(metavar="COL", help="A cell column to carry into cells.parquet (a donor, say); may be repeated.")
    ] = [],
    explain: Annotated[
        str | None, typer.Option(metavar="CELL", help="Also draw this cell: shift against rank, total and in place (explain-CELL.png).")
    ] = None,
    method: Annotated[
        str, typer.Option(help="exact, or fast: predict all edits of a cell at once, and run some exactly to correct and to judge it.")
    ] = "exact",
    audit: Annotated[
        float | None, typer.Option(metavar="SHARE", help="fast: share of each cell's edits drawn at random and run exactly (default 0.02).")
    ] = None,
    verify_top: Annotated[
        int | None, typer.Option(metavar="N", help="fast: also run exactly the N edits of each cell predicted to be largest (default 0).")
    ] = None,
    verify_screen: Annotated[
        int | None, typer.Option(metavar="N", help="fast: at the end, run exactly the N predicted to be largest of the whole screen.")
    ] = None,
    verify_by: Annotated[
        str | None, typer.Option(metavar="SCORE", help="fast: by this score (default: the first toward a state, else the first cosine).")
    ] = None,
    splits: Annotated[
        str | None, typer.Option(metavar="N|auto", help="fast: at least so many edits of each cell are drawn and run (default 16).")
    ] = None,
    projections: Annotated[
        str | None,
        typer.Option(
            metavar="K|auto",
            help="fast: random projections that sizes of shift are estimated from (default 32; 0: no sizes, toward states alone).",
        ),
    ] = None,
    min_recall: Annotated[
        float | None,
        typer.Option(metavar="R", help="fast: the recall of the top tenth to reach at least cost; cells that fall short are named."),
    ] = None,
    epistasis: Annotated[
        int | None,
        typer.Option(metavar="N", help="fast, delete: also all pairs among the N largest genes of each cell: what both do beyond the sum."),
    ] = None,
    verify_pairs: Annotated[
        int | None, typer.Option(metavar="M", help="fast: run the M pairs of each cell predicted to interact most (default 10).")
    ] = None,
    only: Annotated[Path | None, typer.Option(metavar="FILE", help="Perturb only the cells named in this file, one id a line.")] = None,
    skip_unknown: Annotated[
        bool, typer.Option("--skip-unknown", help="Go on without genes that the vocabulary lacks; they are named.")
    ] = False,
    shard: Annotated[str | None, typer.Option(metavar="I/N", help="Only the I-th of N parts, for several machines.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Put the parts IN... together in DIR (which may be the one that they share).")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Write nothing: say how many cells, edits, tokens, how long, how large.")
    ] = False,
    counts_layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.GeneColumn = None,
    genome: o.Genome = None,
    allow_non_counts: o.AllowNonCounts = False,
    device: o.Devices = "auto",
    precision: o.Precision = "auto",
    tokens_per_batch: o.TokensPerBatch = None,
    tokens_per_unit: Annotated[
        int | None,
        typer.Option(
            help="Save whenever whole cells of about so many edited tokens are done (default: 250000; on a GPU, unless with --shard, "
            "eight full batches)."
        ),
    ] = None,
    force: o.Force = False,
) -> None:
    """Perturb genes in every cell and measure how far the model's states move.

    Saved part by part in DIR: stopped at any moment, the same command goes on.
    """
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    def kept() -> str:
        n = len(list(out.glob("shards/screen-*.parquet")))
        if not n:
            return f"no part is finished in {out} yet, the same command starts again there" if out.is_dir() else AGAIN
        return f"{n:,} finished part{'s are' if n > 1 else ' is'} kept in {out}, the same command goes on from there"

    with progress("perturb", stopped=kept) as tick:
        done = jobs.perturb(**options, progress=tick)
    say_remarks({} if shard is not None or dry_run else done.manifest["settings"])
    for line in jobs.screen_report(done):
        typer.echo(line)
    if shard is None and not dry_run:
        lines, notes = jobs.rank_report(done)
        for line in lines:
            typer.echo(line)
        for note in notes:
            typer.echo(f"rankcell: note: {one_line(note)}", err=True)
