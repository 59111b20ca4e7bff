"""The tables of small runs stay what they are: to the byte on a machine like one that is recorded, to rounding everywhere.

`python tests/house/test_bytes.py --record` adds this machine to tests/house/bytes.json, once its tables agree with the recorded ones to rounding;
`--anew` as well records all tables and the flags (tests/house/flags.txt) as they are now.
"""

import contextlib
import csv
import hashlib
import io
import json
import os
import pathlib
import platform
import re
import sys
import tempfile
import warnings

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from builders import ROOT, make_adata, make_checkpoint, make_vocab
from flat_options import call, run_screen

from rankcell.cli import main
from rankcell.errors import RankcellWarning

RECORD, FLAGS = pathlib.Path(__file__).with_name("bytes.json"), pathlib.Path(__file__).with_name("flags.txt")
N_GENES, N_CELLS, LONGEST = 48, 12, 36
FIXED = ["--device", "cpu", "--precision", "fp32"]
POOLS = ("mean", "max", "min", "std", "var", "median", "norm", "parti", "mean_all", "first", "position0", "mean+std")
UNSTABLE = re.compile("version|hash|model|threads|path|folder|source|device|attention|products|screen$")  # keys left out of metadata


# The runs: name -> words of the command line; {x} is the output of the run x, or a file of `write_inputs`

TOKENS = {
    "tokens cls": "{counts.h5ad} --vocab {cls/vocabulary} --obs kind --obs donor --obs size --obs flag",
    "tokens plain": "{counts.h5ad} --vocab {plain/vocabulary} --obs kind",
    "tokens no-cls": "{counts.h5ad} --vocab {cls/vocabulary} --no-cls --keep-counts --obs kind",
    "tokens uncropped": "{counts.h5ad} --vocab {cls/vocabulary} --keep-counts --keep-uncropped --obs kind --obs donor",
    "tokens filtered": "{counts.h5ad} --vocab {cls/vocabulary} --filter kind=='x'",
}
EMBED = {
    "embed cls": ("{tokens cls} --model {cls} --layer -1 --layer -2 --include cell,gene,gene_mean,state --by kind --pool cls", ".parquet"),
    "embed plain": ("{tokens plain} --model {plain} --layer -1 --layer -2 --include cell,gene,gene_mean,state --by kind", ".npz"),
    "embed genes": ("{tokens plain} --model {plain} --layer 0 --include gene,gene_mean,state --by kind --statistic median", ".parquet"),
    "embed half": ("{tokens cls} --model {cls} --layer -2 --dtype float16 --pool cls+mean", ".npz"),
    "embed states": ("{tokens cls} --model {cls} --include state --by kind --pool mean --pool cls", ".parquet"),
    "embed counts": ("{counts.h5ad} --model {cls}", ".parquet"),
}
EMBED_POOLS = {"embed cls", "embed plain"}  # with every pooling
SIX = "--genes G1,G2,G3,G5,G8,G13"
BOTH = "--toward kind=x --toward kind=y"
PERTURB = {
    "delete": f"{{tokens cls}} {BOTH} --distance euclidean --affected --affected-top 2 --tokens-per-unit 2000",
    "delete raw": "{tokens cls} --affected-raw --cells 3 --start kind=x --toward kind=y",
    "delete plain": "{tokens plain} --toward kind=x --affected",
    "delete counts": "{counts.h5ad} --obs donor --toward kind=x",
    "delete refill": "{tokens uncropped} --refill --toward kind=x",
    "delete last": "{tokens cls} --layer -1 --cells 4 --seed 3",
    "delete compat": f"{{tokens cls}} {SIX} --readout-compat geneformer --toward kind=x",
    "delete states": f"{{tokens cls}} {SIX} --states {{embed states}} --layer -2",
    "delete some": f"{{tokens cls}} {SIX},Nothing --skip-unknown --only {{only.txt}}",
    "delete genes": f"{{tokens cls}} {SIX} --readout genes",
    "delete cell": f"{{tokens cls}} {SIX} --readout cell --toward kind=y",
    "delete cls": f"{{tokens cls}} {SIX} --readout cls --toward kind=y",
    "delete group": "{tokens cls} --genes G1,G2 --group",
    "delete any": "{tokens cls} --genes G1,G2,G3,G5 --group --any --toward kind=x",
    "delete pairs": f"{{tokens cls}} {SIX} --pairs --toward kind=x --affected",
    "delete anchor": f"{{tokens cls}} {SIX} --anchor G4",
    "delete sets": "{tokens cls} --sets {sets.gmt} --any --toward kind=x",
    "overexpress": f"{{tokens cls}} {SIX} --kind overexpress --toward kind=x --affected",
    "overexpress plain": f"{{tokens plain}} {SIX} --kind overexpress --toward kind=x",
    "inhibit": f"{{tokens cls}} {SIX} --kind inhibit --quarters 2 --toward kind=x",
    "activate": f"{{tokens cls}} {SIX} --kind activate",
    "mask": f"{{tokens cls}} {SIX} --kind mask --toward kind=x --affected-top 3",
    "move": f"{{tokens cls}} {SIX} --kind move --to-rank 3 --distance euclidean",
}
QUICK = "--method fast --splits 6 --projections 2 --readout cell"  # so that predicting pays in cells this small
FAST = {
    "fast delete": "{tokens cls} --method fast --splits 6 --projections 2 --toward kind=x --verify-top 3 --verify-screen 7 --tokens-per-unit 2000",
    "fast plain": f"{{tokens plain}} {QUICK} --toward kind=x",
    "fast toward": "{tokens cls} --method fast --projections 0 --splits 8 --toward kind=y --readout cls,cell --audit 0.1",
    "fast overexpress": f"{{tokens cls}} {QUICK} --kind overexpress --toward kind=x",
    "fast inhibit": f"{{tokens cls}} {QUICK} --kind inhibit --toward kind=x",
    "fast activate": f"{{tokens cls}} {QUICK} --kind activate --quarters 2 --toward kind=x",
    "fast mask": f"{{tokens cls}} {QUICK} --kind mask --toward kind=x",
    "fast move": f"{{tokens cls}} {QUICK} --kind move --to-rank 3 --toward kind=x",
    "fast epistasis": f"{{tokens cls}} {QUICK} --toward kind=x --epistasis 6 --verify-pairs 3",
    "fast pairs": f"{{tokens cls}} {QUICK} --toward kind=x --genes {','.join(f'G{i}' for i in range(20))} --pairs",
    "fast anchor": f"{{tokens cls}} {QUICK} --toward kind=x --anchor G4",
}
STATS = {
    "stats matched": ("{delete}", ".parquet"),
    "stats score": ("{delete} --score toward_x_cell --seed 1", ".tsv"),
    "stats donors": ("{delete counts} --donor donor", ".csv"),
    "stats toward": ("{delete} --mode toward --mode mixture --score toward_y_cell", ".parquet"),
    "stats control": ("{delete} --mode control --controls G1,G2,G3,G5,G8", ".parquet"),
    "stats vs": ("{delete counts} --mode vs --against {delete plain}", ".parquet"),
    "stats affected": ("{delete} --mode affected --min-cells 2", ".parquet"),
    "stats fast": ("{fast delete}", ".tsv"),
    "stats compat": ("{delete group} --compat geneformer --mode aggregate_data", ".tsv"),
    "stats compat goal": ("{delete counts} --compat geneformer --mode goal_state_shift", ".tsv"),
}
TIED = ("delete raw: affected_raw.parquet", "stats affected: .parquet")  # sorted by shift or p, of which some differ in the last bits alone
PARTS = {"embed cls": 2, "delete": 3, "fast delete": 2}  # also run in parts


def write_inputs(place):
    """Counts of 12 cells, a model with CLS and one without, whose weights depend on no library's way to draw."""
    special = {"cls": ("<pad>", "<mask>", "<cls>", "<eos>"), "plain": ("<pad>", "<mask>")}
    for number, (name, tokens) in enumerate(special.items()):
        drawn = np.random.RandomState(number)
        vocab = make_vocab(N_GENES, special=tokens, medians=drawn.uniform(0.5, 2, N_GENES), max_len=LONGEST)
        _draw_weights(make_checkpoint(place / name, vocab, positions=N_GENES), drawn)
    drawn = np.random.RandomState(7)
    counts = drawn.poisson(2.5, (N_CELLS, N_GENES)) * drawn.randint(1, 90, (N_CELLS, N_GENES)) * (drawn.rand(N_CELLS, N_GENES) < 0.8)
    counts[:2, LONGEST - 8 :] = 0
    obs = dict(kind=list("xyxyxyxyxyxz"), donor=[f"d{i % 6}" for i in range(N_CELLS)])
    obs |= dict(size=drawn.rand(N_CELLS), flag=np.arange(N_CELLS) % 3 == 0)
    make_adata(counts, **obs).write_h5ad(place / "counts.h5ad")
    (place / "sets.gmt").write_text("first\tnone\tG0\tG1\nsecond\t\tENSG00000000005\tG7\tG9\n")
    (place / "only.txt").write_text("cell3\ncell1\ncell8\n")


def _draw_weights(folder, drawn):
    from safetensors.numpy import load_file, save_file

    path = folder / "model.safetensors"
    weights = load_file(path)
    for name in sorted(weights):
        values = drawn.standard_normal(weights[name].shape) * 0.3
        weights[name] = (values + ("LayerNorm.weight" in name)).astype(np.float32)
    save_file(weights, path, metadata={"format": "pt"})


def run_all(place):
    """{run: output} of all runs, and of those in parts, resumed and through Python as `<run>, <how>`."""
    write_inputs(place)
    runs = _Runs(place)
    for name, words in TOKENS.items():
        runs.command("tokenize", name, ".dataset", words)
    for name, (words, suffix) in EMBED.items():
        pools = "".join(f" --pool {p}" for p in POOLS) if name in EMBED_POOLS else ""
        runs.command("embed", name, suffix, words + pools, [*FIXED, "--tokens-per-batch", "150"])
    for name, words in (PERTURB | FAST).items():
        runs.command("perturb", name, "", words, [*runs.model_for(words), *FIXED, "--tokens-per-batch", "400"])
    for name, (words, suffix) in STATS.items():
        runs.command("stats", name, suffix, words)
    for name, n in PARTS.items():
        runs.in_parts(name, n)
    for name in ("delete", "fast delete"):
        runs.resumed(name)
    runs.through_python()
    return runs.outputs


class _Runs:
    def __init__(self, place):
        self.place, self.outputs, self.words = place, {}, {}

    def fill(self, words):
        """The words of a command with the paths that {...} name."""
        at = lambda found: str(self.outputs.get(found[1], self.place / found[1]))  # noqa: E731
        return [re.sub(r"{(.*?)}", at, word) for word in re.findall(r"(?:{.*?}|\S)+", words)]

    def model_for(self, words):
        return ["--model", str(self.place / ("plain" if "{tokens plain}" in words else "cls"))]

    def command(self, verb, name, suffix, words, more=()):
        out = self.place / f"{name.replace(' ', '_')}{suffix}"
        self.words[name] = [verb, *self.fill(words), *more]
        self.call(name, out)
        self.outputs[name] = out

    def call(self, name, out, *more):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = main([*self.words[name], "-o", str(out), *more])
        if code:
            raise RuntimeError(f"{name}: {said.getvalue()}")

    def in_parts(self, name, n):
        out = self.outputs[name].with_stem(f"{self.outputs[name].stem}_parts")
        if self.words[name][0] == "embed":
            for i in range(n):
                self.call(name, out, "--shard", f"{i + 1}/{n}")
            self.call(name, out)
        else:
            parts = [self.place / f"{out.name}_{i + 1}" for i in range(n)]
            for i, part in enumerate(parts):
                self.call(name, part, "--shard", f"{i + 1}/{n}")
            self.words[f"{name}, in parts"] = ["perturb", *map(str, parts), "--merge"]
            self.call(f"{name}, in parts", out)
        self.outputs[f"{name}, in parts"] = out

    def resumed(self, name):
        """Stopped after the first unit, then gone on with."""
        from rankcell.perturb import Perturber

        out = self.place / f"{name.replace(' ', '_')}_resumed"

        def stop(done, total):
            if list(out.glob("shards/screen-*.parquet")):
                raise KeyboardInterrupt

        how = {"method": "fast", "splits": 6, "projections": 2, "verify_top": 3, "verify_screen": 7, "toward": ["kind=x"]}
        if name == "delete":
            how = {"toward": ["kind=x", "kind=y"], "distance": "euclidean", "affected": True, "affected_top": 2}
        perturber = call(Perturber, self.place / "cls", device="cpu", precision="fp32", tokens_per_batch=400)
        with contextlib.suppress(KeyboardInterrupt), _quiet():
            run_screen(perturber, self.outputs["tokens cls"], out, tokens_per_unit=2000, progress=stop, **how)
        n_shards = len(list(out.glob("shards/screen-*.parquet")))
        if n_shards != 1:
            raise RuntimeError(f"{name} was stopped with {n_shards} units")
        self.call(name, out)
        self.outputs[f"{name}, resumed"] = out

    def through_python(self):
        """The same by functions: what stands in no file is saved as the command line saves it."""
        import anndata as ad

        from rankcell import pp
        from rankcell.embed import Embedder
        from rankcell.perturb import Perturber

        how = {"device": "cpu", "precision": "fp32"}
        with _quiet():
            tokens = pp.tokenize(ad.read_h5ad(self.place / "counts.h5ad"), vocab=self.place / "plain" / "vocabulary", obs=["kind"])
            out = self.place / "delete_python"
            run_screen(call(Perturber, self.place / "plain", tokens_per_batch=400, **how), tokens, out, toward="kind=x", affected=True)
            cells = call(Embedder, self.place / "plain", tokens_per_batch=150, **how).embed(tokens, pool=POOLS, layer=[-1, -2])
        self.outputs["delete plain, through Python"] = out
        np.savez(self.place / "embed_python.npz", cell_id=np.array(cells.cell_ids), **cells.columns)
        self.outputs["embed plain, through Python"] = self.place / "embed_python.npz"


@contextlib.contextmanager
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankcellWarning)
        yield


# What is in a file: columns (pyarrow arrays) by name, and what else it says


def contents(out):
    """{file: (columns, facts)} of one output; `facts`: keys of settings and metadata that no version or place decides."""
    if out.suffix == ".dataset":
        return {"data": _arrow_files(sorted(out.glob("*.arrow"))), "rankcell.json": ({}, sorted(_read_json(out / "rankcell.json")))}
    if out.is_dir():
        tables = {p.name: _parquet(p) for p in out.glob("*.parquet")}
        manifest = _read_json(out / "manifest.json")
        return tables | {"manifest.json": ({}, [sorted(manifest["settings"]), sorted(_names_in(out))])}
    files = [p for p in out.parent.glob(f"{out.stem}.*") if p.is_file() and out.suffix != ".npz"] or [out]
    return {p.name.replace(out.stem, "", 1): _file(p) for p in files}


def _names_in(folder):
    return [p.name for p in folder.iterdir() if not p.name.startswith(".")]


def _file(path):
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".json":
        return {}, _stable(_read_json(path), values=False)
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as held:
            return {name: _of_array(held[name]) for name in held.files if held[name].ndim}, []
    table = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", float_precision="round_trip", index_col=False)
    with open(path, newline="") as f:
        head = next(csv.reader(f, delimiter="\t" if path.suffix == ".tsv" else ","))
    return {name: pa.array(table[name], from_pandas=True) for name in table}, head


def _of_array(values):
    if values.ndim == 1:
        return pa.array(values.tolist()) if values.dtype.kind in "UOS" else pa.array(values)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), int(np.prod(values.shape[1:])))


def _parquet(path):
    table = pq.read_table(path, partitioning=None)
    return _columns(table), _metadata(table.schema)


def _arrow_files(paths):
    tables = [pa.ipc.open_stream(pa.memory_map(str(p))).read_all() for p in paths]
    return _columns(pa.concat_tables(tables)), _metadata(tables[0].schema)


def _columns(table):
    return {name: table[name].combine_chunks() for name in table.column_names}


def _metadata(schema):
    held = {k.decode(errors="replace"): v for k, v in (schema.metadata or {}).items()}
    return _stable({k: _parsed(v) for k, v in held.items() if k.startswith(("rankcell", "huggingface"))})


def _parsed(value):
    try:
        return json.loads(value)
    except ValueError:
        return ""


def _read_json(path):
    return json.loads(path.read_text())


def _stable(value, *, values=True):
    """The keys of JSON that no version or place decides, with their plain values or without."""
    if isinstance(value, dict):
        return {k: _stable(v, values=values) for k, v in sorted(value.items()) if not UNSTABLE.search(k)}
    if isinstance(value, list):
        return [_stable(v, values=values) for v in value] if values else []
    return value if values and not isinstance(value, float) else type(value).__name__


# Of one file: a hash of each column, and what is left of it on any machine


def digest(*parts):
    h = hashlib.sha256()
    for part in parts:
        part = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        h.update(b"%d:" % len(part) + part)
    return h.hexdigest()


def type_name(kind):
    """A type, whatever a version calls the values of a list, or how it stores what is repeated."""
    if pa.types.is_fixed_size_list(kind):
        return f"{type_name(kind.value_type)}[{kind.list_size}]"
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{type_name(kind.value_type)}[]"
    if pa.types.is_dictionary(kind):
        return f"category of {type_name(kind.value_type)}"
    return str(kind).removeprefix("large_")


def parts_of(column):
    """The bytes of an array's values, without how they are stored."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        return parts_of(column.dictionary_decode())
    valid = np.asarray(column.is_valid()).tobytes()
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.fill_null(pc.list_value_length(column), -1).to_numpy(zero_copy_only=False)
        return [valid, lengths.astype("<i8").tobytes(), *parts_of(column.flatten())]
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        values = np.array(column.fill_null(0))
        return [valid, values.astype(values.dtype.newbyteorder("<")).tobytes()]
    return [valid, column.to_pylist()]


def floats_of(column):
    """The values of a column of floats, flat and as float64, null as NaN; None of any other."""
    kind = column.type
    while pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        column = column.flatten()
        kind = column.type
    if not pa.types.is_floating(kind):
        return None
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def summary(values):
    """[number of NaN, mean, standard deviation, a fixed random projection] of what is finite; 6 digits."""
    good = values[np.isfinite(values)]
    if not len(good):
        return [len(values)]
    weights = np.random.RandomState(0).standard_normal(len(good)) / np.sqrt(len(good))
    return [len(values) - len(good), *(float(f"{x:.6g}") for x in (good.mean(), good.std(), weights @ good))]


def facts_of(columns, facts, *, any_order=False):
    """What of a file is the same on every machine.

    any_order
        Of a table that is sorted by a score with many ties: its rows are taken in the order of their texts.
    """
    if any_order:
        texts = [c.to_pylist() for c in columns.values() if pa.types.is_string(c.type)]
        order = pa.array(sorted(range(len(texts[0])), key=lambda i: [t[i] for t in texts]))
        columns = {name: column.take(order) for name, column in columns.items()}
    floats = {name: values for name, column in columns.items() if (values := floats_of(column)) is not None}
    kinds = [[name, type_name(column.type)] for name, column in columns.items()]
    rest = [part for name, column in columns.items() if name not in floats for part in parts_of(column)]
    known = {"rows": len(next(iter(columns.values()))), "columns": digest(kinds)[:16], "rest": digest(*rest)[:16]} if columns else {}
    return known | {"facts": digest(facts)[:16]} | ({"floats": {n: summary(v) for n, v in floats.items()}} if floats else {})


def bytes_of(columns):
    """Eight hexadecimal digits of sha256 for each column."""
    return "".join(digest(name, type_name(c.type), *parts_of(c))[:8] for name, c in columns.items())


def machine():
    """What decides the last bits of floats, as one text."""
    import scipy
    import torch

    versions = [f"{m.__name__} {m.__version__.partition('+')[0]}" for m in (torch, np, scipy)]
    known = pathlib.Path("/proc/cpuinfo")
    text = known.read_text() if known.exists() else ""
    flags = next((line.split(":")[1].split() for line in text.splitlines() if line.startswith("flags")), [])
    vendor = next((line.split(":")[1].strip() for line in text.splitlines() if line.startswith("vendor_id")), "")
    vector = sorted(f for f in flags if f.startswith(("avx", "amx", "fma")))
    return ", ".join([*versions, platform.machine(), vendor, torch.backends.cpu.get_cpu_capability(), *vector])


def read_all(place):
    """{`run: file`: (columns, facts)} of all runs."""
    return {f"{run}: {file}": held for run, out in run_all(place).items() for file, held in sorted(contents(out).items())}


RECORDED = _read_json(RECORD) if RECORD.exists() else {"facts": {}, "bytes": {}}


@pytest.fixture(scope="module")
def made(tmp_path_factory, one_thread):
    return read_all(tmp_path_factory.mktemp("bytes"))


@pytest.fixture(scope="module")
def recorded_bytes():
    here = machine()
    if here not in RECORDED["bytes"]:
        pytest.skip(
            f"no bytes are recorded of a machine like this one ({here}): add it by python {RECORD.parent.name}/test_bytes.py --record"
        )
    return RECORDED["bytes"][here]


def test_the_same_files(made):
    assert sorted(name for name in made if ", " not in name.partition(":")[0]) == sorted(RECORDED["facts"])


@pytest.mark.parametrize("name", RECORDED["facts"])
def test_to_rounding(made, name):
    assert unlike(name, facts_of(*made[name], any_order=name in TIED), RECORDED["facts"][name]) == []


@pytest.mark.parametrize("name", [name for name, known in RECORDED["facts"].items() if "rows" in known])
def test_to_the_byte(made, recorded_bytes, name):
    columns, before = made[name][0], recorded_bytes[name]
    here = bytes_of(columns)
    assert [c for i, c in enumerate(columns) if here[8 * i : 8 * i + 8] != before[8 * i : 8 * i + 8]] == []
    assert here == before


def unlike(name, here, before):
    """What of a file differs beyond rounding, each as a line."""
    lines = [f"{name}: {key}" for key in ("rows", "columns", "rest", "facts") if here.get(key) != before.get(key)]
    floats, recorded = here.get("floats", {}), before.get("floats", {})
    for column in recorded:
        a, b = floats.get(column, []), recorded[column]
        size = max(map(abs, b[1:]), default=0)
        if len(a) != len(b) or a[0] != b[0] or not np.allclose(a[1:], b[1:], rtol=1e-4, atol=1e-5 * size + 2e-6):
            lines.append(f"{name}: {column}: {a}, recorded {b}")
    return lines


@pytest.mark.parametrize("how", ["in parts", "resumed", "through Python"])
def test_other_ways_give_the_same(made, how):
    """In parts, stopped and gone on with, and through Python: the bytes of the plain run, whatever the machine."""
    others = [name for name in made if f", {how}:" in name]
    assert others
    for name in others:
        plain = name.replace(f", {how}", "")
        if plain == "embed plain: .npz":  # Python has no genes and states here
            columns = {c: v for c, v in made[plain][0].items() if "/" not in c}
        else:
            columns = made[plain][0]
            assert made[name][1] == made[plain][1], name
        assert list(made[name][0]) == list(columns) and bytes_of(made[name][0]) == bytes_of(columns), name


def test_a_change_is_seen():
    """Of a value's last bit to the byte, of a thousandth to rounding; of type, order, missing values and texts by both."""
    values = np.linspace(1, 2, 50)
    columns = {"a": pa.array(values), "b": pa.array(["x", None] * 25)}
    bit, thousandth = (columns | {"a": pa.array(v)} for v in (np.nextafter(values, 9), values * 1.001))
    assert bytes_of(bit) != bytes_of(columns) != bytes_of(thousandth)
    assert unlike("", facts_of(bit, []), facts_of(columns, [])) == []
    assert len(unlike("", facts_of(thousandth, []), facts_of(columns, []))) == 1
    others = [
        columns | {"a": pa.array(values[::-1])},
        columns | {"a": pa.array([None, *values[1:]])},
        columns | {"a": pa.array(values.astype(np.float32))},
        columns | {"b": pa.array(["x", ""] * 25)},
        columns | {"b": pa.array([None, "x"] * 25)},
        dict(reversed(columns.items())),
    ]
    for other in others:
        assert bytes_of(other) != bytes_of(columns) and unlike("", facts_of(other, []), facts_of(columns, [])), other
    encoded = columns | {"b": columns["b"].cast(pa.large_string())}
    assert bytes_of(encoded) == bytes_of(columns)


# Flags

REQUIRED = {  # the shortest command of each verb
    "check": "in",
    "tokenize": "in -o out",
    "embed": "in -o out",
    "compare": "in --label col",
    "annotate": "in --reference ref --label col -o out",
    "perturb": "in -o out",
    "stats": "in -o out.tsv",
    "plot": "in -o out",
    "pretrain": "in -o out",
    "vocab show": "v",
    "vocab build": "in -o out",
    "vocab tally": "in -o out",
    "vocab fetch": "geneformer-v1",
    "vocab import": "--tokens t --medians m -o out",
}


def flags_now():
    """`VERB FLAG [VALUE]` of every option in tutorials/COMMANDS.md."""
    verb = ""
    for line in (ROOT / "tutorials" / "COMMANDS.md").read_text().splitlines():
        if line.startswith("## rankcell"):
            verb = line.removeprefix("## rankcell").strip()
        found = re.match(r"  (-\S.*?)(  |$)", line)
        if found:
            names, has_value = re.findall(r"(?<![\w-])--?[a-z][\w-]*", found[1]), bool(re.search(r" (?!/)[^-\s/,]\S*$", found[1]))
            yield from (f"{verb} {name}{' 1' if has_value else ''}".strip() for name in names)


def command_of(verb):
    import typer

    from rankcell.cli.main import make_app

    command = typer.main.get_command(make_app())
    for word in verb.split():
        command = command.commands[word]
    return command


FLAG_LINES = FLAGS.read_text().splitlines() if FLAGS.exists() else []


def test_all_flags_are_recorded():
    assert set(flags_now()) - set(FLAG_LINES) == set(), f"a new flag: add it to {FLAGS.name}"
    assert len(FLAG_LINES) == len(set(FLAG_LINES)) > 250


@pytest.mark.parametrize("line", FLAG_LINES)
def test_a_recorded_flag_is_accepted(line):
    """Parsed, with its value, beside the least that the verb needs."""
    verb, _, flag = line.partition("-")
    verb, words = verb.strip(), f"-{flag}".split()
    if words[0] in ("--help", "--version"):
        with contextlib.redirect_stdout(io.StringIO()) as said:
            assert main([*verb.split(), *words]) == 0
        assert said.getvalue()
        return
    command = command_of(verb)
    with command.make_context(verb, [*REQUIRED.get(verb, "").split(), *words]) as context:
        names = [p.name for p in command.params if words[0] in (*p.opts, *p.secondary_opts)]
        assert len(names) == 1
        given = context.params[names[0]]
    assert str(given) in ("1", "1.0", "['1']", "[1]", "[1.0]") if len(words) == 2 else given in (True, False)


def test_an_unknown_flag_is_refused():
    with pytest.raises(Exception, match="no-such"):
        command_of("embed").make_context("embed", ["in", "-o", "out", "--no-such"])


def record(*, anew):
    """Add this machine; `anew`: all tables and flags as they are now."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RANKCELL_CACHE"] = str(pathlib.Path(folder, "cache"))
        here = {n: held for n, held in read_all(pathlib.Path(folder)).items() if ", " not in n.partition(":")[0]}
    facts = {name: facts_of(*held, any_order=name in TIED) for name, held in here.items()}
    lines = [line for name in facts for line in unlike(name, facts[name], RECORDED["facts"].get(name, {}))]
    if anew:
        held = {"facts": facts, "bytes": {}}
        FLAGS.write_text("".join(f"{line}\n" for line in dict.fromkeys(flags_now())))
    elif lines or facts.keys() != RECORDED["facts"].keys():
        sys.exit("\n".join(["the tables are not those that are recorded:", *lines]))
    else:
        held = RECORDED
    held["bytes"][machine()] = {name: bytes_of(columns) for name, (columns, _) in here.items() if columns}
    lines = [f"{json.dumps(name)}: {json.dumps(fact)}" for name, fact in held["facts"].items()]
    RECORD.write_text('{"facts": {\n' + ",\n".join(lines) + '\n},\n"bytes": ' + json.dumps(held["bytes"], indent=0) + "}\n")
    print(f"{RECORD}: {len(facts)} files, {RECORD.stat().st_size:,} bytes")


if __name__ == "__main__":
    record(anew="--anew" in sys.argv)
