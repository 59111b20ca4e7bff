"""Vocabularies from many cells: medians are exact in bounded memory, whatever the order, the blocks and the files."""

import dataclasses
import json
import os
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from builders import make_adata
from flat_options import call
from hypothesis import given, settings
from hypothesis import strategies as st

from rankcell.cli import main
from rankcell.counts import CountBlock
from rankcell.counts.vocabulary.build_vocab import build_vocab, tally_vocab
from rankcell.errors import GeneError, InputError, OutputError, SettingsError, VocabularyError
from rankcell.vocab import Vocabulary, build_vocabulary, medians
from rankcell.vocab.medians import exact_medians
from rankcell.vocab.tally import open_tally

LIKELY = (10_000 / 2**18, 20_000.0)


@pytest.fixture
def tiny(monkeypatch):
    """Room for next to nothing, so that the smallest input takes many passes."""
    monkeypatch.setattr(medians, "KEPT", 0)
    monkeypatch.setattr(medians, "BUDGET", 2)
    monkeypatch.setattr(medians, "BINS", 12)


def with_room(kept, budget, bins):
    patch = pytest.MonkeyPatch()
    patch.setattr(medians, "KEPT", kept)
    patch.setattr(medians, "BUDGET", budget)
    patch.setattr(medians, "BINS", bins)
    return patch


def blocks_of(x, sizes=(), n_counts=None):
    """The rows of a dense matrix as CountBlocks of these sizes and one of what is left."""
    x = np.asarray(x)
    totals = x.sum(1).astype(np.float64) if n_counts is None else np.asarray(n_counts, np.float64)
    out, start = [], 0
    for stop in [*np.minimum(np.cumsum(sizes), len(x)).astype(int), len(x)]:
        rows, columns = np.nonzero(x[start:stop])
        indptr = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=stop - start))]).astype(np.int64)
        out.append(CountBlock(start, indptr, columns.astype(np.int32), x[start:stop][rows, columns], totals[start:stop]))
        start = stop
    return out


def names(n):
    return [f"ENSG{i:011d}" for i in range(n)]


# The selection


numbers = st.one_of(
    st.sampled_from([1.0, 2.0, 2.0000000000000004, 5e-324, 8e307, 1e-9, 3e7]),
    st.floats(5e-324, 1e300),
    st.integers(1, 6).map(float),
)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 4), numbers), max_size=60),
    st.integers(1, 7),
    st.sampled_from([0, 10, 10**6]),
    st.sampled_from([0, 1, 5, 10**6]),
    st.sampled_from([1, 12, 400]),
)
def test_medians_against_numpy(pairs, size, kept, budget, bins):
    slots, values = np.array([p[0] for p in pairs], np.int32), np.array([p[1] for p in pairs], np.float64)
    calls = []

    def again():
        calls.append(1)
        return ((slots[i : i + size], values[i : i + size]) for i in range(0, len(slots), size))

    patch = with_room(kept, budget, bins)
    try:
        found = exact_medians(again, 6, likely=LIKELY)
    finally:
        patch.undo()
    assert found.n.tolist() == np.bincount(slots, minlength=6).tolist()
    assert found.passes == len(calls) and (found.passes == 1) == (len(slots) <= kept)
    expected = [np.median(values[slots == s]) if (slots == s).any() else np.nan for s in range(6)]
    np.testing.assert_array_equal(found.median, expected)


@pytest.mark.parametrize(
    "values",
    [
        [7.0],
        [7.0] * 999,
        [7.0] * 1000,
        [1.0] * 500 + [2.0] * 500,  # the two middle values lie in different ties
        [1.0] * 500 + [1e4] * 500,  # and far apart
        [1.0] * 500 + [np.nextafter(1, 2)] * 500,
        [1e-300] * 3 + [1e300] * 2,  # outside of what is likely, below
        [1e-300] * 2 + [1e300] * 3,  # and above
        [1e-300] * 2 + [1e300] * 2,
        list(np.linspace(1, 2, 1000)),
        list(np.geomspace(1e-310, 1e308, 1001)),
    ],
)
def test_medians_of_awkward_values(tiny, values):
    values = np.array(values)
    slots = np.zeros(len(values), np.int32)
    found = exact_medians(lambda: [(slots, values[::-1].copy())], 1, likely=LIKELY)
    assert found.median[0] == np.median(values) and found.n[0] == len(values)


def test_ties_need_no_room(monkeypatch):
    """A million equal values are narrowed down to their bits and never collected."""
    monkeypatch.setattr(medians, "KEPT", 0)
    monkeypatch.setattr(medians, "BUDGET", 10)
    slots, values = np.zeros(1_000_000, np.int32), np.full(1_000_000, 3.7)
    found = exact_medians(lambda: [(slots, values)], 1, likely=LIKELY)
    assert found.median.tolist() == [3.7] and found.passes <= 6


@pytest.mark.parametrize("changed", [[1.0, 2, 3, 4], [1.0, 2, 3], [1.0, 2, 3, 4, 5, 6], [0.01, 0.01, 3, 4, 5]])
def test_input_that_changes_between_passes(tiny, changed):
    first = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    calls = []

    def again():
        calls.append(1)
        values = first if len(calls) < 2 else np.array(changed)
        return [(np.zeros(len(values), np.int32), values)]

    with pytest.raises(InputError, match="changed while it was read"):
        exact_medians(again, 1, likely=LIKELY)


# Vocabularies from blocks


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from([0, 0, 1, 1, 2, 7]), min_size=5, max_size=5), min_size=1, max_size=12),
    st.lists(st.integers(1, 4), max_size=4),
    st.randoms(use_true_random=False),
    st.sampled_from([1, 2, 4]),
)
def test_any_order_and_block_size_give_the_same_medians(cells, sizes, random, min_cells):
    x = np.array(cells)
    total = x.sum(1, keepdims=True)
    normal = np.divide(x, total, out=np.zeros(x.shape), where=total > 0) * 10_000
    expected = {g: float(np.median(c[c > 0])) for g, c in zip(names(5), normal.T, strict=True) if (c > 0).sum() >= min_cells}
    order = list(range(len(x)))
    random.shuffle(order)
    patch = with_room(0, 3, 20)
    try:
        for rows, cut in ((order, sizes), (range(len(x)), [])):
            blocks = blocks_of(x[list(rows)], cut)
            if not expected:
                with pytest.raises(VocabularyError, match="no gene"):
                    build_vocabulary(lambda blocks=blocks: blocks, names(5), name="v", min_cells=min_cells)
                continue
            v = build_vocabulary(lambda blocks=blocks: blocks, names(5), name="v", min_cells=min_cells)
            assert dict(zip(v.genes, v.medians.tolist(), strict=True)) == expected
            assert v.tokens.tolist() == list(range(4, 4 + len(expected)))
    finally:
        patch.undo()


def test_blocks_may_be_a_list_or_a_generator(tiny):
    blocks = blocks_of([[1, 2, 0], [3, 0, 0], [1, 1, 1]], [1])
    made = [build_vocabulary(given, names(3), name="v") for given in (blocks, iter(blocks), tuple(blocks), lambda: iter(blocks))]
    assert len({v.hash for v in made}) == 1 and made[0].provenance["passes"] > 1


def test_rows_in_any_order_with_repeated_columns_and_stored_zeros(tiny):
    """Columns 0 and 2 are one gene; column 1 comes twice in the second cell; zeros are no values."""
    block = CountBlock(
        0,
        np.array([0, 3, 7]),
        np.array([2, 1, 0, 1, 0, 1, 2]),
        np.array([1, 4, 3, 1, 0, 2, 0], np.int64),
        np.array([8.0, 3.0], np.float32),
    )
    v = build_vocabulary([block], ["A", "B", "A2"], name="v", ids={"A": "ENSG00000000001", "A2": "ENSG00000000001"})
    assert v.genes == ("ENSG00000000001", "B") and v.medians.tolist() == [5000.0, (5000 + 10_000) / 2]
    assert v.provenance["n_columns"] == 3 and v.provenance["n_genes_detected"] == 2


def test_one_cell_and_genes_seen_once(tiny):
    v = build_vocabulary(lambda: blocks_of([[0, 1, 3]]), names(3), name="v")
    assert v.genes == tuple(names(3)[1:]) and v.medians.tolist() == [2500, 7500]


def test_min_cells(tiny):
    blocks = blocks_of([[1, 1, 0], [1, 0, 0], [1, 1, 0]])
    v = build_vocabulary(blocks, names(3), name="v", min_cells=2)
    assert v.genes == tuple(names(2)) and v.provenance["min_cells"] == 2 and v.provenance["n_genes_detected"] == 2
    assert build_vocabulary(blocks, names(3), name="v", min_cells=3).genes == ("ENSG00000000000",)
    with pytest.raises(VocabularyError, match="no gene is shown by 4 cells; the most frequent one by 3: lower min_cells"):
        build_vocabulary(blocks, names(3), name="v", min_cells=4)


def test_memory_does_not_grow_with_the_cells(monkeypatch):
    monkeypatch.setattr(medians, "KEPT", 50_000)
    monkeypatch.setattr(medians, "BUDGET", 20_000)
    monkeypatch.setattr(medians, "BINS", 200_000)

    def blocks(n):
        for seed in range(n):
            yield from blocks_of(np.random.default_rng(seed).poisson(0.5, (500, 200)))

    def peak(n):
        tracemalloc.start()
        try:
            v = build_vocabulary(lambda: blocks(n), names(200), name="v")
            return tracemalloc.get_traced_memory()[1], v
        finally:
            tracemalloc.stop()

    peak(4)  # compiled and imported
    small, _ = peak(4)
    large, v = peak(20)
    assert v.provenance["passes"] >= 3  # the input is 20 times what is kept
    assert large - small < 2_000_000


# Files and tallies


@pytest.fixture
def three(tmp_path):
    """Three count files: the first two with the same genes, the third with other ones in another order, and every cell in one."""
    x = np.random.default_rng(3).poisson(1.2, (30, 6))
    parts = {"a": x[:12], "b": x[12:20], "c": x[20:]}
    for name, part in parts.items():
        adata = make_adata(part)
        if name == "c":
            adata = adata[:, [4, 1, 5, 0, 2, 3]].copy()
            adata.var["ensembl_id"] = [*adata.var["ensembl_id"][:5], "ENSG00000000009"]
            adata.var_names = [*adata.var_names[:5], "NINE"]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    return tmp_path


def content(folder):
    """What a build made, without the words that say how."""
    head = json.loads((folder / "vocabulary.json").read_text())
    return head["hash"], (folder / "genes.tsv").read_bytes(), head["provenance"]["n_genes_detected"], head["provenance"]["n_columns"]


def build(folder, *sources, **options):
    out = folder / f"v{len(list(folder.iterdir()))}"
    call(build_vocab, [folder / s for s in sources], out, **options)
    return content(out)


def test_same_genes_keep_their_order_and_others_are_sorted(three):
    ab = Vocabulary.load(jobs_out(three, "a.h5ad", "b.h5ad"))
    assert list(ab.genes) == names(6) and ab.provenance["n_columns"] == 6
    abc = Vocabulary.load(jobs_out(three, "c.h5ad", "a.h5ad"))
    assert list(abc.genes) == sorted([*names(6), "ENSG00000000009"]) and abc.symbols[-1] == "NINE"
    only_c = Vocabulary.load(jobs_out(three, "c.h5ad"))
    assert only_c.symbols == ("G4", "G1", "G5", "G0", "G2", "NINE")


def jobs_out(folder, *sources):
    out = folder / ("-".join(sources) + ".v")
    call(build_vocab, [folder / s for s in sources], out)
    return out


def test_files_and_tallies_in_any_order_give_one_vocabulary(three, tiny):
    call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet")
    made = call(tally_vocab, [three / "c.h5ad", three / "b.h5ad"], three / "cb.tally.parquet")
    assert made["cells"] == 18 and made["genes"] == 7
    whole = build(three, "a.h5ad", "b.h5ad", "c.h5ad")
    for sources in (
        ("c.h5ad", "b.h5ad", "a.h5ad"),
        ("b.h5ad", "a.tally.parquet", "c.h5ad"),
        ("a.tally.parquet", "cb.tally.parquet"),
        ("cb.tally.parquet", "a.h5ad"),
    ):
        assert build(three, *sources) == whole, sources
    assert build(three, "a.tally.parquet", "b.h5ad") == build(three, "b.h5ad", "a.h5ad")
    assert build(three, "cb.tally.parquet", "a.h5ad", min_cells=15) == build(three, "a.h5ad", "b.h5ad", "c.h5ad", min_cells=15)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.lists(st.integers(0, 3), min_size=4, max_size=4), min_size=2, max_size=9), st.data())
def test_a_split_and_tallied_input_is_the_input(tmp_path_factory, cells, data):
    x = np.array(cells)
    if not x.any():
        return
    folder = tmp_path_factory.mktemp("t")
    make_adata(x).write_h5ad(folder / "all.h5ad")
    cut = data.draw(st.integers(1, len(x) - 1))
    sources = []
    for i, part in enumerate((x[:cut], x[cut:])):
        adata = make_adata(part)
        adata.obs_names = [f"{i}-{name}" for name in adata.obs_names]
        adata.write_h5ad(folder / f"{i}.h5ad")
        if part.any() and data.draw(st.booleans()):
            call(tally_vocab, [folder / f"{i}.h5ad"], folder / f"{i}.tally.parquet")
            sources.append(f"{i}.tally.parquet")
        else:
            sources.append(f"{i}.h5ad")
    assert build(folder, *data.draw(st.permutations(sources))) == build(folder, "all.h5ad")


def test_what_a_tally_holds(three):
    call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet")
    table = pq.read_table(three / "a.tally.parquet")
    x = np.random.default_rng(3).poisson(1.2, (30, 6))[:12]
    normal = (x / x.sum(1, keepdims=True) * 10_000)[x > 0]
    assert table["gene"].to_pylist() == [names(6)[j] for j in np.nonzero(x)[1]] and table["value"].to_pylist() == normal.tolist()
    facts = json.loads(pq.read_metadata(three / "a.tally.parquet").metadata[b"rankcell"])
    (digest,) = facts.pop("digests")
    assert len(bytes.fromhex(digest)) == 32
    assert facts == {
        "format": "rankcell-tally-2",
        "target_sum": 10_000.0,
        "cells": 12,
        "columns": 6,
        "gene_column": "ensembl_id",
        "ids": "",
        "built_from": [{"file": "a.h5ad", "cells": 12, "matrix": "X"}],
        "genes": [[g, f"G{i}"] for i, g in enumerate(names(6))],
    }
    v = call(build_vocab, [three / "a.tally.parquet", three / "b.h5ad"], three / "v", species="human", min_cells=2, max_len=99)
    assert v.provenance["built_from"] == [
        {"file": "a.h5ad", "cells": 12, "matrix": "X", "tally": "a.tally.parquet"},
        {"file": "b.h5ad", "cells": 8, "matrix": "X"},
    ]
    assert v.provenance["command"] == "rankcell vocab build a.tally.parquet b.h5ad -o v --species human --max-len 99 --min-cells 2"
    assert (v.species, v.max_len, v.provenance["min_cells"]) == ("human", 99, 2)


def rewrite(path, out, *, facts=None, **columns):
    """The tally `path` with other facts or columns, as those of early versions are, which hold no hash."""
    table = pq.read_table(path)
    head = json.loads(pq.read_metadata(path).metadata[b"rankcell"]) | {"format": "rankcell-tally-1"} | (facts or {})
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    pq.write_table(table.replace_schema_metadata({b"rankcell": json.dumps(head).encode()}), out)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"facts": {"target_sum": 1e6}}, VocabularyError, r"made with target_sum 1e\+06, this command takes 10000"),
        ({"facts": {"ids": "ab" * 32}}, VocabularyError, "takes Ensembl ids from a table .abababab., .*: give every tally"),
        ({"facts": {"format": "rankcell-tally-9"}}, InputError, "not a tally"),
        ({"facts": {"genes": 5}}, InputError, "not a tally"),
        ({"facts": {"digests": []}}, InputError, "not a tally"),
        ({"value": [0.0]}, InputError, "not above zero"),
        ({"value": [float("nan")]}, InputError, "not above zero"),
        ({"value": ["much"]}, InputError, "cannot be read to its end"),
        ({"gene": ["ENSG99999999999"]}, InputError, "cannot be read to its end"),
    ],
)
def test_tallies_that_do_not_fit(three, change, error, message):
    call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet")
    n = open_tally(three / "a.tally.parquet").rows
    change = {k: v if k == "facts" else pa.array(v * n) for k, v in change.items()}
    rewrite(three / "a.tally.parquet", three / "bad.parquet", **change)
    with pytest.raises(error, match=message) as e:
        call(build_vocab, [three / "b.h5ad", three / "bad.parquet"], three / "v")
    assert "\n" not in str(e.value) and not (three / "v").exists()


def test_damaged_tallies(three):
    """Any byte that is not what was written; one of early versions opens as it is."""
    call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet")
    data = (three / "a.tally.parquet").read_bytes()
    for at in np.random.default_rng(0).integers(4, len(data), 40):
        (three / "bad.parquet").write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        with pytest.raises(InputError, match=r"bad\.parquet (is damaged|is not a readable|is a parquet file but not a tally)") as e:
            open_tally(three / "bad.parquet")
        assert "\n" not in str(e.value)
    rewrite(three / "a.tally.parquet", three / "early.parquet")
    assert open_tally(three / "early.parquet").rows == open_tally(three / "a.tally.parquet").rows


def test_files_that_are_no_tallies(three):
    (three / "text.parquet").write_text("gene,value\n")
    pq.write_table(pa.table({"gene": ["x"]}), three / "other.parquet")
    call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet")
    (three / "cut.parquet").write_bytes((three / "a.tally.parquet").read_bytes()[:-40])
    (three / "folder.parquet").mkdir()
    for name, message in {
        "text.parquet": "not a readable parquet file",
        "other.parquet": "not a tally: make one of counts with 'rankcell vocab tally'",
        "cut.parquet": "not a readable parquet file",
        "folder.parquet": "is a folder",
        "none.parquet": "no such file",
    }.items():
        with pytest.raises(InputError, match=message) as e:
            call(build_vocab, [three / name], three / "v")
        assert "\n" not in str(e.value)


def test_tables_of_ids_must_agree(three):
    (three / "ids.tsv").write_text("symbol\tensembl_id\nG0\tENSG00000000077\n")
    (three / "other.tsv").write_text("symbol\tensembl_id\nG0\tENSG00000000078\n")
    call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet", ids=three / "ids.tsv")
    whole = build(three, "a.h5ad", "b.h5ad", ids=three / "ids.tsv")
    assert build(three, "b.h5ad", "a.tally.parquet", ids=three / "ids.tsv") == whole and b"ENSG00000000077\tG0" in whole[1]
    assert build(three, "a.tally.parquet")[2] == 6  # alone it needs no table
    for options in ({}, {"ids": three / "other.tsv"}):
        with pytest.raises(VocabularyError, match="give every tally and this command the same ids"):
            build(three, "b.h5ad", "a.tally.parquet", **options)
    with pytest.raises(VocabularyError, match="the same ids"):
        build(three, "a.tally.parquet", ids=three / "other.tsv")


def test_writing_tallies(three, monkeypatch):
    with pytest.raises(SettingsError, match=r"out\.tally does not end in \.parquet, .*: name it out\.tally\.parquet"):
        call(tally_vocab, [three / "a.h5ad"], three / "out.tally")
    call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet")
    with pytest.raises(OutputError, match="force=True"):
        call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet")
    call(tally_vocab, [three / "b.h5ad"], three / "a.tally.parquet", force=True)
    assert open_tally(three / "a.tally.parquet").facts["cells"] == 8
    make_adata(np.zeros((2, 6))).write_h5ad(three / "empty.h5ad")
    with pytest.raises(InputError, match="no gene has a count"):
        call(tally_vocab, [three / "empty.h5ad"], three / "empty.tally.parquet")
    assert not [p for p in os.listdir(three) if "part" in p or p.startswith("empty.tally")]


def test_files_that_name_genes_in_two_ways_are_refused(tmp_path):
    make_adata([[1, 2, 3]]).write_h5ad(tmp_path / "a.h5ad")
    adata = make_adata([[1, 2, 4]])
    del adata.var["ensembl_id"]
    adata.write_h5ad(tmp_path / "b.h5ad")
    with pytest.raises(
        GeneError, match=r"a\.h5ad names genes as ENSG0+ \(by 'ensembl_id'\), .*b\.h5ad as G0 \(by 'index'\): .*gene_column"
    ):
        call(build_vocab, [tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "v")
    v = call(build_vocab, [tmp_path / "a.h5ad", tmp_path / "b.h5ad"], tmp_path / "v", gene_column="index")
    assert v.genes == ("G0", "G1", "G2") and v.provenance["gene_column"] == "index"


def test_a_gene_with_two_symbols_takes_the_first_in_the_alphabet(tmp_path):
    for name, symbol, count in (("a", "ZED", 2), ("b", "ALPHA", 3)):
        adata = make_adata([[1, count]])
        adata.var_names = [symbol, "G1"]
        adata.write_h5ad(tmp_path / f"{name}.h5ad")
    assert build(tmp_path, "a.h5ad", "b.h5ad") == build(tmp_path, "b.h5ad", "a.h5ad")
    assert b"\tALPHA\t" in build(tmp_path, "a.h5ad", "b.h5ad")[1]


def test_a_file_that_changes_between_passes(three, tiny, monkeypatch):
    import rankcell.counts

    opened = []
    plain = rankcell.counts.open_at_counts

    def other(source, **options):
        opened.append(source)
        return plain(three / "b.h5ad" if len(opened) > 2 else source, **options)

    monkeypatch.setattr(rankcell.counts, "open_at_counts", other)
    with pytest.raises(InputError, match=r"a\.h5ad changed while it was read"):
        call(build_vocab, [three / "a.h5ad"], three / "v")


def test_progress_counts_cells_over_all_passes(three, tiny):
    seen = []
    v = call(build_vocab, [three / "a.h5ad", three / "b.h5ad"], three / "v", progress=lambda done, total: seen.append((done, total)))
    passes = v.provenance["passes"]
    assert passes > 2 and [d for d, _ in seen] == sorted(d for d, _ in seen) and seen[-1] == (20 * passes, 20 * passes)
    assert all(done <= total for done, total in seen)
    seen.clear()
    call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet", progress=lambda done, total: seen.append((done, total)))
    assert seen == [(12, 12)]
    seen.clear()
    call(build_vocab, [three / "a.tally.parquet"], three / "w", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] and seen[0] == (12, 24)


def test_progress_never_announces_a_total_that_shrinks(three, monkeypatch):
    seen = []
    for kept in (0, 40, 10**6):
        monkeypatch.setattr(medians, "KEPT", kept)
        monkeypatch.setattr(medians, "BUDGET", 20)
        monkeypatch.setattr(medians, "BINS", 60)
        seen.clear()
        v = call(build_vocab, [three / "a.h5ad", three / "b.h5ad"], three / f"v{kept}", progress=lambda *tick: seen.append(tick))
        passes = v.provenance.get("passes", 1)
        totals = [total for _, total in seen]
        assert totals == sorted(totals) and seen[-1] == (20 * passes, 20 * passes) and (passes == 1) == (kept == 10**6)
        assert all(done < 20 * passes for done, _ in seen[:-1])


def twin(path, out):
    """The same cells in another file: X dense."""
    import anndata as ad

    adata = ad.read_h5ad(path)
    adata.X = adata.X.toarray()
    adata.write_h5ad(out)


def test_the_same_cells_twice_are_refused(three, tiny, capsys):
    call(tally_vocab, [three / "a.h5ad", three / "b.h5ad"], three / "ab.tally.parquet")
    call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet")
    twin(three / "a.h5ad", three / "twin.h5ad")
    for one, other in (("a.h5ad", "a.tally.parquet"), ("ab.tally.parquet", "a.h5ad"), ("a.tally.parquet", "ab.tally.parquet")):
        for pair in ((one, other), (other, one)):
            assert main(["vocab", "build", *(str(three / p) for p in pair), "-o", str(three / "v")]) == 2
            said = capsys.readouterr().err
            assert said.count("\n") == 1 and "hold the same cells, which would count twice" in said
            assert f"{three / one} " in said and f"{three / other} " in said and (one, other)[0] in said
            assert ("(made of a.h5ad)" in said) == any("tally" in p for p in pair)
    for verb, out in ((build_vocab, "v"), (tally_vocab, "t.parquet")):
        with pytest.raises(InputError, match=r"a\.h5ad and .*twin\.h5ad hold the same cells"):
            verb([three / "a.h5ad", three / "twin.h5ad"], three / out)
        assert not (three / out).exists()
    assert build(three, "b.h5ad", "twin.h5ad") == build(three, "ab.tally.parquet")


def test_the_same_ids_are_not_the_same_cells(tmp_path):
    """Barcodes, and row numbers in place of ids, come again in other files."""
    for name, x in (("a", [[1, 2], [3, 4]]), ("b", [[2, 1], [4, 5]]), ("c", [[1, 2, 0], [3, 4, 0]])):
        make_adata(x).write_h5ad(tmp_path / f"{name}.h5ad")
    assert len(Vocabulary.load(jobs_out(tmp_path, "a.h5ad", "b.h5ad", "c.h5ad"))) == 2


def test_the_digest_does_not_depend_on_blocks():
    from rankcell.vocab.tally import CellsDigest

    ids, totals = pa.array([f"c{i}" for i in range(70_000)]), np.arange(70_000)
    whole, parts, other = CellsDigest(ids, 3), CellsDigest(ids, 3), CellsDigest(ids, 4)
    whole.add(totals)
    other.add(totals)
    for start in range(0, 70_000, 999):
        parts.add(totals[start : start + 999].astype(np.float32))
    assert whole.value() == parts.value() != other.value()


def test_folders_and_patterns(three, capsys, monkeypatch):
    whole = build(three, "a.h5ad", "b.h5ad", "c.h5ad")
    (three / "in").mkdir()
    for name in "ab":
        os.rename(three / f"{name}.h5ad", three / "in" / f"{name}.h5ad")
    call(tally_vocab, [three / "c.h5ad"], three / "in" / "c.tally.parquet")
    assert call(tally_vocab, str(three / "in" / "*.h5ad"), three / "ab.tally.parquet")["cells"] == 20
    call(build_vocab, [three / "in"], three / "only")
    assert [f["file"] for f in Vocabulary.load(three / "only").provenance["built_from"]] == ["a.h5ad", "b.h5ad"]  # tallies are named
    for sources in (["in", "c.h5ad"], ["c.h5ad", "in"], ["in/*"], ["in/*.parquet", "in"], ["c.h5ad", "ab.tally.parquet"]):
        assert build(three, *sources) == whole, sources
    monkeypatch.chdir(three)
    assert main(["vocab", "build", "in/", "in/*.parquet", "-o", "w"]) == 0
    assert Vocabulary.load("w").provenance["command"] == "rankcell vocab build in '*.parquet' -o w"
    (three / "none").mkdir()
    capsys.readouterr()
    for sources in (["none"], ["no*.h5ad"], ["nothing.h5ad"], ["in", "in/a.h5ad"], ["w"]):
        for words in (["build", *sources, "-o", "x"], ["tally", *sources, "-o", "x.parquet"]):
            assert main(["vocab", *words]) == 2
            assert capsys.readouterr().err.count("\n") == 1
    assert not (three / "x").exists() and not (three / "x.parquet").exists()


def test_values_that_are_not_counts(three, capsys):
    """The line names an option that these verbs have."""
    make_adata([[0.5, 1]]).write_h5ad(three / "log.h5ad")
    for words in (["build", "-o", str(three / "v")], ["tally", "-o", str(three / "t.parquet")]):
        assert main(["vocab", *words, str(three / "log.h5ad")]) == 2
        said = capsys.readouterr().err
        assert "not counts" in said and "--layer" not in said and "or --allow-non-counts to" in said and said.count("\n") == 1
        assert not said.rstrip().endswith(",")


def test_the_commands(three, capsys, monkeypatch):
    monkeypatch.chdir(three)
    assert main(["vocab", "tally", "a.h5ad", "b.h5ad", "-o", "ab.tally.parquet"]) == 0
    assert "ab.tally.parquet: " in capsys.readouterr().out.splitlines()[-1]
    assert main(["vocab", "build", "ab.tally.parquet", "c.h5ad", "-o", "v", "--min-cells", "3", "--species", "human"]) == 0
    assert main(["vocab", "show", "v"]) == 0
    shown = capsys.readouterr().out
    assert "    - file a.h5ad, cells 12, matrix X, tally ab.tally.parquet\n" in shown and "  min_cells        3\n" in shown
    assert main(["vocab", "build", "ab.tally.parquet", "ab.tally.parquet", "-o", "w"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_a_killed_tally_leaves_nothing(three, monkeypatch):
    from rankcell.vocab import tally

    class Killed(BaseException):
        pass

    def stops(blocks, columns, target_sum):
        yield np.zeros(1, np.int32), np.ones(1)
        raise Killed

    monkeypatch.setattr("rankcell.counts.vocabulary.vocabulary_parts.normalised", stops)
    with pytest.raises(Killed):
        call(tally_vocab, [three / "a.h5ad"], three / "a.tally.parquet")
    assert sorted(os.listdir(three)) == ["a.h5ad", "b.h5ad", "c.h5ad"] and tally.is_tally("x.parquet")


def test_blocks_need_not_know_their_length(tiny):
    """Only indptr, indices, data and n_counts are asked for."""
    (block,) = blocks_of([[1, 3]])
    Bare = dataclasses.make_dataclass("Bare", ["indptr", "indices", "data", "n_counts"])
    bare = Bare(block.indptr, block.indices, block.data, block.n_counts)
    assert build_vocabulary([bare], names(2), name="v").medians.tolist() == [2500, 7500]
