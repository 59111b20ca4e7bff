"""Names of genes -> the tokens that are perturbed together."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

from rankcell.errors import SettingsError
from rankcell.vocab import Vocabulary
from rankcell.wording import note, option


def token_of(vocab: Vocabulary, name: str) -> int:
    return int(vocab.tokens[vocab.find(name)])


def require_known(vocab: Vocabulary, names: Sequence[str]) -> None:
    """SettingsError that names every gene that the vocabulary lacks."""
    unknown = vocab.unknown(names)
    if len(names) == len(unknown) == 1 and Path(names[0]).is_file():
        raise SettingsError(f"{names[0]} is a file and no gene: {option('genes', f'@{names[0]}')} reads the names in it")
    if unknown:
        raise SettingsError(f"{vocab.describe_unknown(unknown, len(set(names)))}; {option('skip_unknown', True)} goes on without them")


def targets_of(vocab: Vocabulary, names: list[str], group: bool, pairs: bool, anchor: str | None) -> tuple[tuple[int, ...], ...]:
    """Names -> the tokens of each edit: one by one, as one group, in pairs, or each with an anchor."""
    if not names:
        raise SettingsError("no gene to perturb was named")
    require_known(vocab, names)
    tokens = [token_of(vocab, name) for name in names]
    if pairs or anchor is not None:
        twice = next((names[i] for i, t in enumerate(tokens) if t in tokens[:i]), None)
        if pairs and twice is not None:
            raise SettingsError(f"'{twice}' is named twice, and a gene makes no pair with itself: name each gene once")
        if pairs and len(tokens) < 2:
            raise SettingsError("pairs need two genes or more")
        if anchor is not None and token_of(vocab, anchor) in tokens:
            raise SettingsError(
                f"the anchor '{anchor}' is among the genes to pair it with, and a gene makes no pair with itself: leave it out"
            )
    if pairs:
        return tuple(itertools.combinations(tokens, 2))
    tokens = list(dict.fromkeys(tokens))
    if anchor is not None:
        return tuple((token_of(vocab, anchor), t) for t in tokens)
    return (tuple(tokens),) if group else tuple((t,) for t in tokens)


def targets_of_sets(vocab: Vocabulary, sets: Mapping[str, Sequence[str]], *, partial: bool) -> dict[str, tuple[int, ...]]:
    """Look up the tokens of named sets, as {name: tokens}; with `partial` without the genes that the vocabulary lacks and the sets of which none is left, else these are refused."""
    if not sets:
        raise SettingsError("no set of genes was given")
    empty = next((name for name, genes in sets.items() if not len(genes)), None)
    if empty is not None:
        raise SettingsError(f"the set '{empty}' has no genes")
    text = next((name for name, genes in sets.items() if isinstance(genes, str)), None)
    if text is not None:
        raise SettingsError(f"the set '{text}' is {sets[text]!r}; a list of genes")
    slots = {name: vocab.lookup(genes) for name, genes in sets.items()}
    tokens_of = {name: tuple(dict.fromkeys(vocab.tokens[at[at >= 0]].tolist())) for name, at in slots.items()}
    if not partial:
        unknown = vocab.unknown([g for genes in sets.values() for g in genes])
        if unknown:
            where = next(name for name, genes in sets.items() if unknown[0] in map(str, genes))
            description = vocab.describe_unknown(unknown, len({str(g) for genes in sets.values() for g in genes}))
            raise SettingsError(
                f"{description} (first in the set '{where}'); {option('skip_unknown', True)} leaves them out, {option('any', True)} also perturbs where "
                "a cell shows only some genes of a set"
            )
        return tokens_of
    n_lost, n_empty = sum(int((at < 0).sum()) for at in slots.values()), sum(not genes for genes in tokens_of.values())
    if n_empty == len(tokens_of):
        raise SettingsError(f"vocabulary '{vocab.name}' has none of the genes of these {n_empty:,} sets")
    if n_lost:
        lost = f"; {n_empty:,} sets have no other and are left out" if n_empty else ""
        note(f"{n_lost:,} genes of the sets are not in vocabulary '{vocab.name}'{lost}")
    return {name: genes for name, genes in tokens_of.items() if genes}
