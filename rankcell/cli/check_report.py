"""Look before tokenizing: what is in count files, and the command that will work."""

import glob
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rankcell.cli.check_page import InputReport, Rows, bullet, doubts, full, set_out, short, total
from rankcell.counts import Inputs, find_inputs
from rankcell.counts.block import value_of_kind
from rankcell.counts.genes.ids import vocabulary_species
from rankcell.counts.matrix_key import MatrixKey
from rankcell.counts.options import Counts, CountsPlace
from rankcell.counts.source import first_names
from rankcell.counts.validate.check_counts import Facts, read_facts
from rankcell.counts.validate.places import COUNTS, EMPTY, MatrixCandidate, choose, find_places, read_unnamed
from rankcell.errors import InputError, OutputError, RankcellError
from rankcell.progress import Progress
from rankcell.store import require_new
from rankcell.tokens import Tokenizer
from rankcell.tokens.fitting import fitting_vocabulary
from rankcell.tokens.job import Job, Reading
from rankcell.tokens.options import RowOptions, Tokenizing
from rankcell.wording import option


@dataclass(frozen=True)
class CheckReport:
    """The report of `check`.

    page
        Statements about the inputs, as lines.
    command
        The `rankcell tokenize` command that will work, quoted for the shell; None when none will.
    reasons
        What is in the way, each with what to do; empty when there is a command.
    inputs
        The facts about each input that could be read.
    """

    page: tuple[str, ...]
    command: str | None
    reasons: tuple[str, ...]
    inputs: tuple[Facts, ...]

    @property
    def ok(self) -> bool:
        return self.command is not None

    @property
    def doubts(self) -> tuple[str, ...]:
        """Doubts about the tokens of a command that works, each with what to do."""
        return tuple(dict.fromkeys(doubt for facts in self.inputs for doubt in doubts(facts)))

    def lines(self) -> list[str]:
        """The page, then the command, with what there is to doubt, or the reasons."""
        if self.command is not None and self.doubts:
            return [*self.page, "", "This will run, but think again:", *(line for d in self.doubts for line in bullet(d)), self.command]
        if self.command is not None:
            return [*self.page, "", "This will work:", self.command]
        return [*self.page, "", "This will not work:", *(line for reason in self.reasons for line in bullet(reason))]


def check(
    source: Any,
    *,
    model: Any = None,
    vocab: str | os.PathLike | None = None,
    rows: RowOptions = RowOptions(),
    counts: CountsPlace = CountsPlace(),
    obs: str | Sequence[str] = (),
    progress: Progress = None,
) -> CheckReport:
    """Read count files whole, in a stream, and say what is in them and how to tokenize them.

    source
        A count file, a folder or pattern of such, or a list of these.
    vocab
        None: the vocabularies that ship or were fetched are compared, and the one that knows the most genes is taken.
    model
        A checkpoint folder, a hub name or 'demo': its vocabulary (completed by `vocab` where it carries none) and its positions are
        taken, so that what is said of cropping holds for it.

    rows, counts, obs
        As for `tokenize`; the command repeats them, and adds a layer or raw where the counts are there.

    Raises InputError when there is nothing to read; of several inputs, one that cannot be read is a reason.
    """
    obs = (obs,) if isinstance(obs, str) else tuple(dict.fromkeys(obs))
    inputs = find_inputs(source)
    if not all(isinstance(i, (str, os.PathLike)) for i in inputs.items):
        raise InputError("check takes count files: write the AnnData to a file first, with adata.write_h5ad")
    compared: list[str] = []
    if vocab is None and model is None:
        vocab, compared = fitting_vocabulary(inputs.items, counts)
    reads = _of_model(model, vocab, rows.max_len) if model is not None else {"vocab": vocab, "max_len": rows.max_len}
    tokenizer = Tokenizer(reads.pop("vocabulary", reads["vocab"]), Tokenizing(max_len=reads["max_len"], cls=rows.cls, filter=rows.filter))
    model_name = reads.pop("model", "")
    planned = Rows(tokenizer.vocab, _species(tokenizer), len(tokenizer.frame), tokenizer.max_len, model_name)
    reports = _open_inputs(inputs, counts)
    used, place_options, conflict = _agree([one for one in reports if not one.problem], counts.counts_layer, counts.raw)
    tick = _Tick(progress, sum(p.shape[0] for p in used))
    choices = {"gene_column": counts.gene_column, "genome": counts.genome, "obs": obs, "filter": rows.filter}
    reports = _read(reports, used, planned, inputs.several, choices | {"workers": rows.workers, "tick": tick})
    tick.end()
    reasons = [one.problem for one in reports if one.problem] + conflict
    reasons += [reason for one in reports if one.facts is not None for reason in _reasons(one)]
    command = _command(source, inputs, place_options, reads | choices | {"cls": rows.cls})
    if not reasons:
        key = used[0].key if place_options else MatrixKey()
        reading = Reading(obs, tokenizer.tokenizing, Counts(key.layer, key.raw, counts.gene_column, counts.genome))
        reasons = _refusal(tokenizer, source, reading, Path(command[-1]))
    return CheckReport(
        page=(*compared, *_page(reports, planned, inputs.several)),
        command=None if reasons else shlex.join(command),
        reasons=tuple(reasons),
        inputs=tuple(one.facts for one in reports if one.facts is not None),
    )


def _of_model(model: Any, vocab: Any, max_len: int | None) -> dict[str, Any]:
    """Row settings for a model: its `vocabulary` and how a command names it (`vocab`), `max_len`, and the `model`'s name."""
    from rankcell.model import open_checkpoint

    checkpoint = open_checkpoint(model, vocab=vocab)
    vocab_label = vocab or ("demo" if str(model) == "demo" else checkpoint.folder / "vocabulary")
    longest = min(checkpoint.max_len, max_len) if max_len is not None else checkpoint.max_len
    return {"vocabulary": checkpoint.vocab, "vocab": vocab_label, "max_len": longest, "model": checkpoint.name}


class _Tick:
    """Cells read so far, for a progress bar."""

    def __init__(self, progress: Progress, cells: int):
        self._progress, self._cells, self._done = progress, cells, 0

    def __call__(self, cells: int) -> None:
        self._done += cells
        if self._progress:
            self._progress(self._done, self._cells)

    def end(self) -> None:
        if self._progress:
            self._progress(self._cells, self._cells)


def _species(tokenizer: Tokenizer) -> str:
    return vocabulary_species(tokenizer.vocab.species, tokenizer.vocab.genes)


def _open_inputs(inputs: Inputs, counts: CountsPlace) -> list[InputReport]:
    """The matrices of each input. Of several, one that cannot be opened has a problem; a single one raises."""
    reports = []
    for item, label in zip(inputs.items, inputs.labels, strict=True):
        try:
            places = find_places(item, layer=counts.counts_layer, raw=counts.raw, genome=counts.genome)
            reports.append(InputReport(str(item), label, places, by_name=counts.counts_layer is not None or counts.raw))
        except InputError as e:
            if not inputs.several:
                raise
            reports.append(InputReport(str(item), label, problem=str(e)))
    return reports


def _agree(opened: Sequence[InputReport], layer: str | None, raw: bool) -> tuple[list[MatrixCandidate], list[str], list[str]]:
    """The matrix that each input is read at, the options for that, and why there are none that do for all.

    It is the same matrix for all where there is one that holds counts in all, else that which each is read at when none is named.
    """
    chosen = [choose(one.places, layer=layer, raw=raw) for one in opened]
    if layer is not None or raw or len({p.key for p in chosen}) <= 1:
        return chosen, _options(chosen[0].key) if chosen else [], []
    by_key = [{p.key: p for p in one.places} for one in opened]
    for wanted in ({COUNTS}, {COUNTS, EMPTY}):
        for place in opened[0].places:
            here = [at.get(place.key) for at in by_key]
            if all(p is not None and p.verdict in wanted for p in here):
                return here, _options(place.key), []
    unnamed = [read_unnamed(one.places) for one in opened]
    if all(unnamed):
        return unnamed, [], []
    labels_of: dict[MatrixKey, list[str]] = {}
    for one, place in zip(opened, chosen, strict=True):
        labels_of.setdefault(place.key, []).append(one.label)
    options = "; ".join(f"{key.option() or 'no option'} for {first_names(labels, 3)}" for key, labels in labels_of.items())
    return chosen, _options(chosen[0].key), [f"the inputs hold their counts in different places ({options}): tokenize those of each kind apart"]


def _options(key: MatrixKey) -> list[str]:
    """The words that ask for a matrix in a `rankcell tokenize` command."""
    return ["--raw"] if key.raw else ["--counts-layer", key.layer] if key.layer is not None else []


def _read(reports: list[InputReport], used: list[MatrixCandidate], rows: Rows, several: bool, kwargs: dict[str, Any]) -> list[InputReport]:
    """The facts of each input that could be opened."""
    places, completed = iter(used), []
    for one in reports:
        if one.problem:
            completed.append(one)
            continue
        place = next(places)
        try:
            facts = read_facts(one.path, rows.vocab, place, **kwargs)
            completed.append(replace(one, used=place, facts=facts))
        except InputError as e:
            if not several:
                raise
            completed.append(replace(one, problem=str(e)))
    return completed


def _reasons(one: InputReport) -> list[str]:
    """The reasons for which tokenize would refuse this input, each with what to do."""
    facts, reasons = one.facts, list(one.facts.wrong)
    genes, odd = facts.genes, facts.non_count
    if genes.ids.case == "lower" and genes.in_upper_case > 0.5 * genes.n_columns:
        reasons.append(
            f"in upper case the vocabulary would know {genes.in_upper_case:,} of the {genes.n_columns:,} names: if these are its symbols "
            "and only lost their case, set adata.var_names = adata.var_names.str.upper() first"
        )
    if odd is not None:
        reasons.append(
            f"{facts.name}: {one.used.name} holds {odd.value:.6g} (cell '{odd.cell}', gene '{odd.gene}'), {value_of_kind(odd.kind)}, "
            f"not a count: {_advice(one)}"
        )
    return reasons


def _advice(one: InputReport) -> str:
    able = next((p for p in one.places if p.verdict == COUNTS and p != one.used), None)
    if able is not None:
        return able.key.advice()
    elsewhere = "no other matrix of the file holds counts either" if len(one.places) > 1 else "there is no other matrix in the file"
    advice = f"{elsewhere}; take the file from before it was normalised"
    anyway = option("allow_non_counts", True)
    return f"{advice} (or rank the values as they are with {anyway}: what is NaN, infinite or not above zero is left out)"


def _command(source: Any, inputs: Inputs, place_options: list[str], settings: dict[str, Any]) -> list[str]:
    """The words of the command; the output comes last."""
    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    words = ["rankcell", "tokenize", *(_path(s) for s in sources)]
    words += ["--vocab", str(settings["vocab"])]
    words += ["--max-len", str(settings["max_len"])] if settings["max_len"] is not None else []
    words += ["--cls" if settings["cls"] else "--no-cls"] if settings["cls"] is not None else []
    words += place_options
    for name in ("gene_column", "genome", "filter"):
        words += [f"--{name.replace('_', '-')}", settings[name]] if settings[name] is not None else []
    words += [w for column in settings["obs"] for w in ("--obs", column)]
    return [*words, "-o", str(_output(sources, inputs))]


def _path(source: Any) -> str:
    """A path that is not taken for an option."""
    return f"./{source}" if str(source).startswith("-") else str(source)


def _output(sources: Sequence[Any], inputs: Inputs) -> Path:
    """NAME.dataset after the input, in the working folder; with a number where that stands there already."""
    stem = inputs.labels[0] if not inputs.several else _folder_name(sources)
    stem = Path(stem).name.lstrip("-")
    stem = "tokens" if glob.has_magic(stem) or not stem else stem
    names = (f"{stem}{'' if n == 1 else f'-{n}'}.dataset" for n in range(1, 10_000))
    return Path(next(name for name in names if not os.path.lexists(name)))


def _folder_name(sources: Sequence[Any]) -> str:
    if len(sources) > 1:
        return "tokens"
    path = Path(sources[0])
    return (path if path.is_dir() else path.parent).resolve().name


def _refusal(tokenizer: Tokenizer, source: Any, reading: Reading, out: Path) -> list[str]:
    """The refusals of tokenize before it reads: cell columns that do not go together, an output that cannot be written."""
    try:
        require_new(out)
        Job.of(tokenizer.encoding, source, reading).close()
    except OutputError as e:
        return [f"{e}, or run the command in another folder"]
    except RankcellError as e:
        return [str(e)]
    return []


def _page(reports: Sequence[InputReport], rows: Rows, several: bool) -> list[str]:
    if not several:
        return set_out(full(reports[0], rows))
    lines: list[str] = []
    for one in reports:
        lines += [*set_out(short(one, rows)), ""]
    return lines + set_out(total(reports, rows))
