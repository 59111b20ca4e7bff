"""Near matches of a gene's name: the names of a vocabulary that a misspelt one may mean."""

import difflib
import re
from collections.abc import Iterable

import numpy as np

_ALPHABET = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/")}
_LEAST = 0.75  # of difflib's ratio
_MADE_UNIQUE = re.compile(r"(.+)[-._][0-9]{1,2}")  # as pandas, R and anndata tell names apart that come twice


class NearNames:
    """Near matches among `names`, which are looked at in upper case.

    In this order: the same letters and digits (another case or separator, HLA.DRA for HLA-DRA); the name without the number that
    makes it unique (CD3D-1); else the names of at least 0.75 of difflib's ratio. Of these, one with the same letters and another number
    (RPL10, RPL13) is another gene and no near match.
    """

    def __init__(self, names: Iterable[str]):
        self._name_of = {name.upper(): name for name in names}
        self._upper = list(self._name_of)
        self._by_plain: dict[str, list[str]] = {}
        for upper in self._upper:
            self._by_plain.setdefault(_plain(upper), []).append(upper)
        self._lengths = np.array([len(upper) for upper in self._upper], np.int32)
        self._letters = np.array([_letters(upper) for upper in self._upper], np.uint8).reshape(-1, len(_ALPHABET) + 1)

    def find(self, name: str, n: int = 3, *, similar: bool = True) -> list[str]:
        """At most `n` names, the nearest first; without `similar` only those of the same letters and digits."""
        upper = name.strip().upper()
        front = _MADE_UNIQUE.fullmatch(upper)
        equal_names = self._by_plain.get(_plain(upper), []) or (self._by_plain.get(_plain(front[1]), []) if front else [])
        return [self._name_of[u] for u in (equal_names[:n] or (self._similar(upper, n) if similar else []))]

    def _similar(self, upper: str, n: int) -> list[str]:
        if not self._upper or not upper:
            return []
        common = np.minimum(self._letters, np.array(_letters(upper), np.uint8)).sum(1, dtype=np.int32)
        able = np.flatnonzero(2 * common >= _LEAST * (self._lengths + len(upper)))  # the ratio is at most this
        near = difflib.get_close_matches(upper, [self._upper[i] for i in able], n=2 * n, cutoff=_LEAST)
        return [u for u in near if not _differs_in_number(upper, u)][:n]


def _plain(upper: str) -> str:
    return re.sub("[^A-Z0-9]", "", upper)


def _letters(upper: str) -> list[int]:
    """How often each character of the alphabet is in a name, all others as one."""
    counts = [0] * (len(_ALPHABET) + 1)
    for c in upper[:200]:
        counts[_ALPHABET.get(c, len(_ALPHABET))] += 1
    return counts


def _differs_in_number(a: str, b: str) -> bool:
    parts = [(re.sub("[^A-Z]", "", x), re.sub("[^0-9]", "", x)) for x in (a, b)]
    return parts[0][0] == parts[1][0] and all(digits for _, digits in parts)
