"""rankcell vocab list | show | build | tally | fetch | import"""

from pathlib import Path
from typing import Annotated

import typer

from rankcell.cli.flags import flat
from rankcell.cli.progress import progress
from rankcell.cli.shared import Force
from rankcell.cli.stopping import exit_code
from rankcell.cli.verb import Verb
from rankcell.counts.vocabulary.options import CountsToBuild, NewVocabulary, VocabularyName
from rankcell.options import Help

app = typer.Typer(
    help="Vocabularies: list, show, build from counts, fetch or import Geneformer's.", no_args_is_help=True, rich_markup_mode=None
)
_Out = Annotated[Path, Help("The vocabulary folder to write.", "DIR", flags=("--out", "-o"))]
_Ids = Annotated[Path | None, Help("A table symbol, ensembl_id: genes get their Ensembl ids.", "SYMBOLS.tsv")]


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
    from rankcell.cli.vocabulary_lines import vocabulary_lines
    from rankcell.vocab import find_vocabulary

    for line in vocabulary_lines(find_vocabulary(vocab)):
        typer.echo(line)


@app.command(cls=Verb)
@flat
def build(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="Count files, folders or patterns of them, and tallies.")],
    out: _Out,
    new: NewVocabulary,
    counts: CountsToBuild,
    ids: _Ids = None,
    force: Force = False,
) -> None:
    """A vocabulary from counts: non-zero medians of normalised expression, exact, whatever the number of cells."""
    from rankcell.counts.vocabulary.build_vocab import build_vocab

    with progress("vocab build") as tick:
        vocab = build_vocab(sources, out, ids=ids, new=new, counts=counts, force=force, progress=tick)
    n = sum(g.startswith("ENS") for g in vocab.genes)
    typer.echo(f"{out}: {vocab!r}, genes named by '{vocab.provenance['gene_column']}', {n:,} of them Ensembl ids")


@app.command(cls=Verb)
@flat
def tally(
    sources: Annotated[list[Path], typer.Argument(metavar="IN...", help="Count files, folders or patterns of them.")],
    out: Annotated[Path, Help("The tally to write.", "OUT.tally.parquet", flags=("--out", "-o"))],
    counts: CountsToBuild,
    ids: _Ids = None,
    force: Force = False,
) -> None:
    """The normalised values of a part of the cells in one file: `vocab build` takes tallies where the counts are elsewhere."""
    from rankcell.counts.vocabulary.build_vocab import tally_vocab

    with progress("vocab tally") as tick:
        sizes = tally_vocab(sources, out, ids=ids, counts=counts, force=force, progress=tick)
    typer.echo(f"{out}: {sizes['values']:,} values of {sizes['cells']:,} cells and {sizes['genes']:,} genes")


@app.command(cls=Verb)
@flat
def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="geneformer-v1 or geneformer-v2.")],
    out: Annotated[Path | None, Help("The vocabulary folder to write (default: NAME).", "DIR", flags=("--out", "-o"))] = None,
    files: Annotated[Path | None, Help("Take the files from this folder; no network is used.", "DIR")] = None,
    cache: Annotated[Path | None, Help("Where downloads are kept (default: as huggingface_hub does).", "DIR")] = None,
    force: Force = False,
) -> None:
    """Geneformer's published dictionaries, downloaded and checked by size and sha256, to a vocabulary folder."""
    from rankcell.vocab.published import fetch_vocab
    from rankcell.vocab.recipes import ROLES, read_recipe

    def tick(done: int, total: int) -> None:
        if done < total:
            typer.echo(f"file {done + 1} of {total}: {read_recipe(name)['files'][ROLES[done]]['path']}")

    try:
        vocab = fetch_vocab(name, out, files=files, cache=cache, force=force, progress=tick)
    except KeyboardInterrupt as e:
        typer.echo("rankcell: stopped; what was downloaded is kept, the same command goes on", err=True)
        raise typer.Exit(exit_code(e)) from None
    typer.echo(f"{out or name}: {vocab!r}")


@app.command("import", cls=Verb)
@flat
def import_(
    tokens: Annotated[Path, Help("Geneformer's token dictionary.", "T.pkl")],
    medians: Annotated[Path, Help("Its gene median dictionary.", "M.pkl")],
    out: _Out,
    mapping: Annotated[Path | None, Help("Its id mapping (aliases).", "A.pkl")] = None,
    symbols: Annotated[Path | None, Help("Its gene name dictionary (symbols).", "S.pkl")] = None,
    name: VocabularyName = None,
    max_len: Annotated[int | None, Help("Longest row (default 2048 without CLS, else 4096).")] = None,
    force: Force = False,
) -> None:
    """Geneformer's dictionary pickles to a vocabulary folder; a pickle that would run code is refused and runs nothing."""
    from rankcell.vocab.published import import_vocab

    vocab = import_vocab(out, tokens=tokens, medians=medians, mapping=mapping, symbols=symbols, name=name, max_len=max_len, force=force)
    typer.echo(f"{out}: {vocab!r}")
