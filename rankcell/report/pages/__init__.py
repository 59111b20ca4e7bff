"""Self-contained HTML pages, and the sections they share."""
