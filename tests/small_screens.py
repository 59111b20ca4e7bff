"""Tokens, rows and engines for tests of what computes them, of the model `screened_model` (tests/conftest.py)."""

import numpy as np
from flat_options import edit_plan

from rankcell.model import Encoder
from rankcell.perturb import StateEmbeddings
from rankcell.perturb.exact.engine import Engine
from rankcell.tokens import TokenSet, TokenSpec

KINDS = {"delete": {}, "overexpress": {}, "inhibit": {"quarters": 2}, "activate": {}, "mask": {}, "move": {"to_rank": 3}}


def make_tokens(model, lengths):
    rng, frame = np.random.default_rng(0), model.vocab.frame
    rows = [np.concatenate([frame.head, rng.permutation(model.vocab.tokens)[: n - len(frame)], frame.tail]) for n in lengths]
    return TokenSet.from_rows(rows, TokenSpec.of(model.vocab, frame=frame, max_len=model.max_positions))


def make_rows(model, lengths):
    tokens = make_tokens(model, lengths)
    return [tokens.row(i) for i in range(len(tokens))]


def make_engine(model, device, precision="fp32", *, kind="delete", genes="all", budget=400, plan=None, **how):
    plan = edit_plan(model.vocab, kind=kind, genes=genes, frame=model.vocab.frame, max_len=model.max_positions, **(plan or {}))
    rng = np.random.default_rng(3)
    states = StateEmbeddings({("s", readout): rng.normal(size=model.width) for readout in ("cell", "cls")})
    return Engine(Encoder(model, device=device, precision=precision), plan, model.n_layers - 1, states, budget, **how)


class Stopped(Exception):
    """Ends a run where its progress is reported, as Ctrl-C would."""


def stop(done, n):
    """A `progress` that ends the run at its first report."""
    raise Stopped
