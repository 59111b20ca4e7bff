"""Counts tokenized with a vocabulary, which is looked for where none is named."""

import os
from collections.abc import Sequence
from typing import Any

from rankcell.counts.options import Counts
from rankcell.progress import Progress
from rankcell.tokens.fitting import require_fitting_vocabulary
from rankcell.tokens.options import Tokenizing
from rankcell.tokens.tokenizer import Tokenizer
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Vocabulary


def tokenize_cells(
    source: Any,
    vocab: str | os.PathLike | Vocabulary | None = None,
    *,
    obs: str | Sequence[str] = (),
    tokenizing: Tokenizing = Tokenizing(),
    counts: Counts = Counts(),
    out: str | os.PathLike | None = None,
    force: bool = False,
    progress: Progress = None,
) -> TokenSet:
    """Counts -> TokenSet, in memory or streamed into the folder `out` (see Tokenizer).

    vocab
        None: the one at hand that knows the genes best, if it knows at least half of them (rankcell.tokens.fitting).
    """
    tokenizer = Tokenizer(require_fitting_vocabulary(source, counts) if vocab is None else vocab, tokenizing)
    if out is None:
        return tokenizer.tokenize(source, obs=obs, counts=counts, progress=progress)
    return tokenizer.write(source, out, obs=obs, counts=counts, force=force, progress=progress)
