"""Text files of the user's: one reader, whatever program saved them."""

import gzip
import json

import pytest

from rankcell.errors import InputError, RankcellError, VocabularyError
from rankcell.perturb.edits.gene_lists import named_genes, named_sets
from rankcell.perturb.run.start_cells import parse_cell_ids
from rankcell.store import read_json, read_lines, read_text

GENES = ["CD3D", "MS4A1", "HLA-DRA"]
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_list_reads_the_same_from_every_program(tmp_path, encoding, end):
    path = tmp_path / "genes.txt"
    path.write_bytes((end.join(GENES) + end).encode(encoding))
    assert read_lines(path) == GENES
    assert named_genes(f"@{path}") == parse_cell_ids(path) == tuple(GENES)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_sets_in_every_format_and_encoding(tmp_path, encoding):
    texts = {
        "s.tsv": "".join(f"S\t{g}\n" for g in GENES),
        "s.gmt": "S\tno url\t" + "\t".join(GENES) + "\n",
        "s.json": json.dumps({"S": GENES}),
    }
    for name, text in texts.items():
        (tmp_path / name).write_bytes(text.encode(encoding))
        assert named_sets(tmp_path / name) == {"S": GENES}, name


def test_big_endian_by_its_mark_and_gzip(tmp_path):
    path = tmp_path / "genes.txt"
    path.write_bytes(b"\xfe\xff" + "\n".join(GENES).encode("utf-16-be"))
    assert read_lines(path) == GENES
    packed = tmp_path / "genes.txt.gz"
    packed.write_bytes(gzip.compress("\n".join(GENES).encode("utf-8-sig")))
    assert read_lines(packed) == GENES
    (tmp_path / "c.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(tmp_path / "c.json") == {}


def test_only_line_ends_end_lines(tmp_path):
    path = tmp_path / "ids.txt"
    path.write_text("a\x0bb\nc\u2028d\n\n", encoding="utf-8")
    assert read_lines(path) == ["a\x0bb", "c\u2028d", ""]


@pytest.mark.parametrize(
    ("data", "fact"),
    [
        ("Bäckerei\n".encode("latin-1"), "Latin-1"),
        ("“quoted”\n".encode("cp1252"), "Windows-1252"),
        ("CD3D\nMS4A1\n".encode("utf-16-le"), "UTF-16 (little-endian) without a byte-order mark"),
        ("CD3D\nMS4A1\n".encode("utf-16-be"), "UTF-16 (big-endian) without a byte-order mark"),
        (b"PK\x03\x04rest of a sheet", "zip archive"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "Excel"),
        (b"\x1f\x8b\x08\x00broken", "gzip"),
        (b"\x89HDF\r\n\x1a\n", "HDF5"),
        (b"CD3D\x00\xff\xfe", "binary"),
        (b"\xff\xfeC", "UTF-16"),
        (b"CD3D\0MS4A1", "NUL"),
    ],
)
def test_what_is_no_text_is_refused_by_name(tmp_path, data, fact):
    path = tmp_path / "genes.txt"
    path.write_bytes(data)
    for read in (read_text, parse_cell_ids, named_sets, lambda p: named_genes(f"@{p}")):
        with pytest.raises(InputError) as refusal:
            read(path)
        assert fact in str(refusal.value) and str(path) in str(refusal.value) and "\n" not in str(refusal.value)


def test_nothing_and_folders_are_refused(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(InputError, match="no such file|not a file"):
            read_text(path, "a list")


def test_tables_of_ids_and_states_and_cells(tmp_path):
    from rankcell.perturb.exact.states import read_states
    from rankcell.stats.ranked_tables import read_table
    from rankcell.vocab.catalog import read_ids

    for encoding in ENCODINGS:
        (tmp_path / "ids.tsv").write_bytes("symbol\tensembl_id\nA\tENSG1\n".encode(encoding))
        assert read_ids(tmp_path / "ids.tsv") == {"A": "ENSG1"}
        (tmp_path / "states.csv").write_bytes("state,readout,a,b\nB,cell,1,2\n".encode(encoding))
        assert read_states(tmp_path / "states.csv").names == ["B"]
        (tmp_path / "cells.csv").write_bytes("cell_id,donor\nc1,d\n".encode(encoding))
        assert list(read_table(tmp_path / "cells.csv")) == ["cell_id", "donor"]
    for name, read in (("ids.tsv", read_ids), ("states.csv", read_states), ("cells.csv", read_table)):
        (tmp_path / name).write_bytes("é\n".encode("latin-1"))
        with pytest.raises(RankcellError, match="Latin-1"):
            read(tmp_path / name)


def test_a_vocabulary_saved_by_a_spreadsheet(tmp_path):
    from rankcell.vocab import Vocabulary

    special = {"<pad>": 0, "<mask>": 1}
    vocab = Vocabulary(name="v", genes=["ENSG1", "ENSG2"], tokens=[2, 3], medians=[1.0, 2.0], special=special)
    vocab.save(tmp_path / "v")
    genes = tmp_path / "v" / "genes.tsv"
    genes.write_bytes(genes.read_text().replace("\n", "\r\n").encode("utf-16"))
    assert Vocabulary.load(tmp_path / "v").hash == vocab.hash
    genes.write_bytes("é".encode("latin-1"))
    with pytest.raises(VocabularyError, match="Latin-1"):
        Vocabulary.load(tmp_path / "v")
