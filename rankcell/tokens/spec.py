"""TokenSpec: what a set of token rows was made with, so that every later stage can check that it fits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rankcell.errors import TokensError
from rankcell.vocab import Frame, Vocabulary
from rankcell.wording import option

FORMAT = "rankcell-tokens-1"
RENAMED = "renamed"  # in TokenSpec.source: {cell column: the name under which it is carried}


@dataclasses.dataclass(frozen=True)
class TokenSpec:
    """Vocabulary (name and content hash), frame and longest row of a TokenSet, and where the rows come from.

    `categories`: cell columns that were categories -> {"categories": names in order, "ordered"}; the rows hold their names.
    `cropping`: how many cells were cropped, and how many of their genes no row holds (the fields of rankcell.tokens.cropping.Cropping).
    """

    vocabulary: str
    vocabulary_hash: str
    frame: Frame
    max_len: int
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    version: str = ""
    categories: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    cropping: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(
        cls,
        vocab: Vocabulary,
        *,
        frame: Frame,
        max_len: int,
        source: Mapping[str, Any] | None = None,
        categories: Mapping[str, Any] | None = None,
        cropping: Mapping[str, int] | None = None,
    ) -> "TokenSpec":
        from rankcell import __version__

        return cls(vocab.name, vocab.hash, frame, max_len, dict(source or {}), __version__, dict(categories or {}), dict(cropping or {}))

    def to_json(self) -> dict[str, Any]:
        head = {"format": FORMAT, "vocabulary": self.vocabulary, "vocabulary_hash": self.vocabulary_hash}
        return head | {
            "frame": self.frame.to_json(),
            "max_len": self.max_len,
            "source": dict(self.source),
            "categories": dict(self.categories),
            "cropping": dict(self.cropping),
            "version": self.version,
        }

    @classmethod
    def from_json(cls, value: Any) -> "TokenSpec":
        try:
            if value["format"] != FORMAT:
                raise TokensError(f"rankcell.json has format {value['format']!r}; this version reads {FORMAT!r}")
            parts = {"source": dict(value.get("source", {})), "categories": dict(value.get("categories", {}))}
            parts["cropping"] = {str(k): int(v) for k, v in dict(value.get("cropping", {})).items()}
            for name, kind in parts["categories"].items():
                parts["categories"][name] = {"categories": list(kind["categories"]), "ordered": bool(kind["ordered"])}
            head = str(value["vocabulary"]), str(value["vocabulary_hash"]), Frame.from_json(value["frame"]), int(value["max_len"])
            return cls(*head, version=str(value.get("version", "")), **parts)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as e:
            raise TokensError(f"rankcell.json cannot be read ({type(e).__name__}: {e}): tokenize again") from e

    def require(self, vocab: Vocabulary, *, owner: str, again: str | None = None) -> None:
        """Raise VocabularyError unless the rows were made with `vocab`, which belongs to `owner` ("the model 'demo'").

        again
            What `vocab` is to tokenize anew; None: the vocabulary's name.
        """
        from rankcell.errors import VocabularyError

        if self.vocabulary_hash != vocab.hash:
            raise VocabularyError(
                f"the tokens were made with vocabulary '{self.vocabulary}' ({self.vocabulary_hash[:12]}), but {owner} has "
                f"vocabulary '{vocab.name}' ({vocab.hash[:12]}): tokenize again with {option('vocab', again or vocab.name)}, or choose a model "
                f"of '{self.vocabulary}'"
            )


def input_facts(source: Mapping[str, Any]) -> dict[str, Any]:
    """Of the inputs that rows were made from (`TokenSpec.source`): their names, and the genes and known genes of the one that is known least."""
    files = [f for f in source.get("files", [source]) if isinstance(f, Mapping)]
    least = min(files, key=lambda f: f.get("genes_known", 0) / max(1, f.get("genes", 0)), default={})
    names = [str(f["name"]) for f in files if f.get("name")]
    return {"names": names, "genes": least.get("genes", 0), "genes_known": least.get("genes_known", 0)}


def renamed(names: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """The `renamed` entry of TokenSpec.source for cell columns ({name in the set: cell column}); {} where none was renamed."""
    others = {column: name for name, column in names.items() if name != column}
    return {RENAMED: others} if others else {}
