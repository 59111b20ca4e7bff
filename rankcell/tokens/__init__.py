"""Counts -> rank tokens: the kernel, the Tokenizer, and TokenSet (rows + cell ids + obs + TokenSpec)."""

from rankcell.lazy import door

_PLACES = {
    "TokenSet": "rankcell.tokens.tokenset",
    "TokenSpec": "rankcell.tokens.spec",
    "Tokenizer": "rankcell.tokens.tokenizer",
}
__getattr__, __dir__ = door(__name__, _PLACES)
