"""Errors that are the user's to mend: each says what was found, what was expected, and the way out.

::

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

import errno
import re
from typing import Self

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

OF_A_PART = ""  # `InputError.of` where the error is about a part of an input whose name is not known there


class RankcellError(Exception):
    """Any error that rankcell raises on purpose."""


class InputError(RankcellError):
    """A file is missing, of an unknown kind, broken, or empty.

    Parameters
    ----------
    fact
        What is wrong.
    of
        The input in front of the fact. None: the fact names it itself, or there is none; "": it is about a part of an input (`OF_A_PART`),
        and `completed` puts the name in front.
    remedy
        What to do about it, after the fact.
    """

    def __init__(self, fact: str = "", *, of: str | None = None, remedy: str = ""):
        super().__init__(": ".join(part for part in (of, fact, remedy) if part))
        self.fact, self.of, self.remedy = fact, of, remedy

    def completed(self, *, of: str | None = None, remedy: str = "") -> Self:
        """Complete the error with the input's name and the way out, where it has none of its own.

        Parameters
        ----------
        of
            The name of the input.
        remedy
            The way out.

        Returns
        -------
        InputError
            Of the same class; itself where nothing is added.
        """
        input_name = of if self.of == OF_A_PART and of else self.of
        remedy = self.remedy or remedy
        return self if (input_name, remedy) == (self.of, self.remedy) else type(self)(self.fact, of=input_name, remedy=remedy)


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


_OUT_OF_MEMORY = re.compile(
    r"\b(CUDA|HIP|ROCm|XPU|MPS)\b[^\n]*out of memory|OUT_OF_(HOST_|DEVICE_)?MEMORY|cudaErrorMemoryAllocation"
    r"|(CUBLAS|CUBLASLT|CUSOLVER|CUDNN|HIPBLAS|ROCBLAS)\w*_(ALLOC_FAILED|NOT_INITIALIZED)|rocblas_status_memory_error"
    r"|DefaultCPUAllocator|can't allocate memory|Cannot allocate memory|not enough memory|std::bad_alloc"
)


def is_out_of_memory(e: BaseException) -> bool:
    """Whether the memory of a GPU or of the processor ran out; most libraries have no type of error for it, only a text.

    cuBLAS says "not initialized" where the memory does not hold its workspace.
    """
    if isinstance(e, (RankcellError, Warning)):
        return False
    if isinstance(e, MemoryError) or type(e).__name__ == "OutOfMemoryError":  # numpy's, Arrow's; torch's
        return True
    if isinstance(e, OSError):
        return e.errno == errno.ENOMEM
    return isinstance(e, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(e)))
