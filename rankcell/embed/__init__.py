"""Token rows -> one vector per cell: the Embedder, runs that resume, and the stores that embeddings are written to."""

from rankcell.lazy import door

_PLACES = {"Embedder": "rankcell.embed.embedder", "Embeddings": "rankcell.embed.embedding_tables"}
__getattr__, __dir__ = door(__name__, _PLACES)
