"""Recipes: vocabularies that are not ours to ship, and the models that read them, known by where their files live, their sizes
and their sha256."""

import dataclasses
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankcell.errors import InputError, VocabularyError
from rankcell.hub import check_file, fetch_file, sha256_of
from rankcell.store import read_json
from rankcell.vocab.catalog import known_recipes
from rankcell.vocab.importer import import_geneformer
from rankcell.vocab.vocabulary import Vocabulary
from rankcell.wording import command, option

ROLES = ("tokens", "medians", "symbols", "mapping")
_PLAIN = {  # as Geneformer called them at first
    "tokens": "token_dictionary.pkl",
    "medians": "gene_median_dictionary.pkl",
    "symbols": "gene_name_id_dict.pkl",
    "mapping": "ensembl_mapping_dict.pkl",
}


def read_recipe(name: str) -> dict[str, Any]:
    """The recipe called `name`. VocabularyError when there is none."""
    known = known_recipes()
    if name not in known:
        raise VocabularyError(f"no recipe '{name}'; there are {', '.join(known)}")
    return read_json(known[name])


def fetch_vocabulary(
    name: str,
    *,
    files: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
    out: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Vocabulary:
    """The vocabulary of a recipe, from files that are downloaded or, with `files`, stand in that folder already.

    cache
        The folder that keeps the downloads (None: that of huggingface_hub).
    out
        Where the vocabulary is to go, for the commands that messages name.
    progress
        Called with the number of files that are there, and of all, before each file (in the order of ROLES) and at the end.

    Raises VocabularyError for an unknown name, InputError when a file cannot be had or is not the one meant.
    """
    recipe = read_recipe(name)
    paths = {}
    at_hand = _require_files(Path(files), recipe, out) if files is not None else {}
    for done, role in enumerate(ROLES):
        if progress:
            progress(done, len(ROLES))
        file = recipe["files"][role]
        at = at_hand.get(role)
        paths[role] = check_file(at, size=file["bytes"], sha256=file["sha256"]) if at else _from_hub(recipe, role, cache, out)
    if progress:
        progress(len(ROLES), len(ROLES))
    vocab = import_geneformer(
        paths["tokens"],
        paths["medians"],
        symbols=paths["symbols"],
        mapping=paths["mapping"],
        name=name,
        species=recipe["species"],
        max_len=recipe["max_len"],
    )
    source = {"recipe": name, "repository": recipe["repository"], "license": recipe["license"]}
    return dataclasses.replace(vocab, provenance=source | dict(vocab.provenance))


@dataclasses.dataclass(frozen=True)
class PublishedModel:
    """The weights file of a published model, and the recipe of the vocabulary that it was trained with."""

    name: str
    recipe: str
    repository: str
    path: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class PublishedSeries:
    """Published models of one vocabulary: its recipe, its number of tokens, and parts of the names that their folders have."""

    title: str
    recipe: str
    n_tokens: int
    names: tuple[str, ...]


def published_series() -> list[PublishedSeries]:
    """Every series of models that a recipe describes."""
    recipes = ((name, read_recipe(name)) for name in known_recipes())
    return [PublishedSeries(r["title"], name, r["n_tokens"], tuple(r["names"])) for name, r in recipes]


def published_models() -> list[PublishedModel]:
    """Every model whose weights a recipe knows."""
    return [
        PublishedModel(m["name"], name, recipe["repository"], m["path"], m["bytes"], m["sha256"])
        for name, recipe in ((name, read_recipe(name)) for name in known_recipes())
        for m in recipe.get("models", ())
    ]


def recognize_weights(path: Path) -> PublishedModel | None:
    """The published model whose weights `path` holds, or None. It is read only when its size is that of one."""
    candidates = [m for m in published_models() if m.size == path.stat().st_size]
    digest = sha256_of(path) if candidates else ""
    return next((m for m in candidates if m.sha256 == digest), None)


def by_hand(recipe: dict[str, Any], out: str | os.PathLike | None = None) -> str:
    """Instructions for a machine without a network: what to download elsewhere, and the commands that take it."""
    paths = {role: recipe["files"][role]["path"] for role in ROLES}
    fetch = command("vocab fetch", f"{recipe['name']} --files FOLDER" + (f" -o {_quoted(out)}" if _is_own(out, recipe) else ""))
    return (
        f"download {', '.join(paths.values())} from {recipe['repository']} elsewhere, bring them here in one FOLDER, and run {fetch}, "
        f"or {_import_command({r: Path('FOLDER', os.path.basename(p)) for r, p in paths.items()}, recipe, out)}"
    )


def _is_own(out: str | os.PathLike | None, recipe: dict[str, Any]) -> bool:
    return out is not None and str(out) != recipe["name"]


def _import_command(paths: dict[str, Path], recipe: dict[str, Any], out: str | os.PathLike | None) -> str:
    options = " ".join(f"--{role} {_quoted(path)}" for role, path in paths.items())
    return command("vocab import", f"{options} -o {_quoted(recipe['name'] if out is None else out)}")


def _quoted(path: str | os.PathLike) -> str:
    """As a shell takes it, inside the single quotes of a message."""
    text = str(path)
    return text if shlex.quote(text) == text else '"' + re.sub(r'(["$`\\])', r"\\\1", text) + '"'


def _from_hub(recipe: dict[str, Any], role: str, cache: str | os.PathLike | None, out: str | os.PathLike | None) -> Path:
    file = recipe["files"][role]
    return fetch_file(
        recipe["repository"], file["path"], size=file["bytes"], sha256=file["sha256"], cache=cache, otherwise=by_hand(recipe, out)
    )


def _require_files(folder: Path, recipe: dict[str, Any], out: str | os.PathLike | None) -> dict[str, Path]:
    """Role -> file, by its name, or by its path in the repository, where the folder is a copy of that. InputError names all
    that are missing, and the command for what is there."""
    paths = {role: recipe["files"][role]["path"] for role in ROLES}
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: {option('files')} names the one that holds {', '.join(map(os.path.basename, paths.values()))}")
    at_hand = {role: at for role, path in paths.items() if (at := _first(folder, os.path.basename(path), path))}
    missing = [path for role, path in paths.items() if role not in at_hand]
    if missing:
        usable = {role: at for role in ROLES if (at := at_hand.get(role) or _first(folder, _PLAIN[role]))}
        enough = f"{command('vocab import')} takes any of them that include the tokens and the medians"
        if {"tokens", "medians"} <= set(usable):
            enough += f", such as what is there, whose sums it does not check: {_import_command(usable, recipe, out)}"
        raise InputError(
            f"{folder} has no {', '.join(map(os.path.basename, missing))}: download {', '.join(missing)} from {recipe['repository']} "
            f"into it; or {enough}"
        )
    return at_hand


def _first(folder: Path, *names: str) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_file()), None)
