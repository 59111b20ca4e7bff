"""The command line: one thin file per verb. Importing it loads no heavy library."""

from rankcell.cli.main import main

__all__ = ["main"]
