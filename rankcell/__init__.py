"""rankcell: single-cell counts -> rank-value gene tokens -> cell embeddings -> in-silico perturbation screens.

    import rankcell as rc
    adata = rc.datasets.pbmc68k()
    tokens = rc.pp.tokenize(adata, vocab="demo", obs=["bulk_labels"])
    rc.tl.embed(adata, model="demo", pool="mean")
    table = rc.tl.perturb(adata, model="demo", kind="delete", genes=["CD3D", "MS4A1"])
    rc.pl.ranked_genes(rc.tl.rank_edits(table))

Importing this loads no torch, transformers, anndata, scanpy or datasets: each name is imported when first asked for.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_COUNTERS = ("datasets", "errors", "get", "pl", "pp", "tl")
_OBJECTS = {
    "Embedder": "rankcell.embed",
    "Perturber": "rankcell.perturb",
    "TokenSet": "rankcell.tokens",
    "Tokenizer": "rankcell.tokens",
    "Vocabulary": "rankcell.vocab",
    "settings": "rankcell.config",
}
__all__ = sorted([*_COUNTERS, *_OBJECTS, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _COUNTERS:
        return importlib.import_module(f"rankcell.{name}")
    if name in _OBJECTS:
        return getattr(importlib.import_module(_OBJECTS[name]), name)
    raise AttributeError(f"module 'rankcell' has no attribute '{name}'; it has {', '.join(__all__)}")


def __dir__() -> list[str]:
    return __all__
