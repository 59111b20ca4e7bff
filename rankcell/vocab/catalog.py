"""Vocabularies by name: those that ship with the package, those that were or can be fetched, and folders."""

import contextlib
import dataclasses
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rankcell.errors import InputError, OutputError, VocabularyError
from rankcell.hub import user_folder
from rankcell.vocab.folder import HEAD
from rankcell.vocab.vocabulary import Vocabulary
from rankcell.wording import command, option

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


def fetched_vocabularies() -> dict[str, Path]:
    """Name -> folder of every vocabulary that was fetched by this user, wherever its own folder is."""
    folder = _fetched_folder()
    try:
        return {name: folder / name for name in known_recipes() if folder is not None and (folder / name / HEAD).is_file()}
    except OSError:  # a folder that may not be looked into
        return {}


def vocabularies_at_hand() -> dict[str, Path]:
    """Name -> folder of every vocabulary that can be named without its folder: shipped and fetched ones."""
    return shipped_vocabularies() | fetched_vocabularies()


def keep_fetched(vocab: Vocabulary, name: str) -> Path | None:
    """Keep a copy of a fetched vocabulary for this user, to be found by name from any folder; None where it cannot be kept."""
    folder = _fetched_folder()
    if folder is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        dataclasses.replace(vocab, name=name).save(folder / name, force=True)
    except (OSError, OutputError):
        return None
    return folder / name


def _fetched_folder() -> Path | None:
    user = user_folder()
    return None if user is None else user / "vocabularies"


def find_vocabulary(vocab: "str | os.PathLike | Vocabulary | None") -> Vocabulary:
    """Find a vocabulary: a Vocabulary as it is, a folder, or the name of a shipped (`demo` is `pbmc68k`) or fetched one.

    A folder of that name in the working folder is taken before one by name. VocabularyError when there is none, or None is given.
    """
    if isinstance(vocab, Vocabulary):
        return vocab
    if vocab is None:
        raise VocabularyError(
            f"no vocabulary was named: {option('vocab', placeholder='V')} takes a vocabulary folder, or one of {_described()}; "
            f"{command('check', 'FILE')} says which knows the genes of a file, {command('vocab build', 'FILE -o FOLDER')} makes one of its counts"
        )
    if not isinstance(vocab, (str, os.PathLike)):
        raise VocabularyError(f"vocabulary is {vocab!r}; expected a Vocabulary, its folder, or one of {_described()}")
    at_hand = vocabularies_at_hand()
    name = DEMO if str(vocab) == "demo" else str(vocab)
    if name in at_hand and not (Path(vocab) / HEAD).exists():
        return Vocabulary.load(at_hand[name])
    if name in known_recipes() and not Path(vocab).is_dir():
        raise VocabularyError(
            f"vocabulary '{name}' is not fetched yet: run {command('vocab fetch', name)} once, then it is known by that name"
        )
    if not Path(vocab).is_dir():
        raise VocabularyError(f"no vocabulary '{vocab}': give a vocabulary folder or one of {', '.join(['demo', *at_hand])}")
    return Vocabulary.load(vocab)


def _described() -> str:
    """List the vocabularies at hand and those that can be fetched, for a message."""
    at_hand, recipes = vocabularies_at_hand(), known_recipes()
    names = [f"{name} (also called demo: a toy of 765 genes)" if name == DEMO else name for name in at_hand]
    later = [name for name in recipes if name not in at_hand]
    return ", ".join(names) + (f" ({command('vocab fetch')} brings {', '.join(later)})" if later else "")


def find_by_hash(content_hash: str, folders: Iterable[Path] = ()) -> Vocabulary | None:
    """The vocabulary with this content hash: a shipped or fetched one, else one of `folders`; None where there is none.

    Of `folders` what is no vocabulary folder, or a damaged one, is passed over.
    """
    at_hand = (Vocabulary.load(folder) for folder in vocabularies_at_hand().values())
    return next((vocab for vocab in (*at_hand, *_readable(folders)) if vocab.hash == content_hash), None)


def _readable(folders: Iterable[Path]) -> Iterator[Vocabulary]:
    for folder in folders:
        if (folder / HEAD).is_file():
            with contextlib.suppress(VocabularyError):
                yield Vocabulary.load(folder)
