"""Facts of an object, (name, value) each, as the text and the HTML that a notebook shows of it. A leaf."""

import html
from collections.abc import Sequence

__all__ = ["html_of_facts", "text_of_facts"]

Facts = Sequence[tuple[str, str]]


def text_of_facts(title: str, facts: Facts) -> str:
    """A line of its own per fact, indented below the title."""
    return "\n".join([title, *(f"  {name}: {value}" for name, value in facts)])


def html_of_facts(title: str, facts: Facts) -> str:
    """A table of two columns below the title."""
    rows = "".join(f"<tr><th style='text-align:left'>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>" for name, value in facts)
    return f"<b>{html.escape(title)}</b><table>{rows}</table>"
