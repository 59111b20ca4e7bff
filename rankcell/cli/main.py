"""Entry point: runs a verb, turns errors into one line and an exit code."""

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Sequence

import typer

from rankcell.cli.stopping import exit_code, heed_signals, ignore_signals, is_stop
from rankcell.cli.usage import failed_call, usage_error
from rankcell.cli.verb import Verb
from rankcell.errors import RankcellError, RankcellWarning, is_out_of_memory
from rankcell.wording import one_line

_BROKEN_PIPE = 130

VERBS = ("demo", "check", "tokenize", "embed", "compare", "annotate", "perturb", "stats", "plot", "pretrain", "vocab")


def make_app(verbs: Sequence[str] = VERBS) -> typer.Typer:
    """The command line with some of its verbs; only the files of these are loaded."""
    app = typer.Typer(
        name="rankcell",
        help="Rank-value gene tokens, cell embeddings and in-silico perturbation screens from single-cell counts.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
    )
    for name in verbs:
        module = importlib.import_module(f"rankcell.cli.{name}")
        if hasattr(module, "app"):
            app.add_typer(module.app, name=name)
        else:
            app.command(cls=Verb)(getattr(module, name))
    app.callback(invoke_without_command=True)(_top)
    return app


def _top(version: bool = typer.Option(False, "--version", help="Show the version and leave.")) -> None:
    if version:
        from rankcell import __version__

        typer.echo(f"rankcell {__version__}")
        raise typer.Exit


def main(args: list[str] | None = None) -> int:
    """Run the command line; the exit code: 0, 2 with one line on stderr for an error of the user's, 130 for Ctrl-C, 143 for SIGTERM, 129
    for SIGHUP.

    args
        None: those of this process, which then heeds these signals, and ends at once after one.
    """
    if args is None:
        heed_signals()
    code = _guarded(sys.argv[1:] if args is None else args)
    if args is None and is_stop(code):
        _leave(code)
    return code


def _leave(code: int) -> None:
    """End the process without waiting for threads that compile or read: all is cleared up, and nothing of theirs is wanted."""
    ignore_signals()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _guarded(args: list[str]) -> int:
    """Run with every expected error as one line."""
    warnings.showwarning = _show_warning
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("always", category=RankcellWarning)
    try:
        return _run(args)
    except RankcellError as e:
        return _fail(str(e))
    except KeyboardInterrupt as e:
        print("rankcell: stopped", file=sys.stderr)
        return exit_code(e)
    except Exception as e:
        if (interrupt := _interrupt_behind(e)) is not None:
            print("rankcell: stopped", file=sys.stderr)
            return exit_code(interrupt)
        if type(e).__name__ == "NoArgsIsHelpError":
            print(e.format_message())
            return 0
        if hasattr(e, "format_message"):  # a usage error of the parser
            return _fail(usage_error(e).removeprefix("rankcell: "))
        if isinstance(e, BrokenPipeError):
            return _BROKEN_PIPE
        if is_out_of_memory(e):
            first = (str(e).splitlines() or [""])[0]
            return _fail(f"there is not enough memory for this{f' ({first})' if first else ''}")
        if isinstance(e, OSError):
            return _fail(failed_call(e))
        raise


def _interrupt_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The interrupt during which `error` was raised: one that comes while a lock is taken ends as `RuntimeError: release unlocked lock`."""
    context = error.__context__
    while context is not None and not isinstance(context, KeyboardInterrupt):
        context = context.__context__
    return context


def _run(args: list[str]) -> int:
    """Parse and run, without the parser's own ideas about Ctrl-C: some of its versions say nothing, some print an empty line."""
    command = typer.main.get_command(make_app(args[:1] if args and args[0] in VERBS else VERBS))
    try:
        with command.make_context("rankcell", list(args)) as context:
            return int(command.invoke(context) or 0)
    except typer.Exit as e:
        return e.exit_code


def _fail(message: str) -> int:
    print("rankcell: " + one_line(message), file=sys.stderr)
    return 2


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if issubclass(category, RankcellWarning):
        print(f"rankcell: note: {one_line(str(message))}", file=sys.stderr)
