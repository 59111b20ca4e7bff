"""Pickles made to do harm: each is refused in one line, nothing of it runs, and it costs little time and memory."""

import codecs
import contextlib
import functools
import importlib
import io
import operator
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
from builders import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from rankcell.errors import VocabularyError
from rankcell.vocab import import_geneformer, plain_pickle
from rankcell.vocab.importer import read_plain_pickle
from rankcell.vocab.plain_pickle import RefusedError, read_plain_dict

GOOD = {"<pad>": np.int16(0), "<mask>": 1, "ENSG00000000001": np.float64(2), "ENSG00000000002": 3.0, "name": np.str_("é"), "raw": b"x"}
PLAIN = {"<pad>": 0, "<mask>": 1, "ENSG00000000001": 2.0, "ENSG00000000002": 3.0, "name": "é", "raw": b"x"}


class Calls:
    """Pickles to a call of `function` with `arguments`, then to what else __reduce_ex__ may name (a state, items, ...)."""

    def __init__(self, function, *arguments, more=()):
        self.call = (function, arguments, *more)

    def __reduce_ex__(self, protocol):
        return self.call


def text(value):
    """BINUNICODE of a string."""
    raw = value.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def named(module, name):
    return text(module) + text(name) + b"\x93"


def runs(canary):
    """Pickles that make the file `canary` when a plain unpickler loads them."""
    code, touch = f"open({str(canary)!r}, 'w').close()", f"touch {canary}"
    yield "os.system", Calls(os.system, touch)
    yield "eval", Calls(eval, code)
    yield "exec", Calls(exec, code)
    yield "subprocess.Popen", Calls(subprocess.Popen, ["touch", str(canary)])
    yield "subprocess.call", Calls(subprocess.call, ["touch", str(canary)])
    yield "functools.partial", Calls(functools.partial(os.system, touch))
    yield "open", Calls(open, str(canary), "w")
    yield "numpy array of objects", np.array([Calls(os.system, touch)], dtype=object)
    yield "state of a scalar", Calls(np.dtype, "f8", more=(Calls(os.system, touch),))
    yield "items of a dict", Calls(dict, more=(None, None, iter([("a", Calls(os.system, touch))])))
    yield "items of a list", Calls(list, more=(None, iter([Calls(os.system, touch)])))


def wrapped(payload):
    """The payload where a dictionary could hold it."""
    yield payload
    yield {"<pad>": payload}
    yield {"<pad>": 0, "a": (1, payload)}
    yield {"a": {"b": [payload]}}


def refused(path, content):
    """The message with which `content` is refused as a dictionary."""
    path.write_bytes(content)
    with pytest.raises(VocabularyError) as e:
        read_plain_pickle(path)
    assert "\n" not in str(e.value) and path.name in str(e.value) and len(str(e.value)) < 500
    return str(e.value)


@pytest.mark.parametrize("protocol", range(6))
def test_what_would_run_does_not(tmp_path, protocol):
    canary = tmp_path / "ran"
    for what, payload in runs(canary):
        for content in wrapped(payload):
            try:
                raw = pickle.dumps(content, protocol)
            except TypeError:  # an iterator that was used up by the dump before
                continue
            refused(tmp_path / "t.pkl", raw)
            assert not canary.exists(), what


def test_these_pickles_would_run(tmp_path):
    """The payloads mean something: a plain unpickler runs every one of them."""
    canary = tmp_path / "ran"
    for what, payload in runs(canary):
        result = None
        with contextlib.suppress(TypeError, AttributeError, ValueError):  # after it ran: what it gave back does not fit
            result = pickle.loads(pickle.dumps({"<pad>": payload}))
        value = (result or {}).get("<pad>")
        if isinstance(value, subprocess.Popen):
            value.wait()
        if isinstance(value, io.IOBase):
            value.close()
        assert canary.exists(), what
        canary.unlink()


@pytest.mark.parametrize(
    "function",
    [
        *(eval, exec, getattr, setattr, compile, __import__, open, print, vars, globals, map, filter, type, object, bytes, bytearray),
        *(operator.attrgetter, operator.methodcaller, operator.itemgetter, functools.partial, functools.reduce, subprocess.Popen),
        *(importlib.import_module, codecs.decode, codecs.lookup, os.system, os.remove, np.load, np.fromfile, np.memmap),
        *(np.save, np.array, np.frombuffer, np.ndarray, np.dtypes.StringDType, pickle.loads, io.BytesIO, io.FileIO, np.random.default_rng),
        *(list, set, np.float64, np.int64, bool, int, str, float, dict, tuple, complex, slice, range),
    ],
)
def test_no_function_is_called_by_name(tmp_path, function):
    for arguments in ((), ("x",), ("rot13", "x")):
        for protocol in (0, 2, 4):
            raw = pickle.dumps({"a": Calls(function, *arguments)}, protocol)
            assert "nothing of it was run: it asks for" in refused(tmp_path / "t.pkl", raw)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("numpy", "core.os.system"),
        ("numpy", "dtype.__class__"),
        ("numpy", "dtype.type.__subclasses__"),
        ("numpy.core.multiarray", "scalar.__globals__"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core", "multiarray.scalar"),
        ("collections", "OrderedDict.__init__.__globals__"),
        ("collections", "namedtuple"),
        ("_codecs", "encode.__self__"),
        ("_codecs", "decode"),
        ("codecs", "encode"),
        ("numpy dtype", ""),
        ("", "numpy dtype"),
        ("numpy.core.multiarray", "scalar "),
        ("__main__", "x"),
        ("rankcell.vocab.importer", "os"),
        ("numpy\ncore", "dtype"),
        ("x" * 100_000, "y"),
    ],
)
def test_names_with_dots_and_others(tmp_path, module, name):
    for content in (named(module, name) + b".", b"}" + text("a") + named(module, name) + b")Rs.", named(module, name) + b")\x81."):
        assert "it asks for" in refused(tmp_path / "t.pkl", b"\x80\x04" + content)
    refused(tmp_path / "t.pkl", f"c{module}\n{name}\n.".encode())


def test_known_names_with_other_arguments(tmp_path):
    dtype, scalar = named("numpy", "dtype"), named("numpy.core.multiarray", "scalar")
    encode, ordered = named("_codecs", "encode"), named("collections", "OrderedDict")
    f8 = dtype + text("f8") + b"\x85R"
    for content in (
        dtype + text("O") + b"\x85R",
        dtype + text("O8") + b"\x85R",
        dtype + text("V8") + b"\x85R",
        dtype + text("M8[ns]") + b"\x85R",
        dtype + text("f8,O") + b"\x85R",
        dtype + text("U999999999") + b"\x85R",
        dtype + text("U0") + b"\x85R",
        dtype + b")R",
        dtype + b"K\x01\x85R",
        dtype + ordered + b"\x85R",
        scalar + b")R",
        scalar + f8 + b"\x85R",
        scalar + f8 + b"C\x07" + b"1234567" + b"\x86R",
        scalar + f8 + b"C\x00\x86R",
        scalar + f8 + text("12345678") + b"\x86R",
        scalar + text("f8") + b"C\x08" + b"12345678" + b"\x86R",
        scalar + dtype + text("U1") + b"\x85R" + b"C\x04\xff\xff\xff\xff\x86R",  # no character
        scalar + dtype + text("U1") + b"\x85R" + b"C\x04\x00\xd8\x00\x00\x86R",  # half of a pair
        encode + text("x") + text("rot13") + b"\x86R",
        encode + text("x") + b"\x85R",
        encode + text("中") + text("latin1") + b"\x86R",
        encode + b"C\x01x" + text("latin1") + b"\x86R",
        ordered + b"K\x01\x85R",
        ordered + b"}R",
        ordered + ordered + b"R",
        f8 + b"}b",  # a state that is none
        f8 + b"K\x03" + text("!") + b"\x86b",
        ordered + b")R}b",  # a state for a dict
        b"}}b",
        b"K\x01}b",
        f8,
        dtype,
    ):
        for outer in (content + b".", b"}" + text("a") + content + b"s."):
            refused(tmp_path / "t.pkl", b"\x80\x04" + outer)


@pytest.mark.parametrize(
    ("what", "content"),
    [
        ("EXT1", b"\x82\x01"),
        ("EXT2", b"\x83\x01\x00"),
        ("EXT4", b"\x84\x01\x00\x00\x00"),
        ("INST", b"(ios\nsystem\n"),
        ("OBJ", b"(" + named("os", "system") + text("true") + b"o"),
        ("NEWOBJ", named("collections", "OrderedDict") + b")\x81"),
        ("NEWOBJ_EX", named("collections", "OrderedDict") + b")}\x92"),
        ("PERSID", b"Pfile\n"),
        ("BINPERSID", text("file") + b"Q"),
        ("NEXT_BUFFER", b"\x97"),
        ("READONLY_BUFFER", b"\x97\x98"),
        ("BYTEARRAY8", b"\x96" + struct.pack("<Q", 1) + b"x"),
        ("EMPTY_SET", b"\x8f"),
        ("FROZENSET", b"(\x91"),
        ("ADDITEMS", b"\x8f(K\x01\x90"),
        ("EMPTY_LIST", b"]"),
        ("LIST", b"(l"),
        ("APPEND", b"]K\x01a"),
        ("POP", b"K\x01K\x020"),
        ("POP_MARK", b"}(1"),
        ("DUP", b"}2"),
        ("STRING", b"S'x'\n"),
        ("LONG4", b"\x8b" + struct.pack("<i", 1) + b"x"),
        ("BINBYTES8", b"\x8e" + struct.pack("<Q", 1) + b"x"),
        ("BINUNICODE8", b"\x8d" + struct.pack("<Q", 1) + b"x"),
        ("unknown", b"\xff"),
        ("a number", b"K\x01"),
        ("a string", text("x")),
        ("None", b"N"),
        ("a tuple", b")"),
        ("two values", b"}}"),
        ("a mark", b"("),
        ("a mark in a tuple", b"(\x85"),
        ("a mark as a value", b"}" + text("a") + b"(s"),
        ("nothing", b""),
        ("a reference to nothing", b"h\x07"),
        ("a reference to nothing, text", b"g7\n"),
        ("a memory of nothing", b"q\x00"),
        ("an odd number of entries", b"}(" + text("a") + b"u"),
        ("entries without a mark", b"}" + text("a") + b"u"),
        ("entries of a number", b"K\x01" + text("a") + b"K\x01s"),
        ("entries of nothing", text("a") + b"K\x01s"),
        ("a call of a value", b"K\x01)R"),
        ("a call with no tuple", named("numpy", "dtype") + b"}R"),
        ("a dict as a key", b"}}K\x01s"),
        ("a tuple as a key", b"})K\x01s"),
        ("a dict as a value", b"}" + text("a") + b"}s"),
        ("a dict in itself", b"}q\x00" + text("a") + b"h\x00s"),
        ("a tuple as a value", b"}" + text("a") + b")s"),
        ("a huge protocol", b"\x80\xff"),
    ],
)
def test_instructions_that_no_dictionary_needs(tmp_path, what, content):
    for raw in (content + b".", b"\x80\x04" + content + b"."):
        refused(tmp_path / "t.pkl", raw)


# Sizes that are claims, and things that grow

HUGE = {
    "BINBYTES8": b"\x8e" + struct.pack("<Q", 2**62),
    "BINBYTES8, most": b"\x8e" + b"\xff" * 8,
    "BINUNICODE8": b"\x8d" + struct.pack("<Q", 2**62),
    "BYTEARRAY8": b"\x96" + struct.pack("<Q", 2**62),
    "BINBYTES": b"B" + b"\xff" * 4,
    "BINUNICODE": b"X" + b"\xff" * 4,
    "LONG4": b"\x8b" + struct.pack("<i", 2**31 - 1),
    "LONG4, negative": b"\x8b" + struct.pack("<i", -5),
    "BINSTRING": b"T" + struct.pack("<i", 2**31 - 1),
    "BINSTRING, negative": b"T" + struct.pack("<i", -5),
    "FRAME": b"\x95" + b"\xff" * 8,
    "FRAME before an entry": b"\x95" + struct.pack("<Q", 2**40) + b"}" + text("a") + b"s.",
    "LONG_BINPUT": b"}r\xff\xff\xff\xff.",
    "PUT": b"}p" + b"9" * 4000 + b"\n.",
    "PUT, negative": b"}p-1\n.",
    "INT of many digits": b"}" + text("a") + b"I" + b"9" * 5_000_000 + b"\ns.",
    "LONG of many digits": b"}" + text("a") + b"L" + b"9" * 5_000_000 + b"L\ns.",
    "FLOAT of many digits": b"}" + text("a") + b"F" + b"9" * 5_000_000 + b"\ns",
    "LONG1 of 255 bytes": b"}" + text("a") + b"\x8a\xff" + b"\x7f" * 255 + b"s.",
    "LONG4 of megabytes": b"}" + text("a") + b"\x8b" + struct.pack("<i", 5_000_000) + b"\x7f" * 5_000_000 + b"s.",
    "many huge numbers": b"}(" + b"".join(text(f"k{i}") + b"\x8a\xff" + b"\x7f" * 255 for i in range(1000)) + b"u.",
    "nested lists": b"]" * 1_000_000 + b"a" * 999_999 + b".",
    "nested tuples": b")" + b"\x85" * 1_000_000 + b".",
    "nested dicts": (b"}" + text("a")) * 300_000 + b"N" + b"s" * 300_000 + b".",
    "marks": b"(" * 5_000_000 + b".",
    "dicts": b"}" * 5_000_000 + b".",
    "held for later": b"}" + b"\x94" * 5_000_000 + b".",
    "held in twos": b"}" + b"".join(b"r" + struct.pack("<I", i * 7) for i in range(2_100_000)) + b".",
    "nothing at all": b"}" + b"\x95" + b"\0" * 8 + (b"\x80\x04" * 9_000_000) + b".",
    "laughs, tuples": b"X\x03\x00\x00\x00lol\x94" + b"".join(b"(" + b"h" + bytes([i]) * 1 + b"h" + bytes([i]) + b"t\x94" for i in range(60)) + b".",
    "laughs, as a key": b"})\x94" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(100)) + b"K\x01s.",
    "laughs, lists": b"](" + text("lol") * 10 + b"e\x94" + b"".join(b"](" + (b"h" + bytes([i])) * 10 + b"e\x94" for i in range(20)) + b".",
    "laughs, in a dict": b"}" + text("a") + text("lol") + b"\x94" + b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(99)) + b"s.",
}  # fmt: skip


@pytest.mark.parametrize("what", HUGE)
def test_claims_and_growth_cost_little(tmp_path, what):
    start = time.process_time()
    refused(tmp_path / "t.pkl", b"\x80\x04" + HUGE[what])
    assert time.process_time() - start < 30  # the largest takes seconds; what it guards against takes for ever


def test_memory_stays_bounded(tmp_path):
    """All of the above in a process that may take little more than it has: an allocation by a claimed size would fail."""
    for i, content in enumerate(HUGE.values()):
        (tmp_path / f"{i}.pkl").write_bytes(b"\x80\x04" + content)
    script = """
        import pathlib, resource, sys
        from rankcell.errors import VocabularyError
        from rankcell.vocab.importer import read_plain_pickle
        pages = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (pages + 700 * 2**20, resource.RLIM_INFINITY))
        for path in sorted(pathlib.Path(sys.argv[1]).glob("*.pkl")):
            try:
                read_plain_pickle(path)
                print("taken", path)
            except VocabularyError as e:
                print("refused")
            except MemoryError:
                print("memory", path)
    """
    if not os.path.exists("/proc/self/statm"):
        pytest.skip("needs /proc to say how much memory the process has already")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True, timeout=600, check=False, cwd=ROOT
    )
    assert done.stdout.split("\n") == ["refused"] * len(HUGE) + [""], done.stdout + done.stderr[-2000:]


def test_a_file_larger_than_any_dictionary_is_not_read(tmp_path):
    with open(tmp_path / "t.pkl", "wb") as f:
        f.truncate(plain_pickle.LARGEST + 1)
    with pytest.raises(VocabularyError, match=r"t\.pkl has 33,554,433 bytes; a gene dictionary has at most 33,554,432"):
        read_plain_pickle(tmp_path / "t.pkl")


# Broken files


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 5), st.integers(0, 10**6), st.binary(min_size=1, max_size=12))
def test_cut_short_and_with_something_behind(protocol, at, behind):
    raw = pickle.dumps(GOOD, protocol)
    with pytest.raises((ValueError, RefusedError)):
        read_plain_dict(raw[: at % len(raw)])
    with pytest.raises(RefusedError, match=rf"{len(behind)} bytes after its end"):
        read_plain_dict(raw + behind)
    assert read_plain_dict(raw) == PLAIN


@settings(deadline=None, max_examples=400)
@given(st.integers(0, 5), st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=3))
def test_changed_bytes_are_read_or_refused(protocol, changes):
    raw = bytearray(pickle.dumps(GOOD, protocol))
    for at, byte in changes:
        raw[at % len(raw)] = byte
    try:
        content = read_plain_dict(bytes(raw))
    except (ValueError, OverflowError, RefusedError):
        return
    assert isinstance(content, dict)
    for value in [*content, *content.values()]:
        assert value is None or type(value) in (str, int, float, bool, bytes)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw):
    with contextlib.suppress(ValueError, OverflowError, RefusedError):
        assert isinstance(read_plain_dict(b"\x80\x04}" + raw), dict)


scalars = (
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | st.text(max_size=5) | st.binary(max_size=5)
)


@settings(deadline=None, max_examples=150)
@given(
    st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=8), scalars, max_size=9), st.integers(0, 5), st.booleans()
)
def test_every_plain_dictionary_is_what_pickle_reads(content, protocol, optimized):
    raw = pickle.dumps(content, protocol)
    raw = pickletools.optimize(raw) if optimized else raw
    if protocol < 3 and b"" in content.values():
        return  # spelt by a call of bytes() there
    assert read_plain_dict(raw) == pickle.loads(raw) == content


@pytest.mark.parametrize("protocol", range(6))
def test_numbers_of_numpy(protocol):
    kinds = ["?", "i1", "<i2", ">i2", "<i4", ">i8", "u1", "<u2", ">u4", "u8", "<f2", ">f2", "<f4", ">f8", "<U3", ">U3"]
    content = {k: np.array(["abc" if "U" in k else 1], k)[0] for k in kinds}
    read = read_plain_dict(pickle.dumps(content, protocol))
    assert read == {k: v.item() for k, v in content.items()}
    assert {type(v) for v in read.values()} == {bool, int, float, str}


def test_a_large_dictionary_in_batches():
    content = {f"ENSG{i:011d}": np.float64(i) for i in range(50_000)}
    for protocol in (2, 4):
        assert read_plain_dict(pickle.dumps(content, protocol)) == content


def test_other_files(tmp_path):
    assert "is a folder" in refuses(tmp_path)
    (tmp_path / "empty.pkl").touch()
    assert "it is empty" in refuses(tmp_path / "empty.pkl")
    (tmp_path / "table.tsv").write_text("gene\ttoken\nA\t1\n")
    refuses(tmp_path / "table.tsv")
    np.savez(tmp_path / "x.npz", a=[1])
    refuses(tmp_path / "x.npz")
    os.mkfifo(tmp_path / "pipe")
    assert "no file" in refuses(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert "no file" in refuses(tmp_path / "link")
    if os.geteuid():
        (tmp_path / "closed.pkl").write_bytes(pickle.dumps(GOOD))
        (tmp_path / "closed.pkl").chmod(0)
        assert "cannot be read: Permission denied" in refuses(tmp_path / "closed.pkl")


def refuses(path):
    with pytest.raises(VocabularyError) as e:
        read_plain_pickle(path)
    assert "\n" not in str(e.value)
    return str(e.value)


def test_messages_stay_short_whatever_the_names(tmp_path):
    long = "x" * 1_000_000
    for tokens, medians in (
        ({"<pad>": 0, f"<{long}>": 1}, {"A": 1.0}),
        ({"<pad>": 0, long: 1}, {"A": 1.0}),
        ({"<pad>": 0, "A": long}, {"A": 1.0}),
        ({"<pad>": 0, long: None}, {"A": 1.0}),
        ({"<pad>": 0, "A": 1}, {"A": long}),
    ):
        (tmp_path / "t.pkl").write_bytes(pickle.dumps(tokens))
        (tmp_path / "m.pkl").write_bytes(pickle.dumps(medians))
        with pytest.raises(VocabularyError) as e:
            import_geneformer(tmp_path / "t.pkl", tmp_path / "m.pkl")
        assert len(str(e.value)) < 500


def test_the_real_dictionaries_are_what_pickle_reads(geneformer_v1):
    for path in geneformer_v1.glob("*.pkl"):
        assert read_plain_pickle(path) == pickle.loads(path.read_bytes())
