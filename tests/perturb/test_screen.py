"""Screens against the slow reference: every score, null and row; what is refused; and resuming after kill -9."""

import gc
import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_adata, make_checkpoint, make_vocab
from flat_options import call, perturb_df, run_screen, screen_cells
from reference_model import Reference

import rankcell as rc
from rankcell.errors import CellError, InputError, OutputError, RankcellWarning, SettingsError, TokensError
from rankcell.perturb import Perturber, StateEmbeddings, read_screen, read_states
from rankcell.perturb.edits.gene_lists import named_genes
from rankcell.perturb.exact.engine import Engine
from rankcell.store import locked, read_sealed_json, write_sealed_json
from rankcell.tokens import TokenSet, TokenSpec

SPECIAL = {"framed": ("<pad>", "<mask>", "<cls>", "<eos>"), "headed": ("<pad>", "<mask>", "<cls>"), "bare": ("<pad>", "<mask>")}
CELLS = {  # gene numbers from the top; "full" fills its row, "one" has a single gene
    "full": [0, 1, 2, 3, 4, 5],
    "b": [5, 3, 1],
    "one": [7],
    "d": [2, 9, 0, 8],
    "a": [11, 10, 6, 4, 2],
    "c": [3, 0],
}
KIND = ["x", "y", "x", "x", "y", "y"]
SCORES = {"bare": ["cos_genes", "cos_cell"], "framed": ["cos_genes", "cos_cell", "cos_cls"]}


pytestmark = pytest.mark.usefixtures("one_thread")


class Case:
    """A model, its tokens, and the reference of both."""

    def __init__(self, frame, folder):
        self.vocab = make_vocab(12, special=SPECIAL[frame])
        self.folder = make_checkpoint(folder / frame, self.vocab)
        self.frame = self.vocab.frame
        self.max_len = 6 + len(self.frame)
        self.cells = {cell: self.row(genes) for cell, genes in CELLS.items()}
        self.tokens = self.make_tokens(self.cells, kind=KIND)
        self.reference = Reference(self.folder, self.frame, self.max_len)
        self._perturbers = {}

    def token(self, gene):
        return int(self.vocab.tokens[gene])

    def row(self, genes):
        return [*self.frame.head, *map(self.token, genes), *self.frame.tail]

    def make_tokens(self, cells, **obs):
        spec = TokenSpec.of(self.vocab, frame=self.frame, max_len=self.max_len)
        return TokenSet.from_rows(cells.values(), spec, cell_ids=list(cells), obs=obs)

    def states(self, layer, names=("x", "y")):
        """The mean readouts of the states, before any edit."""
        rows = {s: [r for r, k in zip(self.cells.values(), KIND, strict=True) if k == s] for s in names}
        readouts = ["cell", "cls"] if self.frame.has_cls else ["cell"]
        return {(s, r): self.reference.state(rows[s], r, layer) for s in names for r in readouts}

    def perturb(self, out, *, tokens=None, layer=-2, tokens_per_batch=30, **how):
        if tokens_per_batch not in self._perturbers:
            self._perturbers[tokens_per_batch] = call(Perturber, self.folder, device="cpu", tokens_per_batch=tokens_per_batch)
        perturber = self._perturbers[tokens_per_batch]
        return run_screen(perturber, self.tokens if tokens is None else tokens, out, layer=layer, **how)

    def gene_ids(self, tokens):
        return "+".join(self.vocab.describe_token(t) for t in tokens)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    made = {}
    folder = tmp_path_factory.mktemp("screens")

    def get(frame):
        if frame not in made:
            made[frame] = Case(frame, folder)
        return made[frame]

    return get


def assert_table(case, table, kind, expected):
    """Row for row: ids, order, schema, nulls, and scores within 1e-6 (float32 states against float64)."""
    names = [k for k in expected[0] if k.startswith(("cos_", "toward_", "shift_"))]
    assert sorted(table.schema.names[6:]) == sorted(names)
    assert table.schema.names[:6] == ["cell_id", "edit", "kind", "genes", "rank", "n_tokens"]
    assert table.schema.types[:6] == [pa.string()] * 4 + [pa.int32()] * 2
    assert set(table.schema.types[6:]) == {pa.float64()}
    assert table["cell_id"].to_pylist() == [e["cell_id"] for e in expected]
    genes = [case.gene_ids(e["genes"]) for e in expected]
    assert table["genes"].to_pylist() == genes
    assert table["edit"].to_pylist() == [f"{kind}:{g}" for g in genes]
    assert set(table["kind"].to_pylist()) == {kind}
    for name in ("rank", "n_tokens"):
        assert table[name].to_pylist() == [e[name] for e in expected]
    for name in names:
        found, wanted = table[name].to_pylist(), [e[name] for e in expected]
        assert [v is None for v in found] == [v is None for v in wanted], name
        there = [v is not None for v in wanted]
        a, b = (np.array(v, float)[there] for v in (found, wanted))
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6, err_msg=name)


EDITS = {
    "delete all": dict(kind="delete", genes="all"),
    "delete named": dict(kind="delete", genes=["G3", "G0", "G7"]),
    "delete group": dict(kind="delete", genes=["G0", "G2"], group=True),
    "delete any": dict(kind="delete", genes=["G0", "G2", "G7"], group=True, any=True),
    "overexpress all": dict(kind="overexpress", genes="all"),
    "overexpress named": dict(kind="overexpress", genes=["G7", "G2", "G5"]),
    "overexpress group": dict(kind="overexpress", genes=["G9", "G0", "G6"], group=True),
}


@pytest.mark.parametrize("frame", SPECIAL)
@pytest.mark.parametrize("name", EDITS)
def test_the_whole_table(cases, tmp_path, frame, name):
    case, how = cases(frame), EDITS[name]
    targets = "all" if how["genes"] == "all" else [[case.token(int(g[1:])) for g in how["genes"]]]
    if not how.get("group") and targets != "all":
        targets = [[t] for t in targets[0]]
    slow = dict(need_all=not how.get("any", False))
    screen = case.perturb(tmp_path / "plain", affected=True, **how)
    assert_table(case, screen.table(), how["kind"], case.reference.screen(case.cells, how["kind"], targets, -2, **slow))
    assert_affected(case, screen, case.reference.affected(case.cells, how["kind"], targets, -2, **slow))
    if how["kind"] == "delete":
        in_place = case.reference.affected(case.cells, "delete", targets, -2, in_place=True, **slow)
        assert_affected(case, screen, in_place, which="_in_place")
    for compat in ("rankcell", "geneformer"):
        found = case.perturb(tmp_path / compat, layer=-1, toward=["kind=y", "kind=x"], readout_compat=compat, **how)
        slow |= dict(states=case.states(-1, ("y", "x")), keep_perturbed=compat == "geneformer")
        assert_table(case, found.table(), how["kind"], case.reference.screen(case.cells, how["kind"], targets, -1, **slow))


def assert_affected(case, screen, expected, which=""):
    """Every pair of perturbed and affected gene, in the order of targets and tokens: n, mean, population sd."""
    table = screen.affected()
    kind = screen.manifest["settings"]["kind"]
    in_place = ["mean_cos_in_place", "sd_cos_in_place"] if kind == "delete" else []
    assert table.schema.names == ["edit", "genes", "affected", "n", "mean_cos", "sd_cos", *in_place]
    table = table.select(["edit", "genes", "affected", "n", f"mean_cos{which}", f"sd_cos{which}"])
    found = {}
    for edit, genes, affected, n, mean, sd in zip(*(c.to_pylist() for c in table.columns), strict=True):
        assert edit == f"{kind}:{genes}"
        found[genes, affected] = n, mean, sd
    assert len(found) == len(table)
    named = {(case.gene_ids(g), case.vocab.describe_token(t)): np.array(v) for (g, t), v in expected.items()}
    assert set(found) == set(named)
    for key, (n, mean, sd) in found.items():
        v = named[key]
        assert n == len(v)
        np.testing.assert_allclose([mean, sd], [v.mean(), np.sqrt(((v - v.mean()) ** 2).mean())], rtol=0, atol=1e-6)
    order = [case.vocab.find(a) for a in table["affected"].to_pylist()]
    edits = table["edit"].to_pylist()
    firsts = [e for i, e in enumerate(edits) if i == 0 or edits[i - 1] != e]
    assert len(firsts) == len(set(firsts))
    assert all(a < b for i, (a, b) in enumerate(itertools.pairwise(order)) if edits[i] == edits[i + 1])


def test_the_model_can_tell(cases, tmp_path):
    """The scores differ by far more than the tolerance: rows, readouts, in place or not, the two readouts of `toward`."""
    case = cases("framed")
    t, g = (case.perturb(tmp_path / c, toward=["kind=x"], readout_compat=c).table().to_pandas() for c in ("rankcell", "geneformer"))
    assert (t.cos_genes.dropna() < 0.9999).all()
    for a, b in (
        ("cos_genes", "cos_cell"),
        ("cos_genes", "cos_cls"),
        ("cos_genes", "cos_genes_in_place"),
        ("cos_cell", "cos_cell_in_place"),
        ("toward_x_cell", "toward_x_cell_in_place"),
        ("toward_x_cell", "toward_x_cls"),
    ):
        assert (t[a] - t[b]).abs().median() > 1e-3, (a, b)
    for readout in ("toward_x_cell", "toward_x_cell_in_place"):
        assert (t[readout] - g[readout]).abs().median() > 1e-3
    same = [c for c in t if not c.startswith("toward_x_cell")]
    assert t[same].equals(g[same])


@pytest.mark.parametrize("layer", [0, 1, -1])
def test_layers(cases, tmp_path, layer):
    case = cases("framed")
    found = case.perturb(tmp_path / "s", layer=layer, genes=["G0"])
    assert_table(case, found.table(), "delete", case.reference.screen(case.cells, "delete", [[case.token(0)]], layer))


def test_column_order(cases, tmp_path):
    found = cases("framed").perturb(tmp_path / "a", genes=["G0"], toward=["kind=x", "kind=y"]).table()
    assert found.schema.names[6:] == [
        *("cos_genes", "cos_cell", "cos_cls"),
        *("cos_genes_in_place", "cos_cell_in_place", "cos_cls_in_place"),
        *("shift_genes_position", "shift_cell_position", "shift_cls_position"),
        *("toward_x_cell", "toward_x_cell_in_place", "toward_x_cell_position"),
        *("toward_x_cls", "toward_x_cls_in_place", "toward_x_cls_position"),
        *("toward_y_cell", "toward_y_cell_in_place", "toward_y_cell_position"),
        *("toward_y_cls", "toward_y_cls_in_place", "toward_y_cls_position"),
    ]
    found = cases("bare").perturb(tmp_path / "b", genes=["G0"], kind="overexpress", toward="kind=x").table()
    assert found.schema.names[6:] == ["cos_genes", "cos_cell", "toward_x_cell"]


@pytest.mark.parametrize("frame", ["bare", "framed"])
def test_nulls_of_a_cell_with_one_gene(cases, tmp_path, frame):
    case = cases(frame)
    tokens = case.make_tokens({"one": case.row([7])}, kind=["x"])
    (row,) = case.perturb(tmp_path / "s", tokens=tokens, toward=["kind=x"]).table().to_pylist()
    assert (row["cell_id"], row["rank"], row["n_tokens"]) == ("one", 0, 1 + len(case.frame))
    there = {k for k, v in row.items() if k.startswith(("cos_", "toward_")) and v is not None}
    cls = {"cos_cls", "cos_cls_in_place", "toward_x_cls", "toward_x_cls_in_place", "toward_x_cls_position"}
    assert there == (cls if case.frame.has_cls else set())
    # overexpressing another gene leaves it one to compare, without a rank
    (row,) = case.perturb(tmp_path / "o", tokens=tokens, kind="overexpress", genes="G1").table().to_pylist()
    assert row["rank"] is None and row["cos_genes"] == pytest.approx(row["cos_cell"], abs=1e-6) and row["cos_genes"] < 1


def test_manifest(cases, tmp_path):
    case = cases("framed")
    screen = case.perturb(tmp_path / "s", genes=["G0", "G7"])
    counts = {k: screen.manifest[k] for k in ("complete", "n_rows", "n_cells", "n_skipped", "n_units")}
    assert counts == {"complete": True, "n_rows": 4, "n_cells": 6, "n_skipped": 8, "n_units": 1}
    assert screen.symbols() == {"ENSG00000000000": "G0", "ENSG00000000007": "G7"}
    assert sorted(p.name for p in screen.folder.iterdir()) == [".lock", "cells.parquet", "edits.parquet", "manifest.json", "screen.parquet"]
    again = read_screen(screen.folder)
    assert again.manifest == screen.manifest
    with pytest.raises(OutputError, match=r"has no affected.parquet: run the screen with affected=True"):
        again.affected()


# which cells


def cells_of(screen):
    return list(dict.fromkeys(screen.table()["cell_id"].to_pylist()))


def test_cells_start_and_seed(cases, tmp_path):
    case = cases("bare")
    names = list(CELLS)
    assert cells_of(case.perturb(tmp_path / "all")) == names
    assert cells_of(case.perturb(tmp_path / "first", cells=2)) == names[:2]
    assert cells_of(case.perturb(tmp_path / "many", cells=99)) == names
    assert cells_of(case.perturb(tmp_path / "start", start="kind=y")) == ["b", "a", "c"]
    assert cells_of(case.perturb(tmp_path / "both", start="kind=y", cells=2)) == ["b", "a"]
    drawn = {tuple(cells_of(case.perturb(tmp_path / f"seed{i}", cells=3, seed=i))) for i in range(4)}
    assert len(drawn) > 1
    for cells in drawn:
        assert len(cells) == 3 and list(cells) == sorted(cells, key=names.index)
    assert tuple(cells_of(case.perturb(tmp_path / "again", cells=3, seed=2))) in drawn
    with pytest.raises(SettingsError, match="cells is 0; at least 1"):
        case.perturb(tmp_path / "none", cells=0)


def test_states_are_of_all_cells_whatever_is_perturbed(cases, tmp_path):
    case = cases("framed")
    found = case.perturb(tmp_path / "s", start="kind=x", cells=2, genes=["G0"], toward=["kind=y"])
    cells = {c: case.cells[c] for c in ("full", "one")}
    states = case.states(-2, ("y",))
    assert_table(case, found.table(), "delete", case.reference.screen(cells, "delete", [[case.token(0)]], -2, states=states))


def test_cells_without_genes(cases, tmp_path):
    case = cases("framed")
    tokens = case.make_tokens({"e1": case.row([]), "d": case.cells["d"], "e2": case.row([])}, kind=["x", "x", "z"])
    with pytest.warns(RankcellWarning, match="2 of 3 cells have no genes and give no rows"):
        found = case.perturb(tmp_path / "s", tokens=tokens, toward=["kind=x"])
    expected = {("x", r): case.reference.state([case.cells["d"]], r, -2) for r in ("cell", "cls")}
    wanted = case.reference.screen({"d": case.cells["d"]}, "delete", "all", -2, states=expected)
    assert_table(case, found.table(), "delete", wanted)
    with pytest.warns(RankcellWarning), pytest.raises(SettingsError, match="all cells of state 'z' are without genes"):
        case.perturb(tmp_path / "t", tokens=tokens, toward=["kind=z"])


# states from a file


def test_states_from_a_file(cases, tmp_path):
    case = cases("framed")
    made = case.perturb(tmp_path / "cells", toward=["kind=x", "kind=y"])
    vectors = read_states(made.folder / "states.parquet").vectors
    expected = case.states(-2)
    assert set(vectors) == set(expected)
    for key, v in vectors.items():
        np.testing.assert_allclose(v, expected[key], rtol=0, atol=1e-6)
    width = len(v)
    rows = [[s, r, *map(repr, map(float, v))] for (s, r), v in vectors.items()]
    text = [",".join(["state", "readout", *(str(i) for i in range(width))]), *(",".join(r) for r in rows)]
    (tmp_path / "states.csv").write_text("\n".join(text) + "\n")
    turned = pq.read_table(made.folder / "states.parquet").select(["embedding", "readout", "state"])
    pq.write_table(turned, tmp_path / "turned.parquet")
    files = [made.folder / "states.parquet", tmp_path / "states.csv", tmp_path / "turned.parquet", StateEmbeddings(vectors)]
    for i, states in enumerate(files):
        found = case.perturb(tmp_path / f"file{i}", states=states)
        assert found.table().equals(made.table())
        assert (found.folder / "states.parquet").read_bytes() == (made.folder / "states.parquet").read_bytes()


def test_states_from_both(cases, tmp_path):
    case = cases("bare")
    file = tmp_path / "s.parquet"
    StateEmbeddings({("far", "cell"): np.arange(16.0)}).save(file)
    found = case.perturb(tmp_path / "s", toward=["kind=x"], states=file)
    states = case.states(-2, ("x",)) | {("far", "cell"): np.arange(16.0)}
    assert_table(case, found.table(), "delete", case.reference.screen(case.cells, "delete", "all", -2, states=states))


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("state,readout,0\ns,cell,1,2\n", SettingsError, r"state 's' \(cell\) has 2 numbers; the states of model 'bare' have 16"),
        ("state,readout\n" + "s,cell" + ",nan" * 16, SettingsError, r"state 's' \(cell\) holds NaN or infinite numbers"),
        ("state,readout\n" + "x,cell" + ",1" * 16, SettingsError, "state 'x' is asked for twice, from the cells and from the file"),
        ("state,readout\ns,gene,1\n", InputError, "readout 'gene' is not known; a state's readout is cell or cls"),
        ("state,readout\ns,cell,one\n", InputError, "is not a table of states .*could not convert"),
        ("state,readout\ns\n", InputError, "is not a table of states"),
        ("name,readout\ns,cell,1\n", InputError, "is not a table of states .*its first columns are"),
        ("state,readout\n", InputError, "holds no state"),
        ("", InputError, "is not a table of states"),
        ("state,readout\n" + ("s,cell" + ",1" * 16 + "\n") * 2, InputError, r"state 's' \(cell\) stands in it twice"),
    ],
)
def test_bad_state_files(cases, tmp_path, text, error, message):
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(error, match=message):
        cases("bare").perturb(tmp_path / "s", states=tmp_path / "s.csv", toward=["kind=x"])


def test_bad_parquet_states(cases, tmp_path):
    file = tmp_path / "s.parquet"
    with pytest.raises(InputError, match="no such file"):
        read_states(file)
    file.write_bytes(b"PAR1 not really")
    with pytest.raises(InputError, match="is not a table of states"):
        read_states(file)
    pq.write_table(pa.table({"state": ["s"], "readout": ["cell"]}), file)
    with pytest.raises(InputError, match="is not a table of states"):
        read_states(file)
    pq.write_table(pa.table({"state": ["s"], "readout": ["cell"], "embedding": pa.array([None], pa.list_(pa.float64()))}), file)
    with pytest.raises(InputError, match="is not a table of states"):
        read_states(file)


# what is refused


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (dict(genes=["G0", "NOPE"]), SettingsError, "gene 'NOPE' is not in vocabulary 'small'"),
        (dict(genes=["G1", "G11"], group=True), SettingsError, "none of the 6 cells holds all genes of the group to delete"),
        (dict(genes=["G1"], start="kind=x", cells=0), SettingsError, "cells is 0"),
        (dict(kind="smash"), SettingsError, "unknown kind 'smash'; one of delete, overexpress"),
        (dict(group=True), SettingsError, "a group needs genes that are named: genes with group=True"),
        (dict(toward=["kind=z"]), SettingsError, "no cell has kind = 'z'; there are x, y"),
        (dict(start="kind=z"), SettingsError, "no cell has kind = 'z'; there are x, y"),
        (dict(toward=["kind"]), SettingsError, "toward='kind': expected COLUMN=STATE, such as toward='cell_type=B'"),
        (dict(start="=x"), SettingsError, "start='=x': expected COLUMN=STATE"),
        (dict(start="age=1"), CellError, r"no cell column 'age' \(they have: kind\): tokenize again with obs='age'"),
        (dict(toward=["kind=x"], readout_compat="gf"), SettingsError, "readout_compat is gf; one of rankcell"),
        (dict(layer=9), SettingsError, "layer 9 is out of range"),
        (dict(tokens_per_batch=0), SettingsError, "tokens_per_batch is 0"),
        (dict(genes=[f"G{i}" for i in range(7)], group=True, kind="overexpress"), SettingsError, "7 genes .* do not fit a row of 6"),
    ],
)
def test_refused(cases, tmp_path, how, error, message):
    with pytest.raises(error, match=message):
        cases("bare").perturb(tmp_path / "s", **how)
    assert not (tmp_path / "s" / "manifest.json").exists()


def test_a_gene_in_no_cell(cases, tmp_path):
    case = cases("bare")
    tokens = case.make_tokens({"c": case.cells["c"]})
    with pytest.raises(SettingsError, match=r"none of the 1 cells holds any of the genes to delete \(G1, G2\): nothing to do"):
        case.perturb(tmp_path / "s", tokens=tokens, genes=["G1", "G2"])
    # on top already
    with pytest.raises(SettingsError, match="nothing to do"):
        case.perturb(tmp_path / "s", tokens=tokens, genes=["G3"], kind="overexpress")
    assert not (tmp_path / "s").exists()


def test_rows_longer_than_the_model(cases, tmp_path):
    case = cases("bare")
    tokens = TokenSet.from_rows([np.arange(65) % 12 + 2], TokenSpec.of(case.vocab, frame=case.frame, max_len=99))
    with pytest.raises(TokensError, match="rows have up to 65 tokens, but model 'bare' has 64 positions"):
        case.perturb(tmp_path / "s", tokens=tokens)


def test_the_folder_of_another(cases, tmp_path):
    case = cases("bare")
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    for force in (False, True):
        with pytest.raises(OutputError, match="exists and is not a rankcell result: choose another output"):
            case.perturb(mine, force=force)
    assert (mine / "thesis.txt").read_text() == "mine"
    with pytest.raises(OutputError, match="is a file: this writes a folder"):
        case.perturb(mine / "thesis.txt")
    with pytest.raises(OutputError, match="does not exist: make it first"):
        case.perturb(tmp_path / "none" / "s")
    (mine / "manifest.json").write_text("{}")
    with pytest.raises(OutputError, match="is not a rankcell manifest"):
        case.perturb(mine)
    with pytest.raises(OutputError, match=r"holds thesis\.txt, which rankcell did not write there: move it away"):
        case.perturb(mine, force=True)
    assert (mine / "thesis.txt").read_text() == "mine"


def test_a_folder_with_hidden_things_alone(cases, tmp_path):
    hidden = tmp_path / "hidden"
    (hidden / ".git").mkdir(parents=True)
    (hidden / ".git" / "HEAD").write_text("mine")
    with pytest.raises(OutputError, match="exists and is not a rankcell result: choose another output"):
        cases("bare").perturb(hidden)
    assert (hidden / ".git" / "HEAD").read_text() == "mine"


def test_other_settings_are_refused_with_what_differs(cases, tmp_path):
    case = cases("bare")
    screen = case.perturb(tmp_path / "s", genes=["G0"])
    before = (screen.folder / "screen.parquet").read_bytes()
    for how, message in (
        (
            dict(genes=["G1"]),
            "holds another run .genes: G0 there, G1 now; plan_hash: .* there, .* now.*: choose another output, or pass force=True",
        ),
        (dict(genes=["G0"], layer=-1), "layer: -2 there, -1 now"),
        (dict(genes=["G0"], cells=4), "cells: 6 there, 4 now"),
        (dict(genes=["G0"], kind="overexpress"), "kind: delete there, overexpress now"),
        (dict(genes=["G0"], affected=True), r"affected: \[\] there, \['mean'\] now"),
        (dict(genes=["G0"], tokens_per_batch=31), "tokens_per_batch: 30 there, 31 now"),
        (dict(genes=["G0"], toward=["kind=x"]), r"states: \[\] there, \['x'\] now"),
    ):
        with pytest.raises(OutputError, match=message):
            case.perturb(tmp_path / "s", **how)
    assert (screen.folder / "screen.parquet").read_bytes() == before
    forced = case.perturb(tmp_path / "s", genes=["G1"], force=True)
    assert set(forced.table()["genes"].to_pylist()) == {"ENSG00000000001"}


def test_a_held_lock(cases, tmp_path):
    case = cases("bare")
    (tmp_path / "s").mkdir()
    with locked(tmp_path / "s"):
        with pytest.raises(OutputError, match=r"another process is writing to .*: wait for it, or choose another output"):
            case.perturb(tmp_path / "s")
        assert [p.name for p in (tmp_path / "s").iterdir()] == [".lock"]
    assert case.perturb(tmp_path / "s").manifest["complete"]


def test_results_that_are_none(cases, tmp_path):
    with pytest.raises(InputError, match="no results folder"):
        read_screen(tmp_path / "none")
    with pytest.raises(OutputError, match=r"is not a rankcell result: it has no manifest.json"):
        read_screen(tmp_path)
    screen = cases("bare").perturb(tmp_path / "s")
    manifest = read_sealed_json(screen.folder / "manifest.json")
    write_sealed_json(screen.folder / "manifest.json", manifest | {"complete": False})
    with pytest.raises(OutputError, match="has not finished: give the same rc.tl.perturb again"):
        rc.get.screen_df(screen.folder)


# what does not change the numbers


@pytest.mark.parametrize("kind", ["delete", "overexpress"])
def test_batches_do_not_matter(cases, tmp_path, kind):
    case = cases("framed")
    tables = [
        case.perturb(tmp_path / str(n), kind=kind, toward=["kind=x"], tokens_per_batch=n, tokens_per_unit=u).table().to_pandas()
        for n, u in ((1, 10), (37, 100), (16_384, 10**6))
    ]
    numbers = tables[0].select_dtypes("float64").columns.drop("rank", errors="ignore")
    for other in tables[1:]:
        assert other.drop(columns=numbers).equals(tables[0].drop(columns=numbers))
        np.testing.assert_allclose(other[numbers], tables[0][numbers], rtol=0, atol=1e-6)


# the counters


def test_tl_perturb(cases, tmp_path):
    case = cases("framed")
    counts = [[9, 3, 0, 5], [0, 2, 1, 0], [1, 0, 7, 2]]
    adata = make_adata(counts, kind=["x", "y", "x"])
    how = dict(model=case.folder, genes=["G1", "G2"], toward="kind=y", device="cpu")
    table = perturb_df(adata, **how)
    cells = {"cell0": case.row([0, 3, 1]), "cell1": case.row([1, 2]), "cell2": case.row([2, 3, 0])}
    states = {("y", r): case.reference.state([cells["cell1"]], r, -2) for r in ("cell", "cls")}
    expected = case.reference.screen(cells, "delete", [[case.token(1)], [case.token(2)]], -2, states=states)
    assert isinstance(table, pd.DataFrame)
    assert table.attrs["symbols"] == {"ENSG00000000001": "G1", "ENSG00000000002": "G2"}
    assert str(table["rank"].dtype) == "Int32"
    assert_table(case, pa.Table.from_pandas(table, preserve_index=False), "delete", expected)
    kept = perturb_df(adata, out=tmp_path / "kept", affected=True, **how)
    pd.testing.assert_frame_equal(kept, table)
    pd.testing.assert_frame_equal(rc.get.screen_df(tmp_path / "kept"), table)
    assert rc.get.affected_df(tmp_path / "kept").n.sum() == 2 + 1 + 1 + 2
    screen = call(rc.tl.perturb, adata, affected=True, **how)
    assert screen.affected().n.sum() == 2 + 1 + 1 + 2 and screen.folder.is_dir()
    folder = screen.folder
    del screen
    gc.collect()
    assert not folder.exists()  # without `out` the results go with the Screen


def test_genes_from_a_file_and_in_one_string(tmp_path):
    (tmp_path / "genes.txt").write_text("# my genes\nG1, G2\n\nG3  # last\n")
    assert named_genes(f"@{tmp_path}/genes.txt") == ("G1", "G2", "G3")
    assert named_genes("G1, G2,") == ("G1", "G2")
    assert named_genes("all") == "all"
    assert named_genes(("G1",)) == ("G1",)
    with pytest.raises(InputError, match=r"no such file: .*none.txt"):
        named_genes(f"@{tmp_path}/none.txt")


# stopped and resumed

CHILD = """
import os, random, shutil, signal, sys, time
import pyarrow.parquet, torch
from rankcell.model.options import Compute
from rankcell.perturb import Exact, Measure, Perturber, ScreenConfig
from rankcell.tokens import TokenSet

torch.set_num_threads(1)
os.fsync = lambda fd: None  # a process that is killed loses nothing that the system has
model, data, base, how = sys.argv[1:]
tokens = TokenSet.open(data)
perturber = Perturber(model, Compute("cpu", tokens_per_batch=40))
perturber.checkpoint.hash, perturber.embedder.embed(tokens)  # all is loaded once, for every child

def go(out, unit, force):
    config = ScreenConfig(toward="kind=x", measure=Measure(affected=True), method=Exact(tokens_per_unit=unit))
    perturber.perturb(tokens, out, config, force=force)

def child(out, unit, die_at=None, force=False):
    pid = os.fork()
    if pid:
        return pid
    left = [die_at]
    def hook(event, args):  # every change that python itself makes to the folder, and every file it opens there
        if event in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir") and str(args[0]).startswith(out):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
    if die_at:
        sys.addaudithook(hook)
    try:
        go(out, unit, force)
    except BaseException as e:
        print(out, die_at, type(e), e, flush=True)
        os._exit(1)
    os._exit(0)

def died(pid):
    status = os.waitpid(pid, 0)[1]
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        sys.exit(1)
    return os.WIFSIGNALED(status)

start = time.monotonic()
died(child(f"{base}/whole", 1))
took = time.monotonic() - start
if how == "steps":  # killed at every fourth step: each folder is then finished in one go
    step = 1
    while died(child(f"{base}/step{step}", 250, step)):
        died(child(f"{base}/step{step}", 250))
        step += 4
    died(child(f"{base}/whole250", 250))
elif how == "force":  # another run's folder, taken over and killed at each of the first steps
    died(child(f"{base}/whole250", 250))
    for step in range(1, 14):
        shutil.copytree(f"{base}/whole", f"{base}/force{step}")
        assert died(child(f"{base}/force{step}", 250, step, force=True))
        died(child(f"{base}/force{step}", 250, force=True))
else:  # killed at random moments, several times in one folder
    rng = random.Random(7)
    for run in range(2):
        kills = 0
        for _ in range(8):
            pid = child(f"{base}/run{run}", 1)
            time.sleep(rng.uniform(0, took * 0.4))
            os.kill(pid, signal.SIGKILL)
            kills += died(pid)
        print("kills", kills)
        died(child(f"{base}/run{run}", 1))
"""


def run_child(case, base, how):
    genes = np.random.default_rng(1)
    bodies = [genes.permutation(12)[: genes.integers(1, 7)] for _ in range(9)]
    cells = {f"c{i}": case.row(b) for i, b in enumerate(bodies)}
    case.make_tokens(cells, kind=list("xyxyxyxyx")).save(base / "cells.dataset")
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(case.folder), str(base / "cells.dataset"), str(base), how],
        capture_output=True, text=True, timeout=600, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def tables(folder):
    assert read_screen(folder).manifest["complete"]
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.parquet"))}


posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@posix
@pytest.mark.parametrize(("how", "least"), [("steps", 20), ("force", 13)])
def test_killed_at_every_step(cases, tmp_path, how, least):
    run_child(cases("framed"), tmp_path, how)
    expected = tables(tmp_path / "whole250")
    assert list(expected) == ["affected.parquet", "cells.parquet", "edits.parquet", "screen.parquet", "states.parquet"]
    folders = sorted(tmp_path.glob(f"{how.removesuffix('s')}[0-9]*"))
    assert len(folders) >= least
    for folder in folders:
        assert tables(folder) == expected
        # nothing half-written stays
        assert sorted(p.name for p in folder.iterdir()) == sorted([".lock", "manifest.json", *expected])


@posix
def test_killed_at_random_moments(cases, tmp_path):
    told = run_child(cases("framed"), tmp_path, "moments")
    assert sum(int(line.split()[1]) for line in told.splitlines()) > 4
    expected = tables(tmp_path / "whole")
    assert read_screen(tmp_path / "whole").manifest["n_units"] == 9
    for folder in tmp_path.glob("run*"):
        assert tables(folder) == expected


def test_whole_shards_are_not_run_again(cases, tmp_path, monkeypatch):
    case = cases("bare")
    shards = tmp_path / "s" / "shards"
    whole = case.perturb(tmp_path / "whole", tokens_per_unit=1)
    assert whole.manifest["n_units"] == len(CELLS)

    def stop(done, total):
        if len(list(shards.glob("screen-*.parquet"))) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        case.perturb(tmp_path / "s", tokens_per_unit=1, progress=stop)
    assert sorted(p.name for p in shards.iterdir()) == ["screen-000000.parquet", "screen-000001.parquet"]
    ran, seen = [], []
    run = Engine.run
    monkeypatch.setattr(Engine, "run", lambda self, rows, **how: ran.append(len(rows)) or run(self, rows, **how))
    case.perturb(tmp_path / "s", tokens_per_unit=1, progress=lambda *at: seen.append(at))
    assert ran == [1] * (len(CELLS) - 2)
    assert tables(tmp_path / "s") == tables(tmp_path / "whole")
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] and len({total for _, total in seen}) == 1
    case.perturb(tmp_path / "s", tokens_per_unit=1)
    assert len(ran) == len(CELLS) - 2


@pytest.fixture
def count_file(tmp_path):
    rng = np.random.default_rng(2)
    adata = make_adata(rng.poisson(2, (60, 12)) * rng.integers(1, 9, (60, 12)))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def test_the_command_killed_and_given_again(small, count_file, tmp_path):
    import torch

    how = dict(model=small[1], tokens_per_batch=100, device="cpu")
    whole = screen_cells(count_file, tmp_path / "whole", **how)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "rankcell", "perturb", count_file, "-o", out, "--model", small[1], "--device", "cpu"]
    command += ["--tokens-per-batch", "100"]
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    first = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while first.poll() is None and not (out / "manifest.json").exists():
        time.sleep(0.002)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert (out / "manifest.json").exists()
    assert screen_cells(count_file, out, **how).manifest["n_rows"] == len(whole.table())
    assert tables(out) == tables(whole.folder)


def test_a_finished_folder_is_left_as_it_is(small, count_file, tmp_path):
    how = dict(model=small[1], device="cpu", genes="G1,G2")
    screen_cells(count_file, tmp_path / "out", **how)

    def look():
        files = [p for p in (tmp_path / "out").iterdir() if p.name != ".lock"]
        return {p.name: (p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns) for p in files}

    before = look()
    assert sorted(before) == ["cells.parquet", "edits.parquet", "manifest.json", "screen.parquet"]
    assert screen_cells(count_file, tmp_path / "out", **how).manifest["complete"]
    assert look() == before
    screen_cells(count_file, tmp_path / "out", force=True, **how)
    anew = look()
    assert {n: v[0] for n, v in anew.items()} == {n: v[0] for n, v in before.items()}
    assert all(anew[n][2] > before[n][2] for n in before)
