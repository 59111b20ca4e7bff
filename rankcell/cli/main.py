"""Entry point: runs a verb, turns errors into one line and an exit code."""

import sys
import warnings

import typer

from rankcell.cli import demo, embed, perturb, pretrain, tokenize, vocab
from rankcell.errors import RankcellError, RankcellWarning

app = typer.Typer(
    name="rankcell",
    help="Rank-value gene tokens, cell embeddings and in-silico perturbation screens from single-cell counts.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for verb in (demo.demo, tokenize.tokenize, embed.embed, perturb.perturb, pretrain.pretrain):
    app.command()(verb)
app.add_typer(vocab.app, name="vocab")


@app.callback(invoke_without_command=True)
def _top(version: bool = typer.Option(False, "--version", help="Show the version and leave.")) -> None:
    if version:
        from rankcell import __version__

        typer.echo(f"rankcell {__version__}")
        raise typer.Exit


def main(args: list[str] | None = None) -> int:
    """Run the command line; the exit code: 0, 2 with one line on stderr for an error of the user's, 130 for Ctrl-C."""
    warnings.showwarning = _show_warning
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("always", category=RankcellWarning)
    try:
        return int(app(args, standalone_mode=False) or 0)
    except RankcellError as e:
        return _fail(str(e))
    except KeyboardInterrupt:
        print("rankcell: stopped", file=sys.stderr)
        return 130
    except Exception as e:
        if type(e).__name__ == "NoArgsIsHelpError":
            print(e.format_message())
            return 0
        if hasattr(e, "format_message"):  # a usage error of the parser
            return _fail(f"{e.format_message()} (see rankcell --help)")
        if isinstance(e, BrokenPipeError):
            return 130
        raise


def _fail(message: str) -> int:
    print("rankcell: " + " ".join(message.split()), file=sys.stderr)
    return 2


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, RankcellWarning):
        print(f"rankcell: note: {message}", file=sys.stderr)
