"""Token rows -> one vector per cell: the POOLS registry, the Embedder, and where embeddings are written."""

from rankcell.embed.embedder import Embedder, Embeddings
from rankcell.embed.pools import POOLS, Pool

__all__ = ["POOLS", "Embedder", "Embeddings", "Pool"]
