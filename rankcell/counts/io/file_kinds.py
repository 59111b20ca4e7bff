"""What a file is that holds no counts which can be read here, and the way out: told from its first bytes, its name, its groups."""

import contextlib
import gzip
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rankcell.errors import InputError

_HEAD = 4096
_CAPTURED = "give filtered_feature_bc_matrix.h5 of the same run"
_IN_R = "in R, write it as h5ad (zellkonverter::writeH5AD, or anndataR::write_h5ad)"
_SPECIAL = {
    stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket", stat.S_ISCHR: "a device", stat.S_ISBLK: "a device",
}  # fmt: skip
_PACKED = {b"BZh": ("bzip2", "bunzip2 -k"), b"\xfd7zXZ": ("xz", "unxz -k"), b"\x28\xb5\x2f\xfd": ("zstd", "unzstd")}
_SUFFIXES = {
    ".rds": f"an R object: {_IN_R}",
    ".rda": f"an R workspace: {_IN_R}",
    ".rdata": f"an R workspace: {_IN_R}",
    ".h5seurat": "a Seurat object: in R, SeuratDisk::Convert(FILE, dest = 'h5ad')",
    ".xlsx": "a spreadsheet: save it as text, read that with anndata.read_csv (cells as rows), then write_h5ad",
    ".xls": "a spreadsheet: save it as text, read that with anndata.read_csv (cells as rows), then write_h5ad",
    ".npz": "a numpy archive, which names neither cells nor genes: make an AnnData of it and write_h5ad",
    ".npy": "a numpy array, which names neither cells nor genes: make an AnnData of it and write_h5ad",
    ".tar": "an archive: unpack it",
    ".tgz": "an archive: unpack it",
    ".tar.gz": "an archive: unpack it",
    ".zip": "a zip archive without a zarr store: unpack it",
}


def require_file(path: Path) -> None:
    """InputError when `path` is a pipe, a socket or a device: reading one may wait for ever."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return
    kind = next((word for test, word in _SPECIAL.items() if test(mode)), None)
    if kind:
        raise InputError(f"{path} is {kind}, not a file: write what it gives to a file first, and give that")


def describe_file(path: Path) -> str:
    """What a file that no format takes is, with the way out; "" when it looks like nothing known. It is no HDF5 file."""
    try:
        with open(path, "rb") as f:
            head = f.read(_HEAD)
    except PermissionError:
        return "cannot be read: permission denied"
    except OSError:
        return ""
    return _by_content(path, head) or _by_name(path) or _text(path, head)


def _by_content(path: Path, head: bytes) -> str:
    if not head:
        return "is empty: copy it again"
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        return f"is a git LFS pointer ({os.path.getsize(path):,} bytes of text in place of the file): run git lfs pull"
    if head.lstrip()[:9].lower() in (b"<!doctype", b"<html>\n<h") or head.lstrip()[:5].lower() == b"<html":
        return "is a web page, such as one to log in at, in place of the file: download it again"
    if head.startswith(b"\x1f\x8b"):
        return _gzipped(path)
    for mark, (name, command) in _PACKED.items():
        if head.startswith(mark):
            return f"is compressed by {name}: unpack it first ({command} {path.name})"
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        return "is a pickle, which may run any program when it is opened: write the AnnData in it with write_h5ad"
    if head.startswith(b"%%MatrixMarket"):
        return "is a MatrixMarket file: name it NAME.mtx, with barcodes.tsv and features.tsv beside it"
    return ""


def _gzipped(path: Path) -> str:
    kind = _by_name(path)
    if kind:
        return kind
    inner = b""
    with contextlib.suppress(OSError, EOFError, ValueError), gzip.open(path) as f:
        inner = f.read(_HEAD)
    if inner.startswith((b"RDX", b"X\n\0\0", b"A\n")):
        return f"is {_SUFFIXES['.rds']}"
    if inner[257:262] == b"ustar":
        return f"is {_SUFFIXES['.tar']}"
    if inner and not inner.startswith((b"\x89HDF", b"%%Matrix")) and (table := _text(path, inner)):
        return table
    return f"is compressed by gzip: unpack it first (gunzip -k {path.name})"


def _by_name(path: Path) -> str:
    name = path.name.lower()
    kind = next((words for suffix, words in _SUFFIXES.items() if name.endswith(suffix)), None)
    return f"is {kind}" if kind else ""


def _text(path: Path, head: bytes) -> str:
    """A table of text, or a text."""
    try:
        lines = head.decode("utf-8", "ignore").splitlines()
        head[:-4].decode("utf-8")
    except UnicodeDecodeError:
        return ""
    if any(c < 9 for c in head):
        return ""
    sign, word = max((("\t", "\\t"), (",", ","), (";", ";")), key=lambda s: lines[0].count(s[0]))
    if not lines[0].count(sign):
        return "is a text, not a count file"
    return (
        f"is a table of text: read it with anndata.read_csv('{path.name}', delimiter='{word}') (.T where its rows are genes), "
        "check that it holds counts, and write_h5ad"
    )


# HDF5


def other_layout(root: Any) -> str:
    """What an HDF5 file is that holds no matrix of cells x genes for this package, with the way out; "" where that is not known."""
    return next((words for layout, words in _LAYOUTS if layout(root)), "")


def _names(root: Any, *names: str) -> bool:
    return all(name in root for name in names)


def _probes(root: Any) -> bool:
    return any(f"matrix/features/{name}" in root for name in ("filtered_probes", "probe_region"))


_LAYOUTS: tuple[tuple[Callable[[Any], bool], str], ...] = (
    (_probes, f"holds counts of probes, also of those that Cell Ranger leaves out, and not of genes: {_CAPTURED}"),
    (
        lambda f: _names(f, "barcode_idx") or _names(f, "barcode", "gene", "umi"),
        f"lists the molecules of a run (molecule_info) and holds no matrix: {_CAPTURED}",
    ),
    (lambda f: _names(f, "assays") and "cell.names" in f, f"is {_SUFFIXES['.h5seurat']}"),
    (
        lambda f: (
            any(name in f for name in ("all_differential_expression", "clustering", "tsne", "pca"))
            and not any(name in f for name in ("obs", "matrix"))
        ),
        f"holds results of an analysis (clusters, components), not counts: {_CAPTURED}",
    ),
)
