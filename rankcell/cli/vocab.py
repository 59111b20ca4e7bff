"""rankcell vocab list | show | build | tally | fetch | import"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o
from rankcell.cli.progress import progress
from rankcell.cli.stopping import exit_code
from rankcell.cli.verb import Verb

app = typer.Typer(
    help="Vocabularies: list, show, build from counts, fetch or import Geneformer's.", no_args_is_help=True, rich_markup_mode=None
)
_Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The vocabulary folder to write.")]

_Ids = Annotated[Path | None, typer.Option(metavar="SYMBOLS.tsv", help="A table symbol, ensembl_id: genes get their Ensembl ids.")]


@app.command("list", cls=Verb)
def list_() -> None:
    """The vocabularies that ship with the package, those that were fetched, and those that can be."""
    from rankcell.vocab import Vocabulary, known_recipes
    from rankcell.vocab.catalog import vocabularies_at_hand
    from rankcell.vocab.recipes import read_recipe

    at_hand = vocabularies_at_hand()
    for folder in at_hand.values():
        v = Vocabulary.load(folder)
        typer.echo(f"{v.name:<16} {len(v):>7,} genes  {v.species or '-':<8} {' '.join(v.special)}  {v.hash[:12]}")
    for name in (name for name in known_recipes() if name not in at_hand):
        typer.echo(f"{name:<16} not fetched: rankcell vocab fetch {name}  ({read_recipe(name)['description']})")


@app.command(cls=Verb)
def show(vocab: Annotated[str, typer.Argument(metavar="V", help="A vocabulary folder or name.")]) -> None:
    """What a vocabulary is: genes, special tokens, hash, provenance."""
    from rankcell import jobs

    for line in jobs.show_vocab(vocab):
        typer.echo(line)


@app.command(cls=Verb)
def build(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="Count files, folders or patterns of them, and tallies.")],
    out: _Out,
    ids: _Ids = None,
    name: Annotated[str | None, typer.Option(help="Its name (default: the folder's).")] = None,
    species: Annotated[str, typer.Option(help="What the genes belong to.")] = "",
    max_len: Annotated[int, typer.Option(help="Longest row, special tokens included.")] = 4096,
    cls: Annotated[bool, typer.Option("--cls/--no-cls", help="With or without CLS and EOS tokens.")] = True,
    layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.BuildColumn = None,
    genome: o.BuildGenome = None,
    allow_non_counts: o.CountNonCounts = False,
    min_cells: Annotated[int, typer.Option(help="Leave out genes that fewer cells show.")] = 1,
    allow_repeated_cells: o.AllowRepeatedCells = False,
    force: o.Force = False,
) -> None:
    """A vocabulary from counts: non-zero medians of normalised expression, exact, whatever the number of cells."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    with progress("vocab build") as tick:
        made = jobs.build_vocab(**options, progress=tick)
    n = sum(g.startswith("ENS") for g in made.genes)
    typer.echo(f"{out}: {made!r}, genes named by '{made.provenance['gene_column']}', {n:,} of them Ensembl ids")


@app.command(cls=Verb)
def tally(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="Count files, folders or patterns of them.")],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="OUT.tally.parquet", help="The tally to write.")],
    ids: _Ids = None,
    layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.BuildColumn = None,
    genome: o.BuildGenome = None,
    allow_non_counts: o.CountNonCounts = False,
    allow_repeated_cells: o.AllowRepeatedCells = False,
    force: o.Force = False,
) -> None:
    """The normalised values of a part of the cells in one file: `vocab build` takes tallies where the counts are elsewhere."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    with progress("vocab tally") as tick:
        made = jobs.tally_vocab(**options, progress=tick)
    typer.echo(f"{out}: {made['values']:,} values of {made['cells']:,} cells and {made['genes']:,} genes")


@app.command(cls=Verb)
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="geneformer-v1 or geneformer-v2.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="DIR", help="The vocabulary folder to write (default: NAME).")] = None,
    files: Annotated[Path | None, typer.Option(metavar="DIR", help="Take the files from this folder; no network is used.")] = None,
    cache: Annotated[Path | None, typer.Option(metavar="DIR", help="Where downloads are kept (default: as huggingface_hub does).")] = None,
    force: o.Force = False,
) -> None:
    """Geneformer's published dictionaries, downloaded and checked by size and sha256, to a vocabulary folder."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs
    from rankcell.vocab.recipes import ROLES, read_recipe

    def tick(done: int, total: int) -> None:
        if done < total:
            typer.echo(f"file {done + 1} of {total}: {read_recipe(name)['files'][ROLES[done]]['path']}")

    try:
        made = jobs.fetch_vocab(**options, progress=tick)
    except KeyboardInterrupt as e:
        typer.echo("rankcell: stopped; what was downloaded is kept, the same command goes on", err=True)
        raise typer.Exit(exit_code(e)) from None
    typer.echo(f"{out or name}: {made!r}")


@app.command("import", cls=Verb)
def import_(
    tokens: Annotated[Path, typer.Option(metavar="T.pkl", help="Geneformer's token dictionary.")],
    medians: Annotated[Path, typer.Option(metavar="M.pkl", help="Its gene median dictionary.")],
    out: _Out,
    mapping: Annotated[Path | None, typer.Option(metavar="A.pkl", help="Its id mapping (aliases).")] = None,
    symbols: Annotated[Path | None, typer.Option(metavar="S.pkl", help="Its gene name dictionary (symbols).")] = None,
    name: Annotated[str | None, typer.Option(help="Its name (default: the folder's).")] = None,
    max_len: Annotated[int | None, typer.Option(help="Longest row (default 2048 without CLS, else 4096).")] = None,
    force: o.Force = False,
) -> None:
    """Geneformer's dictionary pickles to a vocabulary folder; a pickle that would run code is refused and runs nothing."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    made = jobs.import_vocab(**options)
    typer.echo(f"{out}: {made!r}")
