"""Kinds of edit, which genes they name, and the plan of all edits of a row, on indices alone. No torch."""
