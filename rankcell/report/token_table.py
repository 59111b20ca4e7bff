"""One cell as the model reads it: its token row as a table."""

import difflib
import numbers
import os
from typing import TYPE_CHECKING, Any

import numpy as np

from rankcell.errors import CellError, TokensError, VocabularyError
from rankcell.tokens import TokenSet
from rankcell.tokens.token_rows import row_number
from rankcell.vocab import Vocabulary, find_vocabulary

if TYPE_CHECKING:
    import pandas as pd


def tokens_and_vocabulary(tokens: Any, vocab: str | os.PathLike | Vocabulary | None) -> tuple[TokenSet, Vocabulary]:
    """Open the token set and its vocabulary: `vocab`, else TokenSet.find_vocabulary. VocabularyError where they do not belong together."""
    expected = None if vocab is None else find_vocabulary(vocab)
    if isinstance(tokens, (str, os.PathLike)):
        tokens = TokenSet.open(tokens, vocab=expected)
    if not isinstance(tokens, TokenSet):
        raise TokensError(f"a TokenSet or its folder is wanted and this is {type(tokens).__name__}: give what rc.pp.tokenize returns")
    spec = tokens.spec
    provenance = f"the tokens were made with vocabulary '{spec.vocabulary}' ({spec.vocabulary_hash[:12]})"
    if expected is not None and expected.hash != spec.vocabulary_hash:
        raise VocabularyError(f"{provenance}, not with '{expected.name}' ({expected.hash[:12]}): pass the one they were made with")
    vocabulary = expected or tokens.find_vocabulary()
    if vocabulary is None:
        raise VocabularyError(f"{provenance}, which does not ship with rankcell: pass it, as vocab=...")
    return tokens, vocabulary


def cell_row(tokens: TokenSet, cell: str | int) -> int:
    """The row of a cell id or row number; CellError when there is none."""
    if isinstance(cell, str):
        if cell in tokens.cell_ids:
            return tokens.cell_ids.index(cell)
        raise CellError(
            f"the tokens have no cell '{cell}' ({len(tokens):,} cells, such as {', '.join(tokens.cell_ids[:2])}){_near(tokens, cell)}"
        )
    if not isinstance(cell, numbers.Integral) or isinstance(cell, bool):
        raise CellError(f"a cell is named by its id (str) or its row number (int), and this is {type(cell).__name__}")
    return row_number(cell, len(tokens))


def _near(tokens: TokenSet, cell: str) -> str:
    """Suggest a near match of a cell id. Only ids that begin alike are compared: comparing a million takes a minute."""
    candidates = [c for c in tokens.cell_ids if c[:4].lower() == cell[:4].lower()] or tokens.cell_ids
    lower = {c.lower(): c for c in candidates[:20_000]}
    close = difflib.get_close_matches(cell.lower(), lower, n=1, cutoff=0.6)
    return f"; did you mean '{lower[close[0]]}'?" if close else ""


def encoding_table(tokens: TokenSet, vocab: Vocabulary, cell: str | int) -> "pd.DataFrame":
    """See rankcell.get.tokens_df."""
    import pandas as pd

    i = cell_row(tokens, cell)
    row = tokens.row(i)
    first, last = tokens.frame.span(len(row))
    at = np.arange(len(row))
    is_gene = (at >= first) & (at < last)
    gene = np.where(is_gene, vocab.gene_of_token[row], -1)
    rank = pd.array(at - first, "Int64")
    rank[~is_gene] = pd.NA
    columns = {
        "position": at,
        "rank": rank,
        "token": row.astype(np.int64),
        "gene": [vocab.describe_token(int(t)) for t in row],
        "symbol": [vocab.symbols[g] if g >= 0 else "" for g in gene],
        "value": _values(tokens, i, len(row)) / np.where(is_gene, vocab.medians[gene], np.nan),
    }
    table = pd.DataFrame(columns)
    table.attrs["cell_id"] = tokens.cell_ids[i]
    return table


def _values(tokens: TokenSet, i: int, length: int) -> np.ndarray:
    """Scaled counts (count / n_counts * target_sum) at each position; NaN where the tokens do not carry their counts."""
    import pyarrow as pa

    if "counts" not in tokens.table.column_names or not pa.types.is_list(tokens.table.schema.field("counts").type):
        return np.full(length, np.nan)
    values = tokens.table["counts"][i].as_py() or []
    if len(values) != length:
        raise TokensError(f"cell '{tokens.cell_ids[i]}' has {length} tokens and {len(values)} counts: tokenize again with keep_counts=True")
    return np.array(values, np.float64)


def require_genes(table: "pd.DataFrame", vocab: Vocabulary) -> None:
    if table["rank"].isna().all():
        raise CellError(f"cell '{table.attrs['cell_id']}' has no gene of vocabulary '{vocab.name}': there is nothing to draw")
