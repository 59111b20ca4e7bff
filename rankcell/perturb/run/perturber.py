"""Perturber: screens with one checkpoint, run here, on several devices, or in parts on several machines."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rankcell.embed import Embedder
from rankcell.errors import SettingsError
from rankcell.model import Checkpoint, open_checkpoint
from rankcell.model.devices import choose_device, devices_of, has_float64
from rankcell.perturb.exact.states import StateEmbeddings
from rankcell.perturb.results.screen_tables import Screen
from rankcell.perturb.run.driver import Job, PartDone
from rankcell.perturb.run.estimate import Estimate
from rankcell.perturb.run.runtime import Runtime
from rankcell.perturb.run.screen_config import Asked
from rankcell.scores import READOUTS
from rankcell.store import ShardedRun, check_result_folder
from rankcell.store.parts import Part
from rankcell.tokens.tokenset import TokenSet
from rankcell.vocab import Vocabulary
from rankcell.wording import option


class Perturber:
    """Runs in-silico perturbation screens with one checkpoint.

    model, vocab, vocab_mismatch_ok, tokens_per_batch
        As for rankcell.Embedder.
    layer
        Whose states are compared (-1: output of the last block; default the block before it).
    device
        As for rankcell.Embedder; several with commas (`cuda:0,cuda:1`) share the work, and "auto" is all GPUs that there are.
    precision
        "fp32", "tf32", "bf16" or "fp16"; "auto" takes the fastest that device and model gain from and that keeps order and size of
        the shifts of some edits of the screen, else fp32.
    """

    def __init__(
        self,
        model: str | os.PathLike | Checkpoint | None = None,
        *,
        vocab: str | os.PathLike | Vocabulary | None = None,
        vocab_mismatch_ok: bool = False,
        layer: int = -2,
        device: str = "auto",
        precision: str = "auto",
        tokens_per_batch: int | None = None,
    ):
        self.devices = devices_of(device)
        self.checkpoint = open_checkpoint(model, vocab=vocab, vocab_mismatch_ok=vocab_mismatch_ok)
        self.layer, self.n_blocks = layer, self.checkpoint.resolve_layer(layer)
        self.precision = precision
        is_name = isinstance(model, str) and not os.path.isdir(model)  # `demo`, or a name on the hub
        self.model = model if is_name else str(self.checkpoint.folder.resolve())
        settled = "fp32" if precision == "auto" else precision  # "auto" is settled by each screen
        self.embedder = Embedder(self.checkpoint, device=self.devices[0], precision=settled, tokens_per_batch=tokens_per_batch)

    def perturb(
        self,
        tokens: TokenSet | str | os.PathLike,
        out: str | os.PathLike,
        *,
        kind: str = "delete",
        genes: str | Sequence[str] = "all",
        group: bool = False,
        any: bool = False,
        pairs: bool = False,
        anchor: str | None = None,
        sets: Mapping[str, Sequence[str]] | None = None,
        quarters: int | None = None,
        to_rank: int | None = None,
        refill: bool = False,
        start: str | None = None,
        toward: str | Sequence[str] = (),
        states: str | os.PathLike | StateEmbeddings | None = None,
        distance: str = "cos",
        readout: str | Sequence[str] = READOUTS,
        affected: bool = False,
        affected_top: int | None = None,
        affected_raw: bool = False,
        readout_compat: str = "rankcell",
        cells: int | None = None,
        seed: int | None = None,
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
        only: Sequence[str] | None = None,
        skip_unknown: bool = False,
        shard: str | None = None,
        dry_run: bool = False,
        force: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> "Screen | PartDone | Estimate":
        """Run a screen into the folder `out`, or go on with the same one there; returns it when it is complete.

        tokens
            A TokenSet, or the folder of one, which is then read where it is by every process that takes part.
        kind
            "delete" (the rest closes up; also scored `_in_place`), "overexpress" (to the front, absent genes inserted), "inhibit"
            and "activate" (down and up by `quarters` of the cell's genes, 1), "mask" (the mask token in place), "move" (to the rank
            `to_rank`, 0 = top).
        genes
            "all" (every gene that a cell holds, one by one), or names: one by one; together with `group`; each two with `pairs`.
        any
            Cells that hold only some genes of a group, pair or set are edited too.
        anchor
            A gene that is perturbed together with each of `genes`.
        sets
            {name: genes}, each perturbed together, in place of `genes`.
        refill
            After a deletion the next genes of the uncropped cell enter: for tokens made with keep_uncropped.
        start
            COL=STATE: only these cells are perturbed.
        toward
            COL=STATE, each adding `toward_<state>_...` scores; a state is the mean over all its cells in `tokens`.
        states
            Further states, from a file or DataFrame (rankcell.perturb.read_states) or as they are.
        distance
            "euclidean" adds distances to the cosines.
        readout
            Which of "genes", "cell" and "cls" are scored. With "cls" alone the last block computes one token of each row.
        affected, affected_top, affected_raw
            Also the cosine of each affected gene: its mean over cells (`affected.parquet`); of the `affected_top` genes that each
            edit moves most, cell by cell (`affected_top.parquet`); of all of them (`affected_raw.parquet`, which is large).
        readout_compat
            "geneformer" keeps the perturbed gene in the cell readout of `toward`.
        cells, seed
            The first `cells` cells in order, or that many drawn with `seed`; None: all.
        tokens_per_unit
            What is saved at once, a unit of work: whole cells of about so many edited tokens. None: 250,000, and on a GPU, unless
            the screen is cut into parts, at least eight full batches. A stop loses at most one unit of each device, or two on GPUs.
        method
            "exact" runs every edit; "fast" predicts them and runs some, which judge the prediction (rankcell.perturb.fast.audit): the
            table then has the columns `exact`, and `audit.parquet`, `audit_cells.parquet` and the manifest say how good it is.
        audit
            fast: the share of each cell's edits that are drawn at random and run exactly (0.02; `splits` edits at least).
        verify_top, verify_screen, verify_by
            fast: also run exactly the so many edits predicted to be largest in each cell, and in the whole screen once all else
            is there (0, 0), by a score (the first movement toward a state, else the first cosine; in place where that is scored).
        splits, projections
            fast: how many edits of each cell are drawn at least, and the random projections that sizes of shift
            are estimated from (16, 32); "auto", which they are with `min_recall`: the cheapest that reaches that in a few cells.
        min_recall
            fast: the recall of the top tenth that is asked for. Cells that are expected to have less are named in
            `short_cells.txt` and counted in a warning.
        epistasis, verify_pairs
            fast deletions: also `epistasis.parquet`, all pairs among the so many genes of each cell that move it most by `verify_by`;
            of these the so many that are predicted to interact most are run (10), and some at random.
        only
            Ids of cells: only these are perturbed.
        skip_unknown
            Go on without genes that the vocabulary lacks: a warning names them, and the manifest (`unknown_genes`).
        shard
            `i/n`: only the i-th of n parts, in a folder that all parts share or in one of its own (rankcell.perturb.run.merge puts
            them together); returns a PartDone.
        dry_run
            Nothing is written: returns an Estimate of rows, time and room.
        progress
            Called with (edits done, edits in all); within a unit in proportion to the tokens that went through the model.
        """
        options = dict(locals())
        check_result_folder(out)
        asked = Asked(**{k: v for k, v in options.items() if k in Asked.__dataclass_fields__})
        asked.check()
        narrow = next((d for d in self.devices if not has_float64(choose_device(d))), None)
        if asked.is_fast and narrow is not None:
            raise SettingsError(
                f"device '{narrow}' has no numbers of 64 bits, which {option('method', 'fast')} needs: choose {option('device', 'cpu')}, or {option('method', 'exact')}"
            )
        part = Part.parse(shard)
        if part is not None and dry_run:
            raise SettingsError(f"{option('dry_run', True)} looks at the whole screen: leave out {option('shard')}")
        with self.embedder.one_run() as embedder:
            runtime = Runtime(embedder, self.model, self.layer, self.n_blocks, self.devices, self.precision)
            job = Job.of(runtime, tokens, asked, states)
            job.settle_units(Path(out), part=part, force=force)
            if dry_run and not force:
                ShardedRun.require_same(Path(out), job.what)
            return job.estimate() if dry_run else job.run(Path(out), part=part, force=force, progress=progress)
