"""Screens of counts or tokens: the input is opened, tokenized where it holds counts, and screened."""

import contextlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rankcell.counts.options import Counts
from rankcell.errors import CellError, InputError, SettingsError
from rankcell.model import Checkpoint
from rankcell.model.chosen_model import model_for
from rankcell.model.options import Compute
from rankcell.perturb.results.screen_folder import ScreenFolder
from rankcell.perturb.run.estimate import Estimate
from rankcell.perturb.run.perturber import Perturber
from rankcell.perturb.run.screen_config import ScreenConfig
from rankcell.progress import Progress
from rankcell.store import check_result_folder, require_apart
from rankcell.store.parts import PartDone
from rankcell.tokens.opening import TokenNeeds, is_token_folder, require_no_counts_options, require_there, tokens_on_disk
from rankcell.tokens.tokenset import TokenSet
from rankcell.wording import option


@dataclass(frozen=True)
class ScreenInput:
    """Input of a screen.

    source
        Counts or tokens: an AnnData, a TokenSet, or the path of either.
    model
        As for rankcell.model.options.Model.of; None: the one that made the embeddings of the AnnData.
    counts
        Where the counts are.
    obs
        Cell columns to carry into cells.parquet, beside those of `start` and `toward`.
    states
        Further states, or None.
    explain
        A cell that the input must have.
    """

    source: Any
    model: Any = None
    counts: Counts = Counts()
    obs: str | Sequence[str] = ()
    states: Any = None
    explain: str | None = None

    @property
    def columns(self) -> list[str]:
        return [self.obs] if isinstance(self.obs, str) else list(self.obs)


def perturb_cells(
    cells: ScreenInput, out: str | os.PathLike, config: ScreenConfig, compute: Compute = Compute(), *, force: bool = False, progress: Progress = None
) -> ScreenFolder:
    """A screen into the folder `out`, going on where the same one was stopped."""
    with _opened(cells, out, config, compute) as (perturber, tokens, config):
        return perturber.perturb(tokens, out, config, states=state_source(cells.states), force=force, progress=progress)


def perturb_part(
    cells: ScreenInput,
    out: str | os.PathLike,
    config: ScreenConfig,
    compute: Compute = Compute(),
    *,
    shard: str,
    force: bool = False,
    progress: Progress = None,
) -> PartDone:
    """The part `shard` (i/n) of a screen."""
    with _opened(cells, out, config, compute, suffix="-" + re.sub(r"\W", "of", shard)) as (perturber, tokens, config):
        return perturber.run_part(tokens, out, config, shard=shard, states=state_source(cells.states), force=force, progress=progress)


def estimate_cells(
    cells: ScreenInput, out: str | os.PathLike | None, config: ScreenConfig, compute: Compute = Compute(), *, force: bool = False
) -> Estimate:
    """Estimate a screen; nothing is written."""
    with tempfile.TemporaryDirectory() as elsewhere:
        beside = Path(elsewhere) / "screen"
        with _opened(cells, out, config, compute, beside=beside) as (perturber, tokens, config):
            return perturber.estimate(tokens, out, config, states=state_source(cells.states), force=force)


@contextlib.contextmanager
def _opened(
    cells: ScreenInput, out: str | os.PathLike | None, config: ScreenConfig, compute: Compute, *, suffix: str = "", beside: Path | None = None
) -> Iterator[tuple[Perturber, Any, ScreenConfig]]:
    """(perturber, a token folder as it is or a TokenSet, the screen); tokens of a large count file stand beside the output meanwhile."""
    source = cells.source
    require_there(source)
    _require_no_results(source)
    if out is not None:
        check_result_folder(out)
        require_apart(out, [source])
    perturber = Perturber(model_for(source, cells.model), compute)
    checkpoint = perturber.checkpoint
    obs = list(dict.fromkeys([*config.state_columns, *cells.columns]))
    with contextlib.ExitStack() as stack:
        if is_token_folder(source):
            require_no_counts_options(source, cells.counts)
            tokens = source
        else:
            needs = TokenNeeds(obs, keep_counts=True, keep_uncropped=getattr(config.edit, "refill", False))
            beside = Path(out).with_name(Path(out).name + suffix) if beside is None else beside
            tokens = stack.enter_context(tokens_on_disk(source, checkpoint, beside=beside, counts=cells.counts, needs=needs))
        _require_carried(tokens, checkpoint, cells)
        yield perturber, tokens, config


def _require_no_results(source: Any) -> None:
    if isinstance(source, (str, os.PathLike)) and (Path(source) / "manifest.json").is_file():
        raise SettingsError(f"{source} is a results folder: give the counts or tokens, or {option('merge', True)} to put parts together")


def _require_carried(tokens: TokenSet | str | os.PathLike, checkpoint: Checkpoint, cells: ScreenInput) -> None:
    """CellError when the tokens lack a column or the cell that is asked for."""
    if not cells.columns and cells.explain is None:
        return
    if not isinstance(tokens, TokenSet):
        has_spec = (Path(tokens) / "rankcell.json").exists()
        tokens = TokenSet.open(tokens, vocab=None if has_spec else checkpoint.vocab)
    for column in cells.columns:
        tokens.obs(column)
    if cells.explain is not None and cells.explain not in tokens.cell_ids:
        raise CellError(f"there is no cell '{cells.explain}' to explain ({len(tokens):,} cells, such as {', '.join(tokens.cell_ids[:2])})")


def state_source(value: Any) -> Any:
    """`states` as they are; SettingsError for what cannot be a table of them."""
    if hasattr(value, "obs_names"):
        raise SettingsError("states is an AnnData; the DataFrame of rc.tl.state_embeddings, or a file of states")
    if value is None or isinstance(value, (str, os.PathLike)) or hasattr(value, "columns") or hasattr(value, "vectors"):
        return value
    raise SettingsError(f"states is a {type(value).__name__}; the DataFrame of rc.tl.state_embeddings, or a file of states")


def one_input(sources: Any) -> Any:
    """The one input of a screen, of which the command line takes several for parts."""
    several = list(sources) if isinstance(sources, (list, tuple)) else [sources]
    if not several:
        raise InputError("the input is an empty list; counts, tokens or the path of either")
    if len(several) > 1:
        raise SettingsError(f"several inputs are the parts of a screen, for {option('merge', True)}; a screen has one input")
    return several[0]


