"""Vocabulary: what each token means, and how a gene's counts are scaled before they are ranked."""

import dataclasses
import functools
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rankcell.errors import GeneError, SettingsError, VocabularyError
from rankcell.store import content_hash
from rankcell.vocab.folder import load_folder, save_folder
from rankcell.vocab.frame import Frame
from rankcell.vocab.frozen_array import frozen_array
from rankcell.vocab.near import NearNames
from rankcell.wording import option

PAD, MASK, CLS, EOS = SPECIALS = ("<pad>", "<mask>", "<cls>", "<eos>")
_ENSEMBL = re.compile(r"(ENS[A-Z]*[0-9]{5,})(\.[0-9]*)?")
_NEAR, _NAMED = 5, 20  # unknown genes that a message names with like ones, and in all
_PLAIN = re.compile(r"[^\t\r\n]*")


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """Genes, their tokens and medians, the special tokens, and the names by which genes may be called.

    Parameters
    ----------
    name
        What it is called.
    genes
        One id per gene: its Ensembl id, or its symbol where it has none. Unique.
    tokens
        int32, one token number per gene.
    medians
        float64, one per gene: the median over the cells that show it of count / n_counts * target_sum.
    special
        Special tokens by name, `<pad>` always among them.
    symbols
        One symbol per gene, "" where there is none.
    aliases
        Further names -> gene id.
    species
        What its genes belong to ("human"; "" when unknown).
    max_len
        The longest row, special tokens included.
    target_sum
        What a cell's counts are scaled to before medians divide them.
    provenance
        Where it comes from: plain JSON.

    Raises
    ------
    VocabularyError
        When its parts contradict each other.
    """

    name: str
    genes: tuple[str, ...]
    tokens: np.ndarray
    medians: np.ndarray
    special: Mapping[str, int]
    symbols: tuple[str, ...] = ()
    aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
    species: str = ""
    max_len: int = 4096
    target_sum: float = 10_000.0
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        put = functools.partial(object.__setattr__, self)
        put("genes", tuple(map(str, self.genes)))
        put("symbols", tuple(map(str, self.symbols)) or ("",) * len(self.genes))
        put("tokens", frozen_array(self.tokens, np.int32))
        put("medians", frozen_array(self.medians, np.float64))
        put("special", {str(k): int(v) for k, v in self.special.items()})
        _check(self)

    def __len__(self) -> int:
        return len(self.genes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        special = " ".join(self.special)
        return f"Vocabulary({self.name!r}, {len(self):,} genes, {special}, max_len={self.max_len}, hash={self.hash[:12]})"

    @functools.cached_property
    def hash(self) -> str:
        """Content hash (sha256) of what decides the meaning of a row: gene ids, tokens, medians, special tokens, target_sum.

        Symbols, aliases, name, species, max_len and provenance are ways to find or describe it and are left out.
        """
        order = np.argsort(self.tokens, kind="stable")
        genes = [[int(self.tokens[i]), self.genes[i], float(self.medians[i]).hex()] for i in order]
        special = sorted(self.special.items())
        return content_hash({"genes": genes, "special": special, "target_sum": float(self.target_sum).hex()})

    @property
    def pad(self) -> int:
        """Token number of `<pad>`."""
        return self.special[PAD]

    @property
    def mask(self) -> int | None:
        """Token number of `<mask>`; None where there is none."""
        return self.special.get(MASK)

    @property
    def frame(self) -> Frame:
        """The frame that this vocabulary gives a row by default: `<cls>` in front and `<eos>` behind, where it has them."""
        return self.make_frame(cls=CLS in self.special)

    def make_frame(self, *, cls: bool) -> Frame:
        """Make the frame with or without special tokens.

        Parameters
        ----------
        cls
            With `<cls>` in front, and `<eos>` behind where the vocabulary has it.

        Returns
        -------
        Frame
            The special tokens around the genes of a row.

        Raises
        ------
        SettingsError
            When a `<cls>` is asked for and there is none.
        """
        if not cls:
            return Frame()
        if CLS not in self.special:
            raise SettingsError(f"vocabulary '{self.name}' has no <cls> token: tokenize with {option('cls', False)}")
        return Frame((self.special[CLS],), (self.special[EOS],) if EOS in self.special else ())

    @property
    def n_ids(self) -> int:
        """The number of token numbers that a model needs to cover it (highest token + 1)."""
        return 1 + max(int(self.tokens.max(initial=0)), *self.special.values())

    @functools.cached_property
    def gene_of_token(self) -> np.ndarray:
        """Index of the gene with each token (int32 of length `n_ids`), -1 for special tokens and gaps."""
        index = np.full(self.n_ids, -1, np.int32)
        index[self.tokens] = np.arange(len(self), dtype=np.int32)
        return index

    def label(self, index: int) -> str:
        """Label a gene for a picture or a sentence.

        Parameters
        ----------
        index
            Index of the gene.

        Returns
        -------
        str
            Its symbol, or its id where it has none.

        Raises
        ------
        GeneError
            For no index of a gene, such as the -1 of `lookup`.
        """
        if not 0 <= index < len(self):
            raise GeneError(f"there is no gene {index}: vocabulary '{self.name}' has {len(self):,}, counted from 0")
        return self.symbols[index] or self.genes[index]

    def describe_token(self, token: int) -> str:
        """Describe a token number.

        Parameters
        ----------
        token
            The token number.

        Returns
        -------
        str
            The gene id or the special token's name; `<unknown N>` where there is none.
        """
        gene = int(self.gene_of_token[token]) if 0 <= token < self.n_ids else -1
        if gene >= 0:
            return self.genes[gene]
        return next((name for name, t in self.special.items() if t == token), f"<unknown {token}>")

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        """Every exact name -> gene index. Ids win over symbols, symbols over aliases; an ambiguous symbol names nothing."""
        by_id = {g: i for i, g in enumerate(self.genes)}
        by_symbol: dict[str, int] = {}
        for i, symbol in enumerate(self.symbols):
            if symbol:
                by_symbol[symbol] = -1 if symbol in by_symbol else i
        by_alias = {a: by_id[g] for a, g in self.aliases.items() if g in by_id}
        return {k: v for k, v in (by_alias | by_symbol | by_id).items() if v >= 0}

    def lookup(self, names: Iterable[str]) -> np.ndarray:
        """Look up genes by ids, symbols or aliases.

        Parameters
        ----------
        names
            Ensembl ids may carry a version suffix (`ENSG00000138326.20`) and any case; symbols and aliases must match to
            the letter, because a change of case turns a mouse gene's symbol into a human one's.

        Returns
        -------
        array
            Gene indices (int32); -1 where unknown.
        """
        index = self._index
        numbers = (index.get(n, -1) if (n := str(name).strip()) in index else self._without_version(n) for name in names)
        return np.fromiter(numbers, np.int32)

    def _without_version(self, name: str) -> int:
        """The gene that an Ensembl id in another spelling names, else -1."""
        return self._index.get(ensembl_id(name), -1) if name[:3].upper() == "ENS" else -1

    def find(self, name: str) -> int:
        """Look up one gene by its id, symbol or alias.

        Parameters
        ----------
        name
            As for `lookup`.

        Returns
        -------
        int
            The gene's index.

        Raises
        ------
        SettingsError
            When the vocabulary has no such gene.
        """
        index = int(self.lookup([name])[0])
        if index < 0:
            raise SettingsError(
                f"gene '{name}' is not in vocabulary '{self.name}' ({len(self):,} genes, such as {self.examples()}){self.suggestion(name)}"
            )
        return index

    def unknown(self, names: Sequence[str]) -> list[str]:
        """List the unknown names among some.

        Parameters
        ----------
        names
            As for `lookup`.

        Returns
        -------
        list of str
            The unknown names, each once, in their order.
        """
        return [name for name, index in dict(zip(map(str, names), self.lookup(names).tolist(), strict=True)).items() if index < 0]

    def describe_unknown(self, names: Sequence[str], of: int) -> str:
        """Describe unknown names for a message, with near matches.

        Parameters
        ----------
        names
            The unknown names.
        of
            How many were looked up.

        Returns
        -------
        str
            The beginning of the message.
        """
        if len(names) == 1:
            return f"gene '{names[0]}' is not in vocabulary '{self.name}' ({len(self):,} genes, such as {self.examples()}){self.suggestion(names[0])}"
        listed = [f"{name}{self.suggestion(name).replace('; ', ' (').replace('?', '?)')}" for name in names[:_NEAR]] + list(names[_NEAR:_NAMED])
        more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
        return f"{len(names):,} of {of:,} genes are not in vocabulary '{self.name}' ({len(self):,} genes): {', '.join(listed)}{more}"

    @functools.cached_property
    def _near(self) -> NearNames:
        return NearNames(name for name in self._index if not ensembl_id(name))

    def suggestion(self, name: str, *, similar: bool = True) -> str:
        """Suggest names of the vocabulary for a name that is nearly one of them.

        Parameters
        ----------
        name
            The unknown name.
        similar
            Also names of other letters, as for what somebody typed; a count file's names are right, and those are other genes.

        Returns
        -------
        str
            `; did you mean ...?`, or "": for an Ensembl id too, as its neighbours are other genes.
        """
        near = [] if ensembl_id(str(name)) else self._near.find(str(name), similar=similar)
        return f"; did you mean {' or '.join(near)}?" if near else ""

    def examples(self, n: int = 3) -> str:
        """List example genes for a message.

        Parameters
        ----------
        n
            How many.

        Returns
        -------
        str
            The first genes, with commas.
        """
        return ", ".join(f"{g} ({s})" if s and s != g else g for g, s in list(zip(self.genes, self.symbols, strict=True))[:n])

    def save(self, folder: str | os.PathLike, *, force: bool = False) -> None:
        """Write the vocabulary folder (`vocabulary.json`, `genes.tsv`, `aliases.tsv`).

        Parameters
        ----------
        folder
            The folder.
        force
            Replace a vocabulary folder that stands there.
        """
        save_folder(self, folder, force=force)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Vocabulary":
        """Read a vocabulary folder.

        Parameters
        ----------
        folder
            The folder. Shipped and fetched vocabularies go by name with rankcell.vocab.find_vocabulary.

        Returns
        -------
        Vocabulary
            With the content hash that the folder says.

        Raises
        ------
        VocabularyError
            When a part is missing or its content hash does not agree.
        """
        if not isinstance(folder, (str, os.PathLike)):
            raise VocabularyError(f"the folder of a vocabulary is wanted, and this is of type {type(folder).__name__}")
        return load_folder(folder, cls)


def ensembl_id(name: str) -> str:
    """An Ensembl id in upper case without its version; "" for any other name, such as the symbol ENSA."""
    match = _ENSEMBL.fullmatch(name.upper())
    return match[1] if match else ""


def _check(v: Vocabulary) -> None:
    """A vocabulary that contradicts itself is refused when it is made, not when it is used."""

    def refuse(fault: str) -> None:
        raise VocabularyError(f"vocabulary '{v.name}': {fault}")

    if not (len(v.genes) == len(v.symbols) == len(v.tokens) == len(v.medians)):
        refuse(f"{len(v.genes)} genes, {len(v.symbols)} symbols, {len(v.tokens)} tokens and {len(v.medians)} medians")
    if not v.genes:
        refuse("it has no genes")
    bad = [n for n in (*v.genes, *v.symbols, *v.aliases) if not _PLAIN.fullmatch(n)]
    if bad or "" in v.genes:
        refuse(f"{bad[0] if bad else ''!r} cannot be a gene's name: it is empty, or holds a tab or a line break")
    if len(set(v.genes)) != len(v.genes):
        refuse("a gene id stands in it twice")
    if PAD not in v.special:
        refuse("it has no <pad> token")
    used = [*v.tokens.tolist(), *v.special.values()]
    if len(set(used)) != len(used):
        refuse("a token number stands for two things")
    if min(used) < 0:
        refuse("a token number is negative")
    bad = np.flatnonzero(~(np.isfinite(v.medians) & (v.medians > 0)))
    if len(bad):
        refuse(f"the median of {v.genes[bad[0]]} is {v.medians[bad[0]]}; medians are above zero")
    if not (math.isfinite(v.target_sum) and v.target_sum > 0):
        refuse(f"target_sum is {v.target_sum}")
    if v.max_len < 3:
        refuse(f"max_len is {v.max_len}")
