"""Errors that are the user's to mend: each says what was found, what was expected, and the way out.

RankcellError               one line on stderr, exit code 2 at the command line
|-- InputError              a file is missing, of an unknown kind, broken, or empty
|   |-- CountsError         the matrix does not hold counts, or n_counts makes no sense
|   |-- GeneError           gene ids that the vocabulary does not know
|   `-- CellError           cell ids or cell columns that cannot be used
|-- VocabularyError         a vocabulary folder or dictionary that cannot be read, or two that do not belong together
|-- TokensError             a token set that cannot be read, or rows that do not fit the model
|-- ModelError              a checkpoint that cannot be read or lacks a part
|-- SettingsError           an option with a value that cannot be (pooling, layer, state, gene, ...)
`-- OutputError             the output exists, is in use, belongs to another run, or the disk is full
"""

__all__ = [
    "CellError",
    "CountsError",
    "GeneError",
    "InputError",
    "ModelError",
    "OutputError",
    "RankcellError",
    "RankcellWarning",
    "SettingsError",
    "TokensError",
    "VocabularyError",
]


class RankcellError(Exception):
    """Any error that rankcell raises on purpose."""


class InputError(RankcellError):
    """A file is missing, of an unknown kind, broken, or empty."""


class CountsError(InputError):
    """The matrix does not hold counts, or n_counts makes no sense."""


class GeneError(InputError):
    """Gene ids that the vocabulary does not know."""


class CellError(InputError):
    """Cell ids or cell columns that cannot be used."""


class VocabularyError(RankcellError):
    """A vocabulary that cannot be read, or two that do not belong together."""


class TokensError(RankcellError):
    """A token set that cannot be read, or rows that do not fit the model."""


class ModelError(RankcellError):
    """A checkpoint that cannot be read or lacks a part."""


class SettingsError(RankcellError):
    """An option with a value that cannot be."""


class OutputError(RankcellError):
    """The output exists, is in use, belongs to another run, or the disk is full."""


class RankcellWarning(UserWarning):
    """Something worth a line that does not stop the work (cells without known genes, say)."""
