"""Formats, one file each, and how an input is opened by the one that it is of."""
