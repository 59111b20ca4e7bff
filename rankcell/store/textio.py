"""Read a text file of the user's, whatever program saved it: UTF-8 with or without a byte-order mark, UTF-16 or UTF-32 by theirs."""

import codecs
import gzip
import io
import os
import zlib
from pathlib import Path

from rankcell.errors import InputError

_MARKS = (  # the longer first: UTF-32's little-endian mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_BINARY = (
    (b"PK\x03\x04", "a zip archive (an Excel or OpenOffice sheet?)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document"),
    (b"\x1f\x8b", "gzip-compressed data that does not inflate"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PAR1", "a parquet table"),
    (b"%PDF", "a PDF"),
)
_REMEDY = "save it as plain text in UTF-8"
_MOST = 2**28  # bytes: far more than any list of names


def read_text(path: str | os.PathLike, kind: str = "text", *, option: str = "", nul: bool = False) -> str:
    """The text of a file, without its byte-order mark; lines end as the file has them (`str.splitlines` knows all of them).

    kind
        The content, for messages: "a list of genes".
    option
        How the caller named the file, for messages: "--genes @genes.txt".

    nul
        Whether NUL may stand in it.

    A file compressed by gzip is decompressed. InputError when there is no such file, when it is not text in UTF-8, UTF-16 or
    UTF-32 (the two last by their mark), or holds a NUL character.
    """
    path, origin = Path(path), f" (from {option})" if option else ""
    if not path.exists():
        raise InputError(f"no such file: {path}{origin}")
    if not path.is_file():
        raise InputError(f"{path} is not a file: expected {kind}{origin}")
    try:
        with open(path, "rb") as file:
            data = file.read(_MOST + 1)
        if data.startswith(b"\x1f\x8b"):
            data = _inflated(data)
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror or e}{origin}") from e
    if len(data) > _MOST:
        raise InputError(f"{path} is larger than {_MOST:,} bytes: expected {kind}{origin}")
    text = _decoded(data, refusal := f"{path} is no readable text ({kind}){origin}")
    if "\0" in text and not nul:
        raise InputError(f"{refusal}: it holds NUL characters ({_likely(data)}): {_REMEDY}")
    return text


def read_lines(path: str | os.PathLike, kind: str = "text", *, option: str = "", nul: bool = False) -> list[str]:
    """The lines of a text file without their ends, at CR, LF or both and nowhere else; see `read_text`."""
    text = read_text(path, kind, option=option, nul=nul)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _inflated(data: bytes) -> bytes:
    """What gzip compressed; the data themselves where that fails, which are then refused as gzip."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(_MOST + 1)
    except (OSError, EOFError, zlib.error):
        return data


def _decoded(data: bytes, refusal: str) -> str:
    for magic, name in _BINARY:
        if data.startswith(magic):
            raise InputError(f"{refusal}: it is {name}: {_REMEDY}")
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as e:
        if encoding != "utf-8":
            raise InputError(
                f"{refusal}: its mark says {encoding.removesuffix('-sig').upper()}, but byte {e.start:,} is not: {_REMEDY}"
            ) from None
        raise InputError(f"{refusal}: it is not UTF-8 (byte {e.start:,} is 0x{data[e.start]:02X}; {_likely(data)}): {_REMEDY}") from None


def _likely(data: bytes) -> str:
    """The encoding that data without a mark, which are not UTF-8, most likely have."""
    head = data[:10_000]
    pairs = len(head) // 2
    for name, zeros in (("UTF-16 (little-endian)", head[1::2].count(0)), ("UTF-16 (big-endian)", head[0::2].count(0))):
        if pairs and zeros > 0.6 * pairs:
            return f"it looks like {name} without a byte-order mark"
    if 0 in head:
        return "it looks like binary data"
    return "it looks like Windows-1252" if any(0x80 <= b < 0xA0 for b in head) else "it looks like Latin-1 (ISO-8859-1) or Windows-1252"
