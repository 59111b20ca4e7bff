"""rankcell: single-cell counts -> rank-value gene tokens -> cell embeddings -> in-silico perturbation screens.

    import rankcell as rc
    adata = rc.datasets.pbmc68k()
    tokens = rc.pp.tokenize(adata, vocab="demo", obs=["bulk_labels"])
    rc.tl.embed(adata, model="demo", pool="mean")
    screen = rc.tl.perturb(adata, rc.Delete(["CD3D", "MS4A1"]), model="demo")
    rc.pl.ranked_genes(screen.rank())

Importing this loads no torch, transformers, anndata, scanpy or datasets: each name is imported when first asked for.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_COUNTERS = ("datasets", "errors", "get", "pl", "pp", "tl")
_OBJECTS = {
    "Activate": "rankcell.perturb.edits.options",
    "Compute": "rankcell.model.options",
    "Counts": "rankcell.counts.options",
    "Delete": "rankcell.perturb.edits.options",
    "EmbedConfig": "rankcell.embed.options",
    "Embedder": "rankcell.embed",
    "Exact": "rankcell.perturb.exact.options",
    "Fast": "rankcell.perturb.fast.options",
    "Inhibit": "rankcell.perturb.edits.options",
    "LabelMapping": "rankcell.assess.options",
    "Mask": "rankcell.perturb.edits.options",
    "Measure": "rankcell.perturb.exact.options",
    "Model": "rankcell.model.options",
    "Move": "rankcell.perturb.edits.options",
    "Overexpress": "rankcell.perturb.edits.options",
    "Perturber": "rankcell.perturb",
    "RankBins": "rankcell.assess.options",
    "Recipe": "rankcell.train.recipe",
    "Scoring": "rankcell.assess.options",
    "Screen": "rankcell.screen",
    "ScreenConfig": "rankcell.perturb.run.screen_config",
    "Subset": "rankcell.perturb.run.screen_config",
    "TokenSet": "rankcell.tokens",
    "Tokenizer": "rankcell.tokens",
    "Tokenizing": "rankcell.tokens.options",
    "Vocabulary": "rankcell.vocab",
    "settings": "rankcell.config",
}
__all__ = sorted([*_COUNTERS, *_OBJECTS, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _COUNTERS:
        return importlib.import_module(f"rankcell.{name}")
    if name in _OBJECTS:
        return getattr(importlib.import_module(_OBJECTS[name]), name)
    from rankcell.near_names import missing_attribute

    raise missing_attribute("rankcell", name, __all__)


def __dir__() -> list[str]:
    return __all__
