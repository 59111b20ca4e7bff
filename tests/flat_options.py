"""Calls with options given flat, `call(rc.tl.perturb, adata, kind="delete", genes=["G1"])`, as the command line gives them: tests of many
combinations state only what matters."""

import inspect
import typing
from types import SimpleNamespace

from rankcell.model.options import Model
from rankcell.options import Choice, Options, fields_of, is_options, parts_of, split_hint
from rankcell.perturb import ScreenConfig
from rankcell.perturb.edits.options import EDIT_CHOICE, Perturbation
from rankcell.perturb.exact.options import MethodOptions
from rankcell.perturb.fast.options import METHOD_CHOICE

MODEL = ("vocab", "vocab_mismatch_ok")


def part_of(annotation):
    """The class of options or the choice that a parameter takes, or None."""
    kind, meta = split_hint(annotation)
    if isinstance(meta, Choice):
        return meta
    kinds = typing.get_args(kind) or (kind,)
    if all(is_options(k) and issubclass(k, Perturbation) for k in kinds):
        return EDIT_CHOICE
    if all(is_options(k) and issubclass(k, MethodOptions) for k in kinds):
        return METHOD_CHOICE
    return kind if is_options(kind) and kind is not Model else None


def taken(part, flat):
    """The options of a class or choice, taken out of `flat`; None where none of its are there."""
    if isinstance(part, Choice):
        first = next(iter(part.variants))
        variant, names = flat.pop(part.name, first), part.options()
        given = {n: value for n in list(flat) if n in names and (value := flat.pop(n)) is not None and value is not False}
        return part.build(variant, given) if given or variant != first else None
    own = {f.name: flat.pop(f.name) for f in fields_of(part) if f.name in flat}
    own |= {name: made for name, inner in parts_of(part) if (made := taken(inner, flat)) is not None}
    return part(**own) if own else None


def call(function, *args, **flat):
    """`function` with flat options put into its classes of options."""
    parameters = inspect.signature(function).parameters
    bound = dict(zip(parameters, args, strict=False))
    for name, parameter in parameters.items():
        if name == "model" and any(n in flat for n in MODEL) and "vocab" not in parameters:
            model = bound.get("model", flat.pop("model", None))
            flat["model"] = Model(model, **{n: flat.pop(n) for n in MODEL if n in flat})
            bound.pop("model", None)
        part = part_of(parameter.annotation)
        if part is not None and name not in bound and not isinstance(flat.get(name), Options):
            made = taken(part, flat)
            if made is not None:
                flat[name] = made
    return function(*args[: len(args) - ("model" in flat and "model" in list(parameters)[: len(args)])], **flat)


def perturb_df(adata, *args, **flat):
    """The rows of rc.tl.perturb; the model may follow the cells."""
    import rankcell as rc

    if args:
        flat["model"] = args[0]
    return call(rc.tl.perturb, adata, **flat).df()


def run_screen(perturber, tokens, out, *, states=None, shard=None, dry_run=False, force=False, progress=None, **flat):
    """A screen, a part of one or its estimate, by a Perturber."""
    config = taken(ScreenConfig, flat) or ScreenConfig()
    if flat:
        raise TypeError(f"no options of a screen: {', '.join(flat)}")
    if dry_run:
        return perturber.estimate(tokens, out, config, states=states, force=force)
    if shard is not None:
        return perturber.run_part(tokens, out, config, shard=shard, states=states, force=force, progress=progress)
    return perturber.perturb(tokens, out, config, states=states, force=force, progress=progress)


def screen_cells(source, out, *, merge=False, shard=None, dry_run=False, force=False, progress=None, **flat):
    """The same of counts or tokens, as `rankcell perturb` runs it."""
    from rankcell.counts.options import Counts
    from rankcell.model.options import Compute
    from rankcell.perturb.run.merge import merge as put_together
    from rankcell.perturb.run.screen_cells import ScreenInput, estimate_cells, one_input, perturb_cells, perturb_part

    compute = taken(Compute, flat) or Compute()
    if merge:
        return put_together(source, out, device=compute.device, force=force)
    model = Model(flat.pop("model", None), **{n: flat.pop(n) for n in MODEL if n in flat})
    counts = taken(Counts, flat) or Counts()
    given = {n: flat.pop(n) for n in ("obs", "states", "explain") if n in flat}
    start = flat.pop("start", None)
    config = (taken(ScreenConfig, flat) or ScreenConfig()).starting_at(start, source)
    if flat:
        raise TypeError(f"no options of a screen: {', '.join(flat)}")
    cells = ScreenInput(one_input(source), model, counts, **given)
    if dry_run:
        return estimate_cells(cells, out, config, compute, force=force)
    if shard is not None:
        return perturb_part(cells, out, config, compute, shard=shard, force=force, progress=progress)
    return perturb_cells(cells, out, config, compute, force=force, progress=progress)


def write_stats(source, out, *, direction=None, compat="rankcell", force=False, **flat):
    """`rankcell stats`: table, facts, path and the lines that it prints."""
    from rankcell.cli.statistics_lines import statistics_lines
    from rankcell.stats import RankOptions
    from rankcell.stats.screen_statistics import write_statistics

    written = write_statistics(source, out, RankOptions(**flat), direction=direction, compat=compat, force=force)
    ranking = written.ranking
    return SimpleNamespace(table=ranking.df(), facts=ranking.facts, path=written.path, lines=tuple(statistics_lines(ranking)))


def draw_screen(source, out, *, force=False, **flat):
    """`rankcell plot`."""
    from rankcell.report.drawing import Drawing
    from rankcell.report.pages.draw import draw

    return draw(source, out, Drawing(**flat), force=force)


def edit_plan(vocab, *, frame, max_len, **flat):
    """An EditPlan of flat options."""
    from rankcell.perturb import Delete, EditPlan

    edit = taken(EDIT_CHOICE, flat) or Delete()
    if flat:
        raise TypeError(f"no options of an edit: {', '.join(flat)}")
    return EditPlan.make(vocab, edit, frame=frame, max_len=max_len)


def tokens_of_flat(vocab, source, out=None, *, progress=None, force=False, obs=(), **flat):
    """A TokenSet by a Tokenizer, in memory or in the folder `out`."""
    from rankcell.counts.options import Counts
    from rankcell.tokens import Tokenizer
    from rankcell.tokens.options import Tokenizing

    tokenizer = Tokenizer(vocab, taken(Tokenizing, flat) or Tokenizing())
    counts = taken(Counts, flat) or Counts()
    if flat:
        raise TypeError(f"no options of a tokenizer: {', '.join(flat)}")
    if out is None:
        return tokenizer.tokenize(source, obs=obs, counts=counts, progress=progress)
    return tokenizer.write(source, out, obs=obs, counts=counts, force=force, progress=progress)
