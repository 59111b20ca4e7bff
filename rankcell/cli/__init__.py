"""The command line: one thin file per verb. Importing it loads no heavy library."""

import sys

try:
    from rankcell.cli.main import main
except KeyboardInterrupt:  # the parser takes a moment to load
    print("rankcell: stopped", file=sys.stderr)
    raise SystemExit(130) from None

__all__ = ["main"]
