"""Edits run as they are: the engine, its batches, what deletions share, and the shifts that come of them."""
