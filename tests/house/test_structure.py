"""The rules of the house as tests: room order, public names, signatures, what importing costs, what is needed where."""

import ast
import importlib
import inspect
import re
import subprocess
import sys
import textwrap

import pytest
import typer
from builders import ROOT

import rankcell
from rankcell.cli.main import main, make_app
from rankcell.errors import RankcellError

PACKAGE = ROOT / "rankcell"
FILES = sorted(PACKAGE.rglob("*.py"))

# A room imports itself and rooms that stand before it.
ROOMS = (
    *("errors", "fact_list", "near_names", "lazy", "config", "progress", "arguments", "wording", "options", "scores", "compiled", "store", "execute", "hub", "vocab", "counts"),
    *("tokens", "model", "embed", "perturb", "stats", "assess", "interpret"),
    *("report", "export", "train", "datasets", "pp", "get", "screen", "tl", "pl", "demo", "cli"),
)
DEVIATIONS = {
    ("__main__", "cli"): "python -m rankcell",
    ("__init__", "near_names"): "a leaf: what a misspelled name of the front door is near to",
}
ROOMLESS = ("__init__", "__main__")  # the front door imports by name when asked; `python -m rankcell` is the command line


def room_of(path):
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """(line, room) of every import of the package in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            names = ["rankcell.relative"]  # no such room: relative imports are refused with the rest
        elif isinstance(node, ast.ImportFrom) and node.module == "rankcell":
            names = [f"rankcell.{a.name}" for a in node.names if not a.name.startswith("__")]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module]
        yield from ((node.lineno, n.split(".")[1]) for n in names if n.startswith("rankcell."))


def test_every_file_has_a_room():
    assert {room_of(p) for p in FILES} <= {*ROOMS, *ROOMLESS}


def test_rooms_import_upstream_only():
    wrong, used = [], set()
    for path in FILES:
        room = room_of(path)
        for line, other in imports(path):
            allowed = ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else ()
            if (room, other) in DEVIATIONS:
                used.add((room, other))
            elif other not in allowed:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    assert wrong == []
    assert used == set(DEVIATIONS), "a deviation that nothing needs any more"


# Folders of a room, each of which imports itself and those before it; "" are the room's own files.
FOLDERS = {
    "perturb": ("edits", "exact", "results", "fast", "run"),
    "counts": ("", "genes", "io", "validate", "vocabulary"),
    "report": ("", "pictures", "pages"),
}


def modules_imported(path):
    """(line, module or name in a module) of every import of the package in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


@pytest.mark.parametrize("room", FOLDERS)
def test_folders_of_a_room_import_upstream_only(room):
    order, wrong = FOLDERS[room], []

    def folder_of(parts):
        """Of the parts of a path or module below the room."""
        return parts[0] if (PACKAGE / room / parts[0]).is_dir() else ""

    for path in (p for p in FILES if room_of(p) == room and p.name != "__init__.py"):
        here = folder_of(path.relative_to(PACKAGE / room).parts)
        for line, module in modules_imported(path):
            if module.startswith(f"rankcell.{room}.") and len(module.split(".")) > 3:
                there = folder_of(module.split(".")[2:])
                if order.index(there) > order.index(here):
                    wrong.append(f"{path.relative_to(ROOT)}:{line} imports {module}")
    assert wrong == []


# One thing, one file name. A verb's file is called after the verb, a store's after its format, whatever else is.
NAMED_AFTER_OTHERS = ("cli", "embed/stores")
SHARED_NAMES = {
    "engine.py": "execute/ runs the units of any job, perturb/exact/ the edits of a row",
    "opening.py": "counts/io/ opens a file, tokens/ whatever tokens come from",
    "options.py": "what option classes are made of, and those of a room",
}


def test_a_file_name_is_given_once():
    names = [p.name for p in FILES if p.name != "__init__.py" and p.parent.relative_to(PACKAGE).as_posix() not in NAMED_AFTER_OTHERS]
    assert {name for name in names if names.count(name) > 1} == set(SHARED_NAMES)


def test_rooms_are_read_right():
    """The reader of imports above sees what it is to see."""
    assert {other for _, other in imports(PACKAGE / "tokens" / "job.py")} == {"counts", "errors", "tokens", "vocab"}
    assert "embed" in {other for _, other in imports(PACKAGE / "cli" / "embed.py")}  # inside a function too


# Names and signatures

COUNTERS = ("datasets", "get", "pl", "pp", "tl")


def test_public_names():
    assert rankcell.__all__ == [
        *("Activate", "Compute", "Counts", "Delete", "EmbedConfig", "Embedder", "Exact", "Fast", "Inhibit", "LabelMapping", "Mask", "Measure"),
        *("Model", "Move", "Overexpress", "Perturber", "RankBins", "Recipe", "Scoring", "Screen", "ScreenConfig", "Subset", "TokenSet"),
        *("Tokenizer", "Tokenizing", "Vocabulary", "__version__"),
        *("datasets", "errors", "get", "pl", "pp", "settings", "tl"),
    ]
    assert {name: getattr(rankcell, name).__all__ for name in COUNTERS} == {
        "datasets": ["pbmc68k"],
        "get": ["affected_df", "ranking", "read_embeddings", "screen_adata", "screen_df", "tokens_df"],
        "pl": [
            *("affected_genes", "compare_poolings", "decomposition", "explain_cell", "rank_bias", "rank_encoding", "ranked_genes"),
            *("screen_heatmap", "shift_by_rank", "volcano"),
        ],
        "pp": ["align_genes", "tokenize"],
        "tl": [
            *("compare_poolings", "embed", "embed_cells", "estimate_perturb", "gene_embeddings", "map_labels", "merge", "perturb", "rank_affected", "rank_bias"),
            *("rank_edits", "run_part", "score_embedding", "state_embeddings"),
        ],
    }
    assert rankcell.errors.__all__ == [
        *("CellError", "CountsError", "GeneError", "InputError", "ModelError", "OutputError", "RankcellError"),
        *("RankcellWarning", "SettingsError", "TokensError", "VocabularyError"),
    ]
    assert dir(rankcell) == rankcell.__all__ and all(getattr(rankcell, name) is not None for name in rankcell.__all__)
    with pytest.raises(AttributeError, match="it has Activate"):
        _ = rankcell.nothing


def test_every_error_is_in_the_tree():
    tree = rankcell.errors.__doc__
    for name in rankcell.errors.__all__:
        kind = getattr(rankcell.errors, name)
        assert issubclass(kind, (RankcellError, UserWarning)) and kind.__doc__
        assert name in tree or name == "RankcellWarning"


def public_functions():
    """Every public function of the counters, and the public methods of the public classes."""
    for name in COUNTERS:
        module = importlib.import_module(f"rankcell.{name}")
        for key, value in vars(module).items():
            if inspect.isfunction(value) and not key.startswith("_") and value.__module__.startswith(module.__name__):
                yield f"{name}.{key}", value
    for name in ("Embedder", "Perturber", "Screen", "TokenSet", "Tokenizer", "Vocabulary"):
        for key, value in vars(getattr(rankcell, name)).items():
            value = getattr(value, "__func__", value)
            if inspect.isfunction(value) and (not key.startswith("_") or key == "__init__"):
                yield f"{name}.{key}", value


def test_at_most_three_positional_parameters():
    found = dict(public_functions())
    assert {"pp.tokenize", "tl.embed", "tl.perturb", "Perturber.perturb", "Tokenizer.__init__", "TokenSet.open", "Vocabulary.__init__"} <= set(found)
    for name, function in found.items():
        parameters = [
            p for p in inspect.signature(function).parameters.values() if p.name not in ("self", "cls") or p.kind == p.KEYWORD_ONLY
        ]
        assert sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters) <= 3, name
        assert not {"copy", "inplace"} & {p.name for p in parameters}, name


def test_public_functions_are_documented():
    assert [name for name, f in public_functions() if not f.__doc__ and not name.endswith("__init__")] == []


def functions(path):
    return [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]


def body_lines(function):
    """Lines from the first statement after the docstring to the end."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return body[-1].end_lineno - body[0].lineno + 1 if body else 0


def test_functions_are_short():
    lengths = {f"{p.relative_to(ROOT)}:{f.lineno} {f.name}": body_lines(f) for p in FILES for f in functions(p)}
    assert {name: n for name, n in lengths.items() if n > 80} == {}
    assert sorted(lengths.values())[len(lengths) // 2] <= 12


def test_files_are_short():
    assert {str(p.relative_to(ROOT)): n for p in FILES if (n := len(p.read_text().splitlines())) > 400} == {}


def test_no_assert_and_no_raise_of_nothing():
    """Checks that python -O would drop, and `raise` where no error is being handled."""
    wrong = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        handled = {id(n) for h in ast.walk(tree) if isinstance(h, ast.ExceptHandler) for n in ast.walk(h)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assert) or (isinstance(node, ast.Raise) and node.exc is None and id(node) not in handled):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert wrong == []


def test_every_file_says_what_it_is():
    assert [str(p.relative_to(ROOT)) for p in FILES if not ast.get_docstring(ast.parse(p.read_text()))] == []


# A state may be called anything ("B_in_place", "cos_T"): what looks for a prefix or a suffix misreads its scores, and a new score would
# have to be told to every such place. rankcell/scores.py alone knows the grammar: Score.parse, Score.known, scores_in, score_name.
_PIECES = "cos|shift|toward|euclidean|in_place|position|refill|unfilled"
SCORE_PARSES = {
    rf"\.(starts|ends)with\(.*[\"']_?({_PIECES})_?[\"']": "a name is told by how it begins or ends",
    rf"\.(removeprefix|removesuffix|r?partition|r?split|replace)\(.*[\"']_?({_PIECES})_?[\"']": "a name is cut or put together by hand",
    r"\.(startswith|endswith|removeprefix|removesuffix)\(.*\b(COS|TOWARD|EUCLIDEAN|IN_PLACE|POSITION|REFILL|UNFILLED)\b": "the same, by a constant",
    r"[\"'](cos|shift|toward|euclidean)_[\"'{]": "the beginning of a name is looked for or made, effects (1 - cosine) among them",
    r"\}_(in_place|position|refill|unfilled)\b": "the end of a name is made",
}
SCORE_LIKE = {
    ("stats/affected_pairs.py", r"\}_(in_place|position|refill|unfilled)\b"): "mean_cos and sd_cos of affected genes are no scores",
}


def score_parses(text):
    """The rules of SCORE_PARSES that a text breaks."""
    return [rule for rule in SCORE_PARSES if re.search(rule, text)]


def test_names_of_scores_are_read_in_one_place():
    files = [p for p in FILES if p != PACKAGE / "scores.py"]
    broken = {(p.relative_to(PACKAGE).as_posix(), rule) for p in files for rule in score_parses(p.read_text())}
    assert {f"{name}: {SCORE_PARSES[rule]} ({rule})" for name, rule in broken - set(SCORE_LIKE)} == set()
    assert set(SCORE_LIKE) <= broken, "an exception that nothing needs any more"


@pytest.mark.parametrize(
    "line",
    [
        'return 1 - values if score.startswith("cos_") else values',
        'stem = score.removesuffix("_in_place")',
        "parts = name.endswith(('_position', '_refill'))",
        "plain = name.removesuffix(IN_PLACE)",
        'state, _, readout = stem.removeprefix("toward_").rpartition("_")',
        'return score.replace("cos_", "shift_", 1)',
        'signed = "toward_" in by',
        'name = f"toward_{state}_cell"',
        'better = [f"{s}_in_place" for s in close]',
    ],
)
def test_such_lines_would_be_seen(line):
    assert score_parses(line)
    assert not score_parses('score = Score.parse(name)  # of toward_<state>_cell, "cos_genes"\nin_place = columns["exact_in_place"]')


# The command line

VERBS = (
    *("check", "tokenize", "embed", "compare", "annotate", "perturb", "stats", "plot", "pretrain", "demo"),
    *("vocab list", "vocab show", "vocab build", "vocab tally", "vocab fetch", "vocab import"),
)
JOBS = {"demo": "rankcell.demo.run_demo"}
LEAST = {"demo": []}  # the shortest command


def commands():
    """Words of every verb -> its click command."""
    top = typer.main.get_command(make_app())
    for name, command in top.commands.items():
        if hasattr(command, "commands"):
            yield from ((f"{name} {sub}", c) for sub, c in command.commands.items())
        else:
            yield name, command


def function_of(verb):
    module, _, name = JOBS[verb].rpartition(".")
    return module, name, getattr(importlib.import_module(module), name)


def parameters_of(verb):
    """Name -> default of the function that a verb calls."""
    parameters = {p.name: p.default for p in inspect.signature(function_of(verb)[2]).parameters.values()}
    parameters.pop("progress", None)
    return parameters


def test_every_verb_is_known_here():
    assert dict(commands()).keys() == set(VERBS)


@pytest.mark.parametrize("verb", JOBS)
def test_options_are_parameters(verb):
    """Each option is a parameter of the function and each parameter an option."""
    options = {p.name for p in dict(commands())[verb].params} - {"help"}
    assert options == set(parameters_of(verb))


@pytest.mark.parametrize("verb", LEAST)
def test_options_have_the_functions_defaults(verb, monkeypatch):
    """Without options, the function is given what it would take by itself."""
    module, name, function = function_of(verb)
    defaults = {k: v for k, v in parameters_of(verb).items() if v is not inspect.Parameter.empty}
    defaults.pop("out", None)  # required at the command line: nothing is held in memory there
    given = {}

    def record(*args, **kwargs):
        bound = inspect.signature(function).bind(*args, **kwargs).arguments
        given.update(bound)
        raise RankcellError("recorded")

    monkeypatch.setattr(importlib.import_module(module), name, record)
    assert main([*verb.split(), *LEAST[verb]]) == 2 and given
    for option, default in defaults.items():
        value = given[option]
        if isinstance(value, list):  # an option that may be repeated: none for (), one for the default itself
            value = value[0] if len(value) == 1 else tuple(value)
        assert value == default and type(value) is type(default), option


@pytest.mark.parametrize("verb", VERBS)
def test_help_names_every_option(verb, capsys):
    assert main([*verb.split(), "--help"]) == 0
    text = capsys.readouterr().out
    for parameter in dict(commands())[verb].params:
        hidden = getattr(parameter, "hidden", False)
        assert all((o in text.split()) != hidden for o in parameter.opts if o.startswith("--"))


# Options: each default and each help sentence stands once, in a class of options

OPTIONS = sorted(p for p in FILES if re.search(r"\(\w*(Options|Counts\w*|Compute|Device|Perturbation)\):", p.read_text()))
OTHER_MEANINGS = {
    ("get.py", "by"): "whose rows the AnnData has",
    ("screen.py", "by"): "the same",
    ("pl/assessment_plots.py", "score"): "a column of comparisons of poolings and of rank bias",
    ("model/device_memory.py", "precision"): "that of a model which is loaded, not a wish",
    ("train/evaluate.py", "tokens_per_batch"): "of an evaluation, on whatever device",
    ("vocab/importer.py", "species"): "of Geneformer's dictionaries, which are human",
}


def option_classes():
    from rankcell.options import Options

    for path in OPTIONS:
        importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    waiting = [Options]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        yield cls


def defaults(function):
    """(parameter, default as it is written) of a function's syntax tree."""
    positional = [*function.args.posonlyargs, *function.args.args]
    yield from zip(positional[len(positional) - len(function.args.defaults) :], function.args.defaults, strict=True)
    yield from ((a, d) for a, d in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True) if d is not None)


def test_a_default_of_an_option_is_written_once():
    from rankcell.options import fields_of

    names = {field.name for cls in option_classes() for field in fields_of(cls)}
    assert {"max_len", "pool", "device", "lr", "k", "min_cells", "audit", "refill"} <= names
    names -= {"name", "n"}  # elsewhere what messages call a parameter, and any number
    again = {}
    for path in FILES:
        for function in functions(path):
            for parameter, default in defaults(function):
                is_literal = isinstance(default, (ast.Constant, ast.List, ast.Tuple, ast.UnaryOp))
                if parameter.arg in names and is_literal and ast.literal_eval(default) not in (None, False, True, 0, "", (), []):
                    again[path.relative_to(PACKAGE).as_posix(), parameter.arg] = f"{path.relative_to(ROOT)}:{function.lineno} {function.name}"
    assert {where: at for where, at in again.items() if where not in OTHER_MEANINGS} == {}
    assert set(OTHER_MEANINGS) <= set(again), "an exception that nothing needs any more"


def help_sentences():
    """(where, text) of every help sentence that is written out: the first argument of Help, the `help` of an option or argument."""
    for path in FILES:
        tree = ast.parse(path.read_text())
        names = {t.id: n.value for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
        for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
            what = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            texts = call.args[:1] if what == "Help" else [k.value for k in call.keywords if k.arg == "help" and what in ("Option", "Argument")]
            for text in (names.get(x.id, x) if isinstance(x, ast.Name) else x for x in texts):
                if isinstance(text, ast.Constant):
                    yield f"{path.relative_to(ROOT)}:{call.lineno}", text.value


def test_a_help_sentence_is_written_once():
    places = {}
    for where, text in help_sentences():
        places.setdefault(text, []).append(where)
    assert len(places) > 150
    assert {text: where for text, where in places.items() if len(where) > 1} == {}


def test_no_function_has_more_than_14_parameters():
    def n_parameters(function):
        a = function.args
        names = [x.arg for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None]
        return len(names) - (names[:1] in (["self"], ["cls"]))

    many = {f"{path.relative_to(ROOT)} {f.name}": n for path in FILES for f in functions(path) if (n := n_parameters(f)) > 14}
    assert many == {}


# What importing costs

HEAVY = ("numpy", "torch", "transformers", "anndata", "scanpy", "datasets", "numba", "pandas", "scipy", "sklearn", "matplotlib", "h5py", "pyarrow")


def loaded_by(code):
    """The heavy libraries that `code` loads in a fresh interpreter; with none of them a start takes well under half a second."""
    script = code + f"\nimport sys\nprint('LOADED', *[m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=600)
    return done.stderr.splitlines()[-1].split()[1:]


def test_importing_is_light():
    assert loaded_by("import rankcell; rankcell.errors; rankcell.__version__") == []


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_is_light(verb):
    assert loaded_by(f"from rankcell.cli import main\nmain({[*verb.split(), '--help']!r})") == []


def test_heavy_libraries_would_be_seen():
    assert "pandas" in loaded_by("import pandas")


# Where little is installed

SMALL_WORLD = """
    import importlib.machinery, sys

    ABSENT = {"anndata", "scanpy", "datasets", "h5py", "numba", "matplotlib", "typer", "loompy", "zarr", "statsmodels",
              "llvmlite", "umap", "dill", "multiprocess", "accelerate", "IPython", "pytest", "hypothesis"}
    find = importlib.machinery.PathFinder.find_spec

    def find_spec(name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else find(name, path, target)

    importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)

    import pathlib, warnings
    import numpy as np
    import torch
    from transformers import BertConfig, BertForMaskedLM
    from rankcell.embed import Embedder
    from rankcell.model.options import Compute
    from rankcell.perturb import Measure, Overexpress, Perturber, ScreenConfig
    from rankcell.tokens import TokenSet, TokenSpec
    from rankcell.vocab import Vocabulary

    torch.set_num_threads(1)
    here = pathlib.Path(sys.argv[1])
    special = {t: i for i, t in enumerate(("<pad>", "<mask>", "<cls>", "<eos>"))}
    vocab = Vocabulary(name="v", genes=[f"ENSG{i:011d}" for i in range(8)], tokens=range(4, 12), medians=[1.0] * 8, special=special)
    config = BertConfig(vocab_size=12, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
                        max_position_embeddings=16, pad_token_id=0)
    BertForMaskedLM(config).save_pretrained(here / "model")
    vocab.save(here / "model" / "vocabulary")

    spec = TokenSpec.of(vocab, frame=vocab.frame, max_len=16)
    tokens = TokenSet.from_rows([[2, 4, 5, 6, 3], [2, 7, 3], [2, 5, 8, 9, 10, 3]], spec, cell_ids=["x", "y", "z"], obs={"kind": ["a", "b", "a"]})
    tokens.save(here / "tokens")
    tokens = TokenSet.open(here / "tokens")

    found = Embedder(here / "model", Compute("cpu")).embed(tokens, pool=["mean", "cls", "first"], layer=[-1, 0])
    shapes = {k: v.shape for k, v in found.columns.items()}
    assert set(shapes.values()) == {(3, 8)} and len(shapes) == 6, shapes
    assert all(np.isfinite(v).all() for v in found.columns.values()) and found.cell_ids == ["x", "y", "z"]

    perturber = Perturber(here / "model", Compute("cpu"))
    deleted = perturber.perturb(tokens, here / "deleted", ScreenConfig(toward="kind=b", measure=Measure(affected=True))).table()
    assert deleted["cell_id"].to_pylist() == ["x"] * 3 + ["y"] + ["z"] * 4, deleted["cell_id"]
    assert deleted["rank"].to_pylist() == [0, 1, 2, 0, 0, 1, 2, 3]
    added = perturber.perturb(tokens, here / "added", ScreenConfig(Overexpress(["ENSG00000000003"]))).table()
    assert added["cell_id"].to_pylist() == ["x", "z"], added["cell_id"]  # in y it is on top already

    assert not ABSENT & set(sys.modules), ABSENT & set(sys.modules)
    print("done")
"""


def test_model_embed_and_perturb_need_little(tmp_path):
    """They run where torch, transformers, numpy, scipy, pandas, pyarrow, scikit-learn and what these need are all there is."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SMALL_WORLD), str(tmp_path)], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == "done", done.stderr[-3000:]
