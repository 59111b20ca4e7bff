"""The same counts in every format: small writers for tests. What a format cannot say is left out of what it is given."""

import gzip
import shutil
import warnings

import anndata as ad
import h5py
import hdf5plugin
import numpy as np
import pandas as pd
import scipy.sparse as sp

COMPRESSIONS = {
    "none": {},
    "gzip": {"compression": "gzip", "chunks": True},
    "shuffle": {"compression": "gzip", "shuffle": True, "chunks": True},
    "lzf": {"compression": "lzf", "chunks": True},
    "blosc": {**hdf5plugin.Blosc(), "chunks": True},
    "zstd": {**hdf5plugin.Zstd(), "chunks": True},
    "lz4": {**hdf5plugin.LZ4(), "chunks": True},
}


class Counts:
    """Cells x genes with ids; `csr` may hold its entries in any order, several times, and explicit zeros."""

    def __init__(self, csr, *, cells=None, n_counts=None, dtype=np.float32):
        self.csr = sp.csr_matrix((csr.data.astype(dtype), csr.indices, csr.indptr), shape=csr.shape)
        n_cells, n_genes = csr.shape
        self.cells = [f"cell{i}" for i in range(n_cells)] if cells is None else list(cells)
        self.genes, self.ids = [f"G{i}" for i in range(n_genes)], [f"ENSG{i:011d}" for i in range(n_genes)]
        self.n_counts = n_counts

    @property
    def dense(self):
        return self.csr.toarray()

    def adata(self, x=None):
        obs = pd.DataFrame({} if self.n_counts is None else {"n_counts": self.n_counts}, index=self.cells)
        var = pd.DataFrame({"ensembl_id": self.ids}, index=self.genes)
        return ad.AnnData(self.csr.copy() if x is None else x, obs=obs, var=var)


def write_h5ad(counts, path, *, kind="csr", compression="none", chunks=None, index_type=None):
    """An h5ad whose X is stored as asked, entries in the very order that they have."""
    ad.AnnData(sp.csr_matrix(counts.csr.shape, dtype=np.float32), obs=counts.adata().obs, var=counts.adata().var).write_h5ad(path)
    how = dict(COMPRESSIONS[compression])
    if chunks and how:
        how["chunks"] = chunks
    with h5py.File(path, "r+") as f:
        if kind == "dense":
            del f["X"]
            _store(f, "X", counts.dense, how)
            return path
        x = counts.csr if kind == "csr" else sp.csc_matrix(counts.csr)
        f["X"].attrs["encoding-type"] = f"{kind}_matrix"
        for name, values in {"data": x.data, "indices": x.indices, "indptr": x.indptr}.items():
            del f["X"][name]
            if index_type and name != "data":
                values = values.astype(index_type)
            _store(f["X"], name, values, {k: (min(v, len(values)),) if k == "chunks" and v is not True else v for k, v in how.items()})
    return path


def _store(group, name, values, how):
    if not values.size or (how.get("chunks") is not True and values.ndim == 1 and "chunks" in how and how["chunks"] == (0,)):
        how = {}
    if "chunks" in how and how["chunks"] is not True:
        how["chunks"] = tuple(min(c, n) for c, n in zip(how["chunks"], values.shape, strict=True))
    group.create_dataset(name, data=values, **how)


def store_zarr(adata, path, *, version):
    with warnings.catch_warnings(), ad.settings.override(zarr_write_format=version):
        warnings.simplefilter("ignore")  # anndata and zarr announce what they will change
        adata.write_zarr(path)


def write_zarr(counts, path, *, version=3, kind="csr", zipped=False):
    x = counts.csr.copy() if kind == "csr" else sp.csc_matrix(counts.csr) if kind == "csc" else counts.dense
    store_zarr(counts.adata(x), path, version=version)
    if zipped:
        shutil.make_archive(str(path), "zip", path)
        shutil.rmtree(path)
        return path.with_name(path.name + ".zip")
    return path


def write_loom(counts, path, *, chunks=(64, 64), compression="gzip", fixed=False):
    def text(values):
        return np.array(values, h5py.string_dtype()) if not fixed else np.char.encode(np.array(values, str), "utf-8")

    x = counts.dense.T
    with h5py.File(path, "w") as f:
        how = dict(COMPRESSIONS[compression])
        if how:
            how["chunks"] = tuple(min(c, n) for c, n in zip(chunks, x.shape, strict=True))
        f.create_dataset("matrix", data=x, **how)
        f["row_attrs/Gene"], f["row_attrs/Accession"] = text(counts.genes), text(counts.ids)
        f["col_attrs/CellID"] = text(counts.cells)
        f.create_group("layers")
        if counts.n_counts is not None:
            f["col_attrs/n_counts"] = counts.n_counts
    return path


def write_tenx(counts, path, *, version=3, antibodies=0, index_type=np.int64):
    """Antibodies are further features, between the genes, with counts of their own."""
    x, names, ids, types = with_antibodies(counts, antibodies)
    with h5py.File(path, "w") as f:
        g = f.create_group("matrix" if version == 3 else "GRCh38")
        g["barcodes"] = np.char.encode(np.array(counts.cells, str), "utf-8")
        g["data"], g["indices"], g["indptr"] = x.data.astype(np.int32), x.indices.astype(index_type), x.indptr.astype(np.int64)
        g["shape"] = np.array(x.shape[::-1], np.int32)
        if version == 3:
            g["features/id"], g["features/name"] = np.array(ids, "S"), np.array(names, "S")
            g["features/feature_type"], g["features/genome"] = np.array(types, "S"), np.array(["GRCh38"] * len(ids), "S")
        else:
            g["genes"], g["gene_names"] = np.array(ids, "S"), np.array(names, "S")
    return path


def with_antibodies(counts, n):
    """(cells x features in CSR, names, ids, types): `n` antibodies before every gene but the first."""
    if not n:
        return counts.csr, counts.genes, counts.ids, ["Gene Expression"] * len(counts.genes)
    n_genes = len(counts.genes)
    at = np.arange(n_genes) * (n + 1)
    x = np.full((counts.csr.shape[0], n_genes * (n + 1)), 7)
    x[:, at] = counts.dense
    names = np.array([f"protein{i}" for i in range(x.shape[1])], object)
    names[at] = counts.genes
    ids, types = names.copy(), np.full(x.shape[1], "Antibody Capture", object)
    ids[at], types[at] = counts.ids, "Gene Expression"
    return sp.csr_matrix(x), list(names), list(ids), list(types)


def write_mtx(counts, folder, *, zipped=True, old=False, prefix="", by_cell=True, antibodies=0, field="integer"):
    x, names, ids, types = with_antibodies(counts, antibodies)
    folder.mkdir(exist_ok=True)
    coo = (sp.csr_matrix(x) if by_cell else sp.csc_matrix(x)).tocoo()
    lines = [f"{g + 1} {c + 1} {v:.0f}" for c, g, v in zip(coo.row, coo.col, coo.data, strict=True)]
    head = [
        f"%%MatrixMarket matrix coordinate {field} general",
        '%metadata_json: {"software": "test"}',
        f"{x.shape[1]} {x.shape[0]} {len(lines)}",
    ]
    features = [f"{i}\t{n}" + ("" if old else f"\t{t}") for i, n, t in zip(ids, names, types, strict=True)]
    for name, text in {"matrix.mtx": head + lines, "barcodes.tsv": counts.cells, "genes.tsv" if old else "features.tsv": features}.items():
        data = "".join(line + "\n" for line in text).encode()
        (folder / (prefix + name + (".gz" if zipped else ""))).write_bytes(gzip.compress(data) if zipped else data)
    return folder
