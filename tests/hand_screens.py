"""Screens that are written by hand, as tables and as results folders: for tests of what reads screens."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

SYMBOLS = {"A": "Alpha", "B": "Beta", "C": "Gamma"}


def hand_table():
    """Cells x and y; A and B in both, C in x alone. Shifts of x: A 0.5 = 0.125 in place + 0.375 by positions, and so on."""
    table = pd.DataFrame(
        {
            "cell_id": ["x", "x", "x", "y", "y"],
            "edit": ["delete:A", "delete:B", "delete:C", "delete:A", "delete:B"],
            "kind": "delete",
            "genes": ["A", "B", "C", "A", "B"],
            "rank": pd.array([0, 1, 2, 1, 0], "Int32"),
            "n_tokens": 5,
            "cos_genes": [0.5, 0.75, 0.875, 0.75, 0.5],
            "cos_genes_in_place": [0.875, 0.9375, 0.99, 0.875, 0.96875],
            "toward_hot_cell": [0.2, -0.1, 0.3, 0.4, -0.3],
            "toward_hot_cell_in_place": [0.1, -0.05, 0.3, 0.2, -0.15],
            "toward_cold_cell": [0.0, 0.1, 0.1, 0.1, 0.2],
            "toward_cold_cell_in_place": [0.0, 0.1, np.nan, 0.1, 0.2],
        }
    )
    table.attrs["symbols"] = SYMBOLS
    return table


def write_screen(folder, table, *, cells=None, affected=None, symbols=SYMBOLS, states=("hot", "cold")):
    """A results folder as rankcell perturb leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), folder / "screen.parquet")
    genes = list(symbols)
    edits = {"edit": [f"delete:{g}" for g in genes], "kind": ["delete"] * len(genes), "genes": genes, "symbols": list(symbols.values())}
    pq.write_table(pa.table(edits), folder / "edits.parquet")
    if cells is not None:
        pq.write_table(pa.table(cells), folder / "cells.parquet")
    if affected is not None:
        pq.write_table(pa.table(affected), folder / "affected.parquet")
    settings = {
        "model": "small",
        "model_hash": "abc",
        "vocabulary": "v",
        "kind": "delete",
        "layer": -2,
        "n_targets": len(genes),
        "states": list(states),
    }
    manifest = {"fingerprint": "f", "settings": settings, "complete": True, "n_rows": len(table), "n_cells": table["cell_id"].nunique()}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


CELLS = {"cell_id": ["x", "y"], "n_tokens": [5, 4], "n_genes": [3, 2], "cell_type": ["T", "B"]}


AFFECTED = {
    "edit": ["delete:A"] * 3 + ["delete:B"],
    "genes": ["A"] * 3 + ["B"],
    "affected": ["B", "C", "D", "A"],
    "n": [2, 1, 2, 2],
    "mean_cos": [0.75, 0.25, 0.5, 0.9],
    "sd_cos": [0.1, 0.0, 0.2, 0.0],
}


def made_table(n_edits, n_cells, *, seed=0, long=False):
    """Shifts that follow the rank when the row closes up and not in place; every cell has every gene."""
    rng = np.random.default_rng(seed)
    genes = [f"G{i}" for i in range(n_edits)]
    in_place = 1e-5 * rng.lognormal(0, 1, n_edits)
    frames = []
    for c in range(n_cells):
        rank = rng.permutation(n_edits)
        here = in_place * rng.lognormal(0, 0.2, n_edits)
        position = 1e-2 * (1 - rank / n_edits)
        columns = {"cell_id": f"c{c}", "edit": [f"delete:{g}" for g in genes], "kind": "delete", "genes": genes}
        columns |= {"rank": pd.array(rank, "Int32"), "n_tokens": n_edits, "cos_genes": 1 - here - position, "cos_genes_in_place": 1 - here}
        columns |= {"shift_genes_position": position, "toward_hot_cell": rng.normal(0, 1e-3, n_edits)}
        frames.append(pd.DataFrame(columns))
    table = pd.concat(frames, ignore_index=True)
    table.attrs["symbols"] = {g: "+".join([f"A_RATHER_LONG_${g}_name"] * 4) if long else f"S{g}" for g in genes}
    return table
