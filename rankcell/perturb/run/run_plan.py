"""The plan of a screen: what is run, how much of it, and in which units. Pure: it loads no weights and writes nothing."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rankcell.errors import SettingsError
from rankcell.model import Checkpoint, Encoder
from rankcell.model.batches import TOKENS_PER_BATCH
from rankcell.perturb.edits.plan import EditPlan
from rankcell.perturb.exact.engine import Engine
from rankcell.perturb.exact.shift_precision import FEW, probe_rows
from rankcell.perturb.exact.states import StateEmbeddings, read_states, states_hash
from rankcell.perturb.run.screen_config import ScreenConfig
from rankcell.perturb.run.survey import Survey
from rankcell.store import content_hash
from rankcell.tokens.tokenset import TokenSet


@dataclass(frozen=True)
class Settled:
    """What a method settles when a screen begins: `settings` that stand in the manifest, and a `note` on how they came about."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    note: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class RunPlan:
    """A screen of some cells.

    config
        What was asked for.
    checkpoint, model
        The model, and how any process opens it.
    tokens, tokens_folder
        The cells, and where any process finds them (None: in memory only).
    edits
        The plan of all edits of a row.
    rows
        int64: the rows of `tokens` that are screened.
    further_states
        States that are not of these cells.
    tokens_per_unit
        Edited tokens of a unit of work, about.
    """

    config: ScreenConfig
    checkpoint: Checkpoint
    model: str
    tokens: TokenSet
    tokens_folder: Path | None
    edits: EditPlan
    rows: np.ndarray
    further_states: StateEmbeddings
    tokens_per_unit: int

    @functools.cached_property
    def n_blocks(self) -> int:
        return self.checkpoint.resolve_layer(self.config.measure.layer)

    @property
    def lengths(self) -> np.ndarray:
        """int64 [cells]: tokens of each row that is screened."""
        return self.tokens.lengths[self.rows]

    @functools.cached_property
    def survey(self) -> Survey:
        """SettingsError when no cell has an edit."""
        survey = Survey.of(self.tokens, self.rows, self.edits, self.checkpoint.vocab)
        if not survey.edits.any():
            raise SettingsError(self._nothing())
        return survey

    def _nothing(self) -> str:
        plan = self.edits
        names = plan.set_names or plan.labels(self.checkpoint.vocab)
        genes = "all genes of the group" if len(plan.targets) == 1 and len(plan.targets[0]) > 1 else "any of the genes"
        examples = f"{', '.join(names[:4])}{' ...' if len(names) > 4 else ''}"
        return f"none of the {len(self.rows):,} cells holds {genes} to {plan.kind} ({examples}): nothing to do"

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides the result but the machine and the method: plain JSON."""
        from rankcell import __version__

        config, checkpoint = self.config, self.checkpoint
        settings = {"model": checkpoint.name, "model_hash": checkpoint.hash, "vocabulary": checkpoint.vocab.name} | checkpoint.remarks
        settings |= config.settings(self.edits, checkpoint.vocab) | {"cells": len(self.rows)}
        settings |= {"states": [*config.state_names, *self.further_states.names], "max_len": self.edits.max_len}
        settings |= {"tokens_per_unit": self.tokens_per_unit, "tokens_hash": self.tokens.fingerprint, "cells_hash": _rows_hash(self.rows)}
        settings |= {"plan_hash": content_hash(self.edits.to_json()), "states_hash": states_hash(self.further_states), "version": __version__}
        return settings | ({"uncropped_hash": self._uncropped_hash()} if self.edits.options.refill else {})

    def _uncropped_hash(self) -> str:
        h = hashlib.sha256()
        for i in self.rows:
            h.update(self.tokens.uncropped(int(i)).astype("<i4").tobytes() + b"|")
        return h.hexdigest()

    @functools.cached_property
    def outline(self) -> Engine:
        """The engine without model and states, which knows what is scored and what a cell costs; the same on every machine."""
        readouts = ["cell", *(["cls"] if self.tokens.frame.has_cls else [])]
        none = np.zeros(0)
        states = StateEmbeddings({(s, r): none for s in self.config.state_names for r in readouts} | self.further_states.vectors)
        return self.engine(None, states, TOKENS_PER_BATCH)

    def engine(self, encoder: Encoder | None, states: StateEmbeddings, tokens_per_batch: int) -> Engine:
        """The exact engine of this screen; `encoder` None: without a model."""
        return Engine.measuring(self.config.measure, encoder, self.edits, self.n_blocks, states, tokens_per_batch)

    def uncropped_of(self, rows: Sequence[int]) -> list[np.ndarray] | None:
        """The uncropped genes of some rows, where the plan refills from them."""
        return [self.tokens.uncropped(int(i)) for i in rows] if self.edits.options.refill else None

    @functools.cached_property
    def probed(self) -> np.ndarray:
        """int64: rows of a few cells, of all lengths, to try things on."""
        with_edits = np.flatnonzero(self.survey.edits)
        rich = with_edits[self.survey.edits[with_edits] >= min(FEW, self.survey.edits.max())]
        return self.rows[rich[probe_rows(self.lengths[rich])]]


def open_states(states: Any, checkpoint: Checkpoint, config: ScreenConfig, tokens: TokenSet) -> StateEmbeddings:
    """Open the further states, from a file or as they are; SettingsError when they do not fit model, tokens or the states of the cells."""
    if states is None:
        return StateEmbeddings({})
    layer, n_blocks = config.measure.layer, checkpoint.resolve_layer(config.measure.layer)
    typed = list(dict.fromkeys([layer, n_blocks, n_blocks - checkpoint.n_layers - 1]))
    embeddings = states if isinstance(states, StateEmbeddings) else read_states(states, layers=typed)
    embeddings.check(checkpoint)
    twice = set(embeddings.names) & set(config.state_names)
    if twice:
        raise SettingsError(f"state '{min(twice)}' is asked for twice, from the cells and from the file")
    unread = [s for s in embeddings.names if (s, "cell") not in embeddings.vectors and not tokens.frame.has_cls]
    if unread:
        raise SettingsError(f"state '{unread[0]}' is given for the CLS readout alone, and these tokens have no CLS: give its cell readout")
    return embeddings


def _rows_hash(rows: np.ndarray) -> str:
    """sha256 of row numbers."""
    return hashlib.sha256(np.asarray(rows).astype("<i8").tobytes()).hexdigest()
