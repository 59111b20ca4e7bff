"""Text of unknown origin (cell ids, gene names, paths) on a terminal: one line, without characters that steer it."""

import unicodedata

_STEER = {"Cc", "Cf", "Zl", "Zp", "Cs"}  # control and format characters (escape, NUL, direction marks), line separators, lone surrogates
_JOINERS = "\u200c\u200d"  # letters of some scripts need them


def one_line(text: str) -> str:
    """Blanks and line ends as single blanks, other control and direction characters as \\x1b and the like."""
    return visible(" ".join(text.split()))


def visible(text: str) -> str:
    """A line in which every character that would steer a terminal is written out."""
    return "".join(_written(c) if unicodedata.category(c) in _STEER and c not in _JOINERS else c for c in text)


def _written(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}" if code < 65536 else f"\\U{code:08x}"
