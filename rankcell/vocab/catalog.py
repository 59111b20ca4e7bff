"""Vocabularies by name: those that ship with the package, those that can be fetched, and folders."""

import os
from pathlib import Path

from rankcell.errors import InputError, VocabularyError
from rankcell.vocab.vocabulary import Vocabulary

DEMO = "pbmc68k"
_RECIPE = ".recipe.json"


def dictionaries() -> Path:
    """The folder of shipped vocabularies: inside an installed package, beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "tokenizer_dicts"
    return inside if inside.is_dir() else package.parent / "tokenizer_dicts"


def read_ids(path: str | os.PathLike) -> dict[str, str]:
    """Symbol -> Ensembl id from a two-column table (`symbol`, `ensembl_id`); symbols without an id are left out."""
    from rankcell.vocab.folder import read_tsv

    try:
        rows = read_tsv(Path(path), ["symbol", "ensembl_id"])
    except FileNotFoundError:
        raise VocabularyError(f"no such file: {path}") from None
    except InputError as e:
        raise VocabularyError(str(e)) from None
    except ValueError as e:
        raise VocabularyError(f"{path} is not a table of symbols and ids: {e}") from None
    return {symbol: ensembl for symbol, ensembl in rows if ensembl}


def shipped_vocabularies() -> dict[str, Path]:
    """Name -> folder of every vocabulary that ships with the package."""
    folders = sorted(dictionaries().glob("*/vocabulary.json"))
    return {p.parent.name: p.parent for p in folders}


def known_recipes() -> dict[str, Path]:
    """Name -> recipe file of every vocabulary that `rankcell vocab fetch` can get."""
    return {p.name.removesuffix(_RECIPE): p for p in sorted(dictionaries().glob(f"*{_RECIPE}"))}


def find_vocabulary(vocab: "str | os.PathLike | Vocabulary") -> Vocabulary:
    """A Vocabulary as it is, a folder, or the name of a shipped one (`demo` is `pbmc68k`)."""
    if isinstance(vocab, Vocabulary):
        return vocab
    shipped = shipped_vocabularies()
    name = DEMO if str(vocab) == "demo" else str(vocab)
    if name in shipped and not (Path(vocab) / "vocabulary.json").exists():
        return Vocabulary.load(shipped[name])
    if name in known_recipes() and not Path(vocab).is_dir():
        raise VocabularyError(f"vocabulary '{name}' is not fetched yet: run 'rankcell vocab fetch {name}', then name its folder")
    if not Path(vocab).is_dir():
        raise VocabularyError(f"no vocabulary '{vocab}': give a vocabulary folder or one of {', '.join(['demo', *shipped])}")
    return Vocabulary.load(vocab)


def find_by_hash(content_hash: str) -> Vocabulary | None:
    """The shipped vocabulary with this content hash, or None."""
    shipped = (Vocabulary.load(folder) for folder in shipped_vocabularies().values())
    return next((vocab for vocab in shipped if vocab.hash == content_hash), None)
