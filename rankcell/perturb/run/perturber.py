"""Perturber: screens with one checkpoint, run here, on several devices, or in parts on several machines."""

import os
from pathlib import Path
from typing import Any

from rankcell.embed import Embedder
from rankcell.model import Checkpoint
from rankcell.model.devices import devices_of
from rankcell.model.options import Compute, Model
from rankcell.perturb.exact.states import StateEmbeddings
from rankcell.perturb.results.screen_folder import ScreenFolder
from rankcell.perturb.run.driver import ScreenRun, plan_screen, require_device, unit_size
from rankcell.perturb.run.estimate import Estimate
from rankcell.perturb.run.runtime import Runtime
from rankcell.perturb.run.screen_config import ScreenConfig
from rankcell.progress import Progress
from rankcell.store import ShardedRun, check_result_folder
from rankcell.store.parts import Part, PartDone
from rankcell.tokens.tokenset import TokenSet


class Perturber:
    """Perturbation screens with one checkpoint.

    Parameters
    ----------
    model
        As for rankcell.Embedder.
    compute
        The device (several with commas share the work, "auto" is all GPUs that there are), the precision ("auto" takes the fastest
        that device and model gain from and that keeps order and size of the shifts of some edits of the screen, else fp32), and the
        tokens of a batch.
    """

    def __init__(self, model: str | os.PathLike | Checkpoint | Model | None = None, compute: Compute = Compute()):
        self.devices = devices_of(compute.device)
        model = Model.of(model)
        self.checkpoint = model.open()
        self.precision = compute.precision
        self.model = model.name_or(self.checkpoint)
        settled = "fp32" if compute.precision == "auto" else compute.precision  # "auto" is settled by each screen
        self.embedder = Embedder(self.checkpoint, Compute(self.devices[0], settled, compute.tokens_per_batch))

    def perturb(
        self,
        tokens: TokenSet | str | os.PathLike,
        out: str | os.PathLike,
        config: ScreenConfig = ScreenConfig(),
        *,
        states: str | os.PathLike | StateEmbeddings | None = None,
        force: bool = False,
        progress: Progress = None,
    ) -> ScreenFolder:
        """Run a screen into the folder `out`, or go on with the same one there.

        Parameters
        ----------
        tokens
            A TokenSet, or the folder of one, which is then read where it is by every process that takes part.
        out
            The results folder.
        config
            The screen.
        states
            Further states, from a file or DataFrame (rankcell.perturb.read_states) or as they are.
        force
            Begin anew where `out` holds another screen.
        progress
            Called with (edits done, edits in all); within a unit in proportion to the tokens that went through the model.

        Returns
        -------
        ScreenFolder
            The results in `out`.
        """
        return self._run(tokens, out, config, states, None, force=force, progress=progress)

    def run_part(
        self,
        tokens: TokenSet | str | os.PathLike,
        out: str | os.PathLike,
        config: ScreenConfig = ScreenConfig(),
        *,
        shard: str,
        states: str | os.PathLike | StateEmbeddings | None = None,
        force: bool = False,
        progress: Progress = None,
    ) -> PartDone:
        """Run one part of a screen, for several machines.

        Parameters
        ----------
        tokens
            As for `perturb`.
        out
            A folder that all parts share, or one of its own; rankcell.perturb.merge puts them together.
        config
            As for `perturb`.
        shard
            `i/n`: the i-th of n parts.
        states, force, progress
            As for `perturb`.

        Returns
        -------
        PartDone
            `folder`, `part`, and how many of `n_units` units are `done`.
        """
        return self._run(tokens, out, config, states, Part.parse(shard), force=force, progress=progress)

    def estimate(
        self,
        tokens: TokenSet | str | os.PathLike,
        out: str | os.PathLike | None = None,
        config: ScreenConfig = ScreenConfig(),
        *,
        states: str | os.PathLike | StateEmbeddings | None = None,
        force: bool = False,
    ) -> Estimate:
        """Estimate the rows, time and room that a screen would take, after timing some of it; nothing is written.

        Parameters
        ----------
        tokens
            As for `perturb`.
        out
            The folder that it would be run in; None: none yet.
        config, states
            As for `perturb`.
        force
            Another screen may be in `out`.

        Returns
        -------
        Estimate
            `n_cells`, `n_edits`, `n_tokens` (through the model), `n_units`, `tokens_per_second`, `seconds`, `bytes_finished`,
            `bytes_running`; `lines()` says them in words.

        Raises
        ------
        OutputError
            Where another screen is in `out` (unless `force`).
        """
        if out is not None:
            check_result_folder(out)
        require_device(config, self.devices)
        with self.embedder.one_run() as embedder:
            run = self._prepared(embedder, tokens, None if out is None else Path(out), config, states, None, force=force)
            if out is not None and not force:
                ShardedRun.require_equal_settings(Path(out), run.settings)
            return run.estimate()

    def _run(
        self, tokens: Any, out: str | os.PathLike, config: ScreenConfig, states: Any, part: Part | None, *, force: bool, progress: Progress
    ) -> Any:
        check_result_folder(out)
        require_device(config, self.devices)
        with self.embedder.one_run() as embedder:
            run = self._prepared(embedder, tokens, Path(out), config, states, part, force=force)
            return run.run(Path(out), part=part, force=force, progress=progress)

    def _prepared(
        self, embedder: Embedder, tokens: Any, out: Path | None, config: ScreenConfig, states: Any, part: Part | None, *, force: bool
    ) -> ScreenRun:
        runtime = Runtime(embedder, self.model, self.devices, self.precision)
        size = unit_size(runtime, config, out, part=part, force=force)
        return ScreenRun(runtime, plan_screen(runtime, tokens, config, states, tokens_per_unit=size))
