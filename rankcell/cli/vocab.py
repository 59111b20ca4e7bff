"""rankcell vocab list | show | build | import"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli import options as o

app = typer.Typer(help="Vocabularies: list, show, build from counts, import Geneformer's.", no_args_is_help=True, rich_markup_mode=None)
_Out = Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="The vocabulary folder to write.")]


@app.command("list")
def list_() -> None:
    """The vocabularies that ship with the package."""
    from rankcell.vocab import Vocabulary, shipped_vocabularies

    for folder in shipped_vocabularies().values():
        v = Vocabulary.load(folder)
        typer.echo(f"{v.name:<16} {len(v):>7,} genes  {v.species or '-':<8} {' '.join(v.special)}  {v.hash[:12]}")


@app.command()
def show(vocab: Annotated[str, typer.Argument(metavar="V", help="A vocabulary folder or name.")]) -> None:
    """What a vocabulary is: genes, special tokens, hash, provenance."""
    from rankcell import jobs

    for line in jobs.show_vocab(vocab):
        typer.echo(line)


@app.command()
def build(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="Count files with the same genes.")],
    out: _Out,
    ids: Annotated[
        Path | None, typer.Option(metavar="SYMBOLS.tsv", help="A table symbol, ensembl_id: genes get their Ensembl ids.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Its name (default: the folder's).")] = None,
    species: Annotated[str, typer.Option(help="What the genes belong to.")] = "",
    max_len: Annotated[int, typer.Option(help="Longest row, special tokens included.")] = 4096,
    cls: Annotated[bool, typer.Option("--cls/--no-cls", help="With or without CLS and EOS tokens.")] = True,
    layer: o.CountsLayer = None,
    raw: o.Raw = False,
    gene_column: o.BuildColumn = None,
    force: o.Force = False,
) -> None:
    """A vocabulary from counts: non-zero medians of normalised expression, exact."""
    options = dict(locals())  # every option is a parameter of the job
    from rankcell import jobs

    made = jobs.build_vocab(**options)
    n = sum(g.startswith("ENS") for g in made.genes)
    typer.echo(f"{out}: {made!r}, genes named by '{made.provenance['gene_column']}', {n:,} of them Ensembl ids")


@app.command("import")
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
