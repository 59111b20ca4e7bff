"""Counts -> rank tokens: the kernel, the Tokenizer, and TokenSet (rows + cell ids + obs + TokenSpec)."""

from rankcell.tokens.spec import TokenSpec
from rankcell.tokens.tokenizer import Tokenizer
from rankcell.tokens.tokenset import TokenSet

__all__ = ["TokenSet", "TokenSpec", "Tokenizer"]
