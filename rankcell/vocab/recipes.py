"""Recipes: vocabularies that are not ours to ship, known by where their files live, their sizes and their sha256."""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankcell.errors import InputError, VocabularyError
from rankcell.hub import check_file, fetch_file
from rankcell.store import read_json
from rankcell.vocab.catalog import known_recipes
from rankcell.vocab.importer import import_geneformer
from rankcell.vocab.vocabulary import Vocabulary

ROLES = ("tokens", "medians", "symbols", "mapping")


def read_recipe(name: str) -> dict[str, Any]:
    """The recipe called `name`. VocabularyError when there is none."""
    known = known_recipes()
    if name not in known:
        raise VocabularyError(f"no recipe '{name}': rankcell vocab fetch knows {', '.join(known)}")
    return read_json(known[name])


def fetch_vocabulary(
    name: str,
    *,
    files: str | os.PathLike | None = None,
    cache: str | os.PathLike | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Vocabulary:
    """The vocabulary of a recipe, from files that are downloaded or, with `files`, stand in that folder already.

    cache
        The folder that keeps the downloads (None: that of huggingface_hub).
    progress
        Called with the number of files that are there, and of all.

    Raises VocabularyError for an unknown name, InputError when a file cannot be had or is not the one meant.
    """
    recipe = read_recipe(name)
    found = {}
    for done, role in enumerate(ROLES):
        if progress:
            progress(done, len(ROLES))
        found[role] = _from_folder(Path(files), recipe, role) if files is not None else _from_hub(recipe, role, cache)
    if progress:
        progress(len(ROLES), len(ROLES))
    vocab = import_geneformer(
        found["tokens"],
        found["medians"],
        symbols=found["symbols"],
        mapping=found["mapping"],
        name=name,
        species=recipe["species"],
        max_len=recipe["max_len"],
    )
    source = {"recipe": name, "repository": recipe["repository"], "license": recipe["license"]}
    return dataclasses.replace(vocab, provenance=source | dict(vocab.provenance))


def by_hand(recipe: dict[str, Any]) -> str:
    """How to come by the vocabulary without a network here: what to download elsewhere, and the commands that take it."""
    paths = {role: recipe["files"][role]["path"] for role in ROLES}
    options = " ".join(f"--{role} {os.path.basename(path)}" for role, path in paths.items())
    return (
        f"download {', '.join(paths.values())} from {recipe['repository']} elsewhere, bring them here in one folder, and run "
        f"'rankcell vocab fetch {recipe['name']} --files FOLDER', or inside it 'rankcell vocab import {options} -o {recipe['name']}'"
    )


def _from_hub(recipe: dict[str, Any], role: str, cache: str | os.PathLike | None) -> Path:
    file = recipe["files"][role]
    return fetch_file(recipe["repository"], file["path"], size=file["bytes"], sha256=file["sha256"], cache=cache, otherwise=by_hand(recipe))


def _from_folder(folder: Path, recipe: dict[str, Any], role: str) -> Path:
    """The file by its name, or by its path in the repository, where the folder is a copy of that."""
    file = recipe["files"][role]
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: --files names the one that holds {os.path.basename(file['path'])}")
    for path in (folder / os.path.basename(file["path"]), folder / file["path"]):
        if path.is_file():
            return check_file(path, size=file["bytes"], sha256=file["sha256"])
    raise InputError(f"{folder} has no {os.path.basename(file['path'])}: download {file['path']} from {recipe['repository']} into it")
