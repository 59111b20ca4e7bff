"""What a verb may be given: counts, a token set, names of genes."""

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from rankcell.errors import CellError, InputError, SettingsError
from rankcell.jobs.arguments import whole_number
from rankcell.store import read_lines, read_text, remove_folder, require_unshared
from rankcell.tokens import Tokenizer, TokenSet
from rankcell.tokens.cropping import note_cropping
from rankcell.tokens.job import Options
from rankcell.tokens.tokenset import DATASET_FILES
from rankcell.wording import note, option, shortened

_IN_MEMORY = 2**29  # bytes of a count file whose tokens are kept in memory

FEW = 0.1  # of the genes of a file: a smaller share that is known looks like the wrong vocabulary

Progress = Callable[[int, int], None] | None


def is_token_folder(source: Any) -> bool:
    """Whether `source` is the path of a `datasets` folder, or of one that lacks a part or holds several datasets."""
    names = ("state.json", "dataset_dict.json", "rankcell.json")
    return isinstance(source, (str, os.PathLike)) and any((Path(source) / name).exists() for name in names)


def is_tokens(source: Any) -> bool:
    """Whether `source` is a TokenSet or the path of a token folder."""
    return isinstance(source, TokenSet) or is_token_folder(source)


def require_no_counts_options(source: Any, **options: Any) -> None:
    """SettingsError when something is named that only counts have."""
    if named := [name for name, value in options.items() if value]:
        raise SettingsError(f"{source} holds tokens: {' and '.join(option(name) for name in named)} {'is' if len(named) == 1 else 'are'} for counts")


def tokens_of(
    source: Any,
    checkpoint: Any,
    *,
    obs: Sequence[str] = (),
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    genome: str | None = None,
    allow_non_counts: bool = False,
    keep_counts: bool = False,
    keep_uncropped: bool = False,
) -> TokenSet:
    """What a model is to be run on: a TokenSet as it is, a token folder, or counts tokenized with the model's vocabulary."""
    if is_tokens(source):
        require_no_counts_options(source, counts_layer=counts_layer, raw=raw, gene_column=gene_column, genome=genome)
    if isinstance(source, TokenSet):
        return source
    if is_token_folder(source):
        has_spec = (Path(source) / "rankcell.json").exists()
        tokens = TokenSet.open(source, vocab=None if has_spec else checkpoint.vocab)
        note_cropping(tokens.spec)
        return tokens
    tokenizer = Tokenizer(checkpoint.vocab, max_len=checkpoint.max_len)
    options = Options(
        obs,
        counts_layer,
        raw,
        gene_column,
        genome,
        allow_non_counts=allow_non_counts,
        keep_counts=keep_counts,
        keep_uncropped=keep_uncropped,
    )
    tokens = tokenizer.run(source, options, note_empty=False)  # embedding and screens name cells without genes themselves
    warn_of_few_genes(tokens)
    return tokens


@contextlib.contextmanager
def tokens_on_disk(source: Any, checkpoint: Any, *, beside: str | os.PathLike, obs: Sequence[str] = (), **how: Any) -> Iterator[TokenSet]:
    """The same; the tokens of a large count file are kept in a hidden folder beside an output while they are used."""
    if not isinstance(source, (str, os.PathLike)) or is_token_folder(source) or _size(Path(source)) < _IN_MEMORY:
        yield tokens_of(source, checkpoint, obs=obs, **how)
        return
    beside = Path(beside)
    folder = beside.with_name(f".{beside.name}.tokens")
    require_unshared(folder)
    tokenizer, layer = Tokenizer(checkpoint.vocab, max_len=checkpoint.max_len), how.pop("counts_layer", None)
    tokens = tokenizer.run(source, Options(obs=obs, layer=layer, **how), folder, force=True, note_empty=False)
    try:
        warn_of_few_genes(tokens)
        yield tokens
    finally:
        remove_folder(folder, DATASET_FILES)


def warn_of_few_genes(tokens: TokenSet) -> None:
    """Say so when counts were tokenized with a vocabulary that knows few of their genes, and no larger share of all counts."""
    for facts in tokens.spec.source.get("files", [tokens.spec.source]):
        known, n = facts.get("genes_known", 0), facts.get("genes", 0)
        if n and known < FEW * n:
            note(
                f"{known:,} of {n:,} genes are known ({known / n:.0%}) to vocabulary '{tokens.spec.vocabulary}', and the model sees no others: "
                "is this the right model for these cells?"
            )
            return


def _size(path: Path) -> int:
    """Bytes of a file or folder; 0 where there is none."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(f.stat().st_size for f in files if f.is_file())


def require_there(source: Any) -> None:
    """InputError when `source` is a path and nothing is there."""
    if isinstance(source, (str, os.PathLike)) and not os.path.exists(source):
        raise InputError(f"no such file: {source}")


def columns_to_carry(source: str | os.PathLike, out: str | os.PathLike, *, named: Sequence[str] = ()) -> list[str]:
    """The cell columns of count files that an AnnData `out` is to have, where `out` is no copy of it that has them anyway.

    Of several files those that all of them have. A note names what tokens or `out` cannot hold, but for the columns in `named`,
    which whoever needs them refuses.
    """
    from rankcell.counts import find_inputs, open_at_counts
    from rankcell.embed.carried import note_left_out
    from rankcell.embed.stores import STORES, reasons_against
    from rankcell.tokens.job import column_types, names_of_obs

    store = STORES[Path(out).suffix.lower()]
    if not store.has_obs or store.copies(Path(source)):
        return []
    inputs, columns, reasons = find_inputs(source), {}, {}
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open_at_counts(item)) for item in inputs.items]
        for name in [c for c in dict.fromkeys(opened[0].obs_columns) if all(c in one.obs_columns for one in opened)]:
            try:
                obs = [{name: one.obs(name)} for one in opened]
                column_types(obs, inputs)
                columns[name] = pa.chunked_array([obs[0][name]])
            except (InputError, CellError) as e:
                reasons[name] = f"cannot be read or carried: {str(e)[:150]}"
        tables = {c: "holds a table or records, not one value a cell" for c in opened[0].obs_tables}
    names = names_of_obs(columns, several=inputs.several)
    reasons |= {names[name]: why for name, why in reasons_against(out, {name: columns[c] for name, c in names.items()}).items()}
    note_left_out(tables | {c: reasons[c] for c in opened[0].obs_columns if c in reasons and c not in named}, out)
    return [c for c in columns if c not in reasons]


def whole_layers(layer: Any) -> list[int]:
    """One layer or several -> a list without repeats. SettingsError for what is no whole number."""
    several = [layer] if isinstance(layer, str) or not hasattr(layer, "__iter__") else list(layer)
    try:
        numbers = [whole_number(n, "layer") for n in several]
    except SettingsError:
        numbers = [None]
    if None in numbers:
        raise SettingsError(f"layer is {shortened(layer)}; a whole number such as -1 (the last block's output) or -2, or a list of them")
    return list(dict.fromkeys(numbers))


def named_genes(genes: str | Sequence[str]) -> str | list[str]:
    """`all`, `A,B` or `@file` (a name a line) -> "all" or a list of names; lists pass."""
    if not isinstance(genes, str):
        return list(genes)
    if genes == "all":
        return genes
    if not genes.startswith("@"):
        return [g.strip() for g in genes.split(",") if g.strip()]
    lines = read_lines(genes[1:], "a list of genes", option=option("genes", genes))
    return [g for line in lines for g in line.split("#")[0].replace(",", " ").split()]


def named_cells(cells: str | os.PathLike | Sequence[str]) -> list[str]:
    """The file of cell ids, one a line -> a list; lists pass."""
    if not isinstance(cells, (str, os.PathLike)):
        return [str(c) for c in cells]
    lines = read_lines(cells, "cell ids, one a line", option=option("only", cells))
    return [line.strip() for line in lines if line.strip()]


def gene_sets(source: str | os.PathLike | Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Named sets of genes: a mapping as it is, or a file.

    GMT (`.gmt`: name, description, genes, with tabs), JSON (`.json`: {name: [genes]}), else a table of two columns, name and
    gene, with a tab between (lines that begin with # are left out).
    """
    if isinstance(source, Mapping):
        return {str(name): list(genes) for name, genes in source.items()}
    path = Path(source)
    text = read_text(path, "gene sets", option=option("sets", path))
    try:
        found = _SETS.get(path.suffix.lower(), _sets_of_table)(text)
    except (ValueError, TypeError, AttributeError) as e:
        raise InputError(f"{path} is not a file of gene sets (GMT, JSON, or name<TAB>gene): {e}") from e
    if not found:
        raise InputError(f"{path} holds no set of genes")
    empty = next((name for name, genes in found.items() if not genes), None)
    if empty is not None:
        raise InputError(f"the set '{empty}' in {path} has no genes")
    return found


def _sets_of_json(text: str) -> dict[str, list[str]]:
    held = json.loads(text)
    if not isinstance(held, dict) or not all(isinstance(g, list) and all(isinstance(x, str) for x in g) for g in held.values()):
        raise ValueError("expected {name: [genes]}")
    return held


def _sets_of_gmt(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, fields in _fields(text):
        if len(fields) < 2:
            raise ValueError(f"line {number} has no tab")
        if fields[0] in found:
            raise ValueError(f"line {number}: the set '{fields[0]}' stands in it twice")
        found[fields[0]] = [g for g in fields[2:] if g]
    return found


def _sets_of_table(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for number, fields in _fields(text):
        if len(fields) != 2 or not all(fields):
            raise ValueError(f"line {number} has {len(fields)} columns and not a name, a tab and a gene")
        found.setdefault(fields[0], []).append(fields[1])
    return found


def _fields(text: str) -> Iterator[tuple[int, list[str]]]:
    """(number from 1, its fields) of every line that says something."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            yield number, [field.strip() for field in line.split("\t")]


_SETS: dict[str, Callable[[str], dict[str, list[str]]]] = {".json": _sets_of_json, ".gmt": _sets_of_gmt}
