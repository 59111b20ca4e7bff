"""What a token means: Vocabulary (gene <-> token, medians, aliases, special tokens) and Frame (head, tail)."""

from rankcell.vocab.build import build_vocabulary
from rankcell.vocab.catalog import find_vocabulary, known_recipes, shipped_vocabularies
from rankcell.vocab.frame import Frame
from rankcell.vocab.importer import import_geneformer
from rankcell.vocab.recipes import fetch_vocabulary
from rankcell.vocab.vocabulary import SPECIALS, Vocabulary

__all__ = [
    "SPECIALS",
    "Frame",
    "Vocabulary",
    "build_vocabulary",
    "fetch_vocabulary",
    "find_vocabulary",
    "import_geneformer",
    "known_recipes",
    "shipped_vocabularies",
]
