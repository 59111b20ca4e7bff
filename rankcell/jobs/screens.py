"""Counts or tokens -> a perturbation screen: run, in parts, put together, estimated; and what is said of it afterwards."""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import CellError, InputError, SettingsError
from rankcell.jobs.arguments import gene_names, named_sets, one_layer, one_text, start_cells, state_source, states_as_text, whole_number
from rankcell.jobs.chosen import model_for
from rankcell.jobs.inputs import (
    Progress,
    gene_sets,
    is_token_folder,
    named_cells,
    named_genes,
    require_no_counts_options,
    require_there,
    tokens_on_disk,
)
from rankcell.scores import in_place_of, scores_in
from rankcell.store import check_result_folder, require_apart
from rankcell.tokens import TokenSet
from rankcell.vocab import Vocabulary
from rankcell.wording import option

_ROWS = 2_000_000  # of a screen that are read to see how far its scores follow the rank


def perturb(
    source: Any,
    out: str | os.PathLike,
    *,
    model: Any = None,
    vocab: str | os.PathLike | Vocabulary | None = None,
    vocab_mismatch_ok: bool = False,
    layer: int = -2,
    kind: str = "delete",
    genes: str | Sequence[str] = "all",
    group: bool = False,
    any: bool = False,
    pairs: bool = False,
    anchor: str | None = None,
    sets: Any = None,
    quarters: int | None = None,
    to_rank: int | None = None,
    refill: bool = False,
    start: Any = None,
    toward: Any = (),
    states: Any = None,
    distance: str = "cos",
    readout: str | Sequence[str] = ("genes", "cell", "cls"),
    affected: bool = False,
    affected_top: int | None = None,
    affected_raw: bool = False,
    readout_compat: str = "rankcell",
    cells: int | None = None,
    seed: int | None = None,
    obs: str | Sequence[str] = (),
    explain: str | None = None,
    shard: str | None = None,
    merge: bool = False,
    dry_run: bool = False,
    counts_layer: str | None = None,
    raw: bool = False,
    gene_column: str | None = None,
    genome: str | None = None,
    allow_non_counts: bool = False,
    device: str = "auto",
    precision: str = "auto",
    tokens_per_batch: int | None = None,
    tokens_per_unit: int | None = None,
    method: str = "exact",
    audit: float | None = None,
    verify_top: int | None = None,
    verify_screen: int | None = None,
    verify_by: str | None = None,
    splits: int | str | None = None,
    projections: int | str | None = None,
    min_recall: float | None = None,
    epistasis: int | None = None,
    verify_pairs: int | None = None,
    only: str | os.PathLike | Sequence[str] | None = None,
    skip_unknown: bool = False,
    force: bool = False,
    progress: Progress = None,
) -> Any:
    """Counts or tokens -> a finished Screen in the folder `out`, going on where the same command was stopped.

    source
        Counts or tokens; with `merge` the results folders of the parts.
    sets
        Named sets of genes: a file or a mapping (`gene_sets`).
    start, toward
        `COL=STATE`, (COL, STATE) or {COL: STATE}; `toward` also several; `start` also a boolean mask of the cells, or their ids.
    obs
        Cell columns to carry into cells.parquet, beside those of `start` and `toward`.
    only
        Ids of the cells to perturb, or a file of them, one a line.
    explain
        A cell of the screen: draws its shifts against the rank, total and in place (`explain-<cell>.png` in `out`).
    shard, merge, dry_run
        One part alone (-> PartDone), parts put together, nothing but an Estimate.

    The rest: see rankcell.perturb.Perturber.perturb.
    """
    options = _plain(dict(locals()))
    from rankcell.perturb import Perturber, Screen
    from rankcell.perturb import merge as put_together
    from rankcell.perturb.exact.states import split_state

    sources = list(source) if isinstance(source, (list, tuple)) else [source]
    if not sources:
        raise InputError("the input is an empty list; counts, tokens or the path of either")
    _check_ways(sources, shard=shard, merge=merge, dry_run=dry_run, explain=explain)
    if merge:
        done = put_together(sources, out, device=device, force=force)
    else:
        require_there(sources[0])
        check_result_folder(out)
        require_apart(out, sources)
        model = model_for(sources[0], model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok)
        perturber = Perturber(
            model,
            vocab=vocab,
            vocab_mismatch_ok=vocab_mismatch_ok,
            layer=options["layer"],
            device=device,
            precision=precision,
            tokens_per_batch=options["tokens_per_batch"],
        )
        _suggest_file(options["genes"], perturber.checkpoint.vocab)
        options |= {"genes": named_genes(options["genes"]), "sets": None if sets is None else gene_sets(options["sets"])}
        options["only"] = None if options["only"] is None else named_cells(options["only"])
        start, toward = options["start"], options["toward"]
        named = [split_state(t, "toward")[0] for t in toward] + ([split_state(start, "start")[0]] if start else [])
        how = {k: options[k] for k in ("counts_layer", "raw", "gene_column", "genome", "allow_non_counts")}
        how |= {"keep_counts": True, "keep_uncropped": refill, "obs": list(dict.fromkeys([*named, *_several(obs)]))}
        left_out = {*how, *_OF_THE_JOB, "model", "vocab", "vocab_mismatch_ok", "layer", "device", "precision", "tokens_per_batch"}
        options = {k: v for k, v in options.items() if k not in left_out}
        with _tokens(sources[0], perturber.checkpoint, out, shard=shard, dry_run=dry_run, **how) as tokens:
            _check_carried(tokens, perturber.checkpoint, _several(obs), explain)
            done = perturber.perturb(tokens, **options)
    if explain is not None and isinstance(done, Screen):
        from rankcell.report.pictures.screen_pictures import explain_cell

        explain_cell(done, explain, explained(out, explain))
    return done


_NUMBERS = ("cells", "seed", "quarters", "to_rank", "affected_top", "verify_top", "verify_screen", "epistasis", "verify_pairs")


def _plain(options: dict[str, Any]) -> dict[str, Any]:
    """The options in the one form that each has below; SettingsError for what means nothing."""
    plain = {name: whole_number(options[name], name) for name in (*_NUMBERS, "tokens_per_batch", "tokens_per_unit")}
    plain |= {name: one_text(options[name], name) for name in ("counts_layer", "gene_column", "genome", "anchor")}
    plain |= {"layer": one_layer(options["layer"]), "genes": gene_names(options["genes"]), "sets": named_sets(options["sets"])}
    plain |= {"toward": states_as_text(options["toward"], "toward"), "states": state_source(options["states"])}
    plain["start"], chosen = start_cells(options["start"], options["source"])
    if chosen is not None and options["only"] is not None:
        raise SettingsError("start and only both name cells: leave one out")
    return options | plain | ({} if chosen is None else {"only": chosen})


def _suggest_file(genes: Any, vocab: Vocabulary) -> None:
    """SettingsError when a file has the name that is given for a gene."""
    if isinstance(genes, str) and genes != "all" and not genes.startswith("@") and vocab.lookup([genes])[0] < 0 and Path(genes).is_file():
        raise SettingsError(f"{genes} is a file and no gene: {option('genes', '@' + genes)} reads the names in it")


_OF_THE_JOB = ("source", "obs", "explain", "merge")


def explained(out: str | os.PathLike, cell: str) -> Path:
    """Where the picture of a cell goes."""
    return Path(out) / f"explain-{re.sub(r'[^0-9A-Za-z._+-]', '_', cell)}.png"


def _several(value: str | Sequence[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _check_ways(sources: Sequence[Any], *, shard: str | None, merge: bool, dry_run: bool, explain: str | None) -> None:
    """SettingsError for what cannot be done at once."""
    given = [option(name) for name, on in (("shard", shard is not None), ("merge", merge), ("dry_run", dry_run)) if on]
    if len(given) > 1:
        raise SettingsError(f"{given[0]} and {given[1]} exclude each other: leave one out")
    if explain is not None and given and not merge:
        raise SettingsError(f"{option('explain')} is of a finished screen: leave out {given[0]}")
    if len(sources) > 1 and not merge:
        raise SettingsError(f"several inputs are the parts of a screen, for {option('merge', True)}; a screen has one input")
    manifest = isinstance(sources[0], (str, os.PathLike)) and Path(sources[0]) / "manifest.json"
    if not merge and manifest and manifest.is_file():
        raise SettingsError(
            f"{sources[0]} is a results folder: give the counts or tokens, or {option('merge', True)} to put parts together"
        )


@contextmanager
def _tokens(
    source: Any, checkpoint: Any, out: str | os.PathLike, *, shard: str | None, dry_run: bool, obs: Sequence[str], **how: Any
) -> Iterator[Any]:
    """A token folder as it is, else a TokenSet. Tokens of a large count file stand beside the output meanwhile."""
    if is_token_folder(source):
        require_no_counts_options(source, **{name: how[name] for name in ("counts_layer", "raw", "gene_column", "genome")})
        yield source
        return
    with tempfile.TemporaryDirectory() as elsewhere:
        name = Path(out).name + ("" if shard is None else "-" + re.sub(r"\W", "of", shard))
        beside = Path(elsewhere) / name if dry_run else Path(out).with_name(name)
        with tokens_on_disk(source, checkpoint, beside=beside, obs=obs, **how) as tokens:
            yield tokens


def _check_carried(tokens: Any, checkpoint: Any, obs: Sequence[str], explain: str | None) -> None:
    """Whether the tokens have the columns and the cell that are asked for."""
    if not obs and explain is None:
        return
    if not isinstance(tokens, TokenSet):
        has_spec = (Path(tokens) / "rankcell.json").exists()
        tokens = TokenSet.open(tokens, vocab=None if has_spec else checkpoint.vocab)
    for column in obs:
        tokens.obs(column)
    if explain is not None and explain not in tokens.cell_ids:
        raise CellError(f"there is no cell '{explain}' to explain ({len(tokens):,} cells, such as {', '.join(tokens.cell_ids[:2])})")


def screen_report(done: Any) -> list[str]:
    """What came of it, in a line or some."""
    from rankcell.perturb import Estimate, PartDone

    if isinstance(done, Estimate):
        return done.lines()
    if isinstance(done, PartDone):
        said = f"{done.folder}: part {done.part} is done, {done.done:,} of {done.n_units:,} units are there"
        return [f"{said}; when all parts are done: rankcell perturb {done.folder} -o {done.folder} --merge (IN: the folders of all parts)"]
    m = done.manifest
    skipped = m["n_skipped"]
    left_out = f"; {skipped:,} pairs of cell and target have no row (the cell lacks the gene, or nothing would change)" if skipped else ""
    lines = [f"{done.folder}/screen.parquet: {m['n_rows']:,} rows for {m['n_cells']:,} cells{left_out}"]
    lines += [_run_line(done), _audit_line(m)] if "audit" in m else []
    return lines + ([_pairs_line(done)] if "epistasis" in m else [])


def _run_line(done: Any) -> str:
    """How many values of a fast screen were run and not predicted, and what to do where that is all of them."""
    names = [n for n in ("exact", "exact_in_place") if n in done.columns()]
    table = done.read("screen.parquet", columns=["cell_id", *names])
    run = [table[n].to_numpy() for n in names]
    words = [f"{int(r.sum()):,} {'in place' if n == 'exact_in_place' else 'whole'}" for n, r in zip(names, run, strict=True)]
    said = f"run exactly: {', '.join(words)}, of {len(table):,} edits"
    cells = table.select(["cell_id"]).to_pandas().assign(run=np.logical_and.reduce(run)).groupby("cell_id").run.all()
    less = f" (fewer {option('projections')} cost less)" if done.manifest["settings"]["projections"] else ""
    all_run = f"; all edits of {int(cells.sum()):,} of {len(cells):,} cells, where to predict them or to draw from them would have saved nothing{less}"
    return said + (all_run if cells.any() else "")


def _pairs_line(done: Any) -> str:
    """How many pairs of genes there are, and how well the interactions of those that were not run are known."""
    found = done.manifest["epistasis"]
    said = f"{done.folder}/epistasis.parquet: {found['pairs']:,} pairs of genes, {found['run']:,} of them run"
    if found["run"] == found["pairs"]:
        return said
    if "spearman" not in found:
        return f"{said}; {found['judged']:,} drawn at random, too few to judge the others by"
    by = done.manifest["settings"]["verify_by"]
    judged = f"{found['judged']:,} drawn at random, by {by}: Spearman {found['spearman']:.2f}, relative error {found['relative_error']:.1%}"
    return f"{said}; interactions of the others are predicted, judged by {judged}"


def _audit_line(manifest: dict[str, Any]) -> str:
    """What the audit says of the score by which the predicted first are verified."""
    by = manifest["settings"]["verify_by"]
    found = manifest["audit"].get(by, {})
    if not found.get("n"):
        return f"audit, {by}: no prediction was judged, every edit was run"
    rho, many = (found["spearman"], " in the median cell") if found["spearman"] is not None else (found["spearman_pooled"], " over all")
    parts = [] if rho is None else [f"Spearman {rho:.2f}{many}"]
    if found["recall"] is not None:
        parts.append(f"recall of the top tenth {found['recall']:.2f} ({found['recall_low']:.2f} to {found['recall_high']:.2f})")
    if found["relative_error"] is not None:
        parts.append(f"relative error {found['relative_error']:.1%}")
    parts += [f"recall of the top {k} {v['recall']:.2f} ({v['low']:.2f} to {v['high']:.2f})" for k, v in found.get("at", {}).items()]
    return f"audit, {by}: {', '.join(parts)}; judged by {found['n']:,} edits of {found['cells']:,} cell{'s' if found['cells'] != 1 else ''} drawn at random"


def rank_report(done: Any) -> tuple[list[str], list[str]]:
    """(lines, warnings) of a finished screen: how many edits `rankcell stats` ranks, and how far each score follows the mere rank of
    the gene in the cell.

    That is the median over cells of the Spearman correlation, of the first two million rows; none where no cell has ten edits.
    """
    from rankcell.stats import rank_spearman
    from rankcell.stats.predictors import TOO_CLOSE
    from rankcell.stats.summary import edit_counts, edits_sentence

    edits = [f"to rank: {edits_sentence(edit_counts(done))}"]
    table = _first_rows(done.path("screen.parquet"))
    follows = {s: rank_spearman(table, s) for s in scores_in(table.columns, parts=False)}
    known = {s: v for s, v in follows.items() if v == v}
    if not known:
        return edits, []
    some = f", first {len(table):,} rows" if len(table) < done.manifest["n_rows"] else ""
    follows_rank = ", ".join(f"{s} {v:.2f}" for s, v in known.items())
    lines = [*edits, f"how far each score follows the gene's rank in the cell (median Spearman{some}): {follows_rank}"]
    close = [s for s, v in known.items() if abs(v) > TOO_CLOSE]
    if not close:
        return lines, []
    better = [name for s in close if (name := in_place_of(s, known)) and abs(known[name]) <= TOO_CLOSE]
    way = f": rank by {', '.join(better)}" if better else ""
    return lines, [f"{', '.join(close)} order{'s' if len(close) == 1 else ''} genes by their position in the cell more than by effect{way}"]


def _first_rows(path: Path) -> Any:
    """The first row groups of a screen, which hold whole cells."""
    import pyarrow.parquet as pq

    file, n, groups = pq.ParquetFile(path), 0, []
    for group in range(file.num_row_groups):
        if groups and n + file.metadata.row_group(group).num_rows > _ROWS:
            break
        n += file.metadata.row_group(group).num_rows
        groups.append(group)
    table = file.read_row_groups(groups).to_pandas()
    table["rank"] = table["rank"].astype("Int32")
    return table
