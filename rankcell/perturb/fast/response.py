"""Linear response: predictors of all edits of a row, from one taped forward pass and an adjoint pass for each score.

Two parts make a score. The *exchange* of the perturbed token (gone, masked, or itself at another rank) in every attention: exact in
the frozen context, linear in what follows (rankcell.model.tape). The *shift* of the tokens that close up or make room, by one
position each: the slope of the score along each token's step, the mean of the slopes before and after all have moved
(the trapezoid rule), summed over the tokens that move.

    toward a state:  exchange + shift
    a size of shift: half the sum over K projections of (exchange + shift)^2, projections being at right angles to the states before,
                     so that their mean square is the squared sine: 1 - cos of a small angle
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rankcell.model.tape import Tape, functions_at_once
from rankcell.perturb.exact.engine import Engine
from rankcell.scores import COS, STATE_READOUTS, TOWARD, score_name


@dataclass(frozen=True)
class Context:
    """The row that edits are made in, and what its states are compared with.

    row
        int64 [tokens]
    first, last
        Its genes stand from `first` to before `last`.
    reference
        float32 [tokens, width]: the states of the same tokens before any edit; None: the row is not edited but for each edit's gene.
    attend
        bool [tokens]: which may be attended to and are compared (a gene perturbed beside each edit's own is not).
    place, new
        int64 [edits]: where each edit's gene stands, and where afterwards (as before: the mask token is there; -1: it is gone).
    mask
        The mask token.
    shifts
        Whether the others close up or make room. False: what is gone leaves its place empty.
    """

    row: np.ndarray
    first: int
    last: int
    reference: Any
    attend: np.ndarray
    place: np.ndarray
    new: np.ndarray
    mask: int = -1
    shifts: bool = True

    @property
    def removes(self) -> bool:
        return bool((self.new < 0).any())

    @property
    def compared(self) -> np.ndarray:
        """bool [tokens]: genes whose states are compared, each edit's own among them."""
        place = np.arange(len(self.row))
        return (place >= self.first) & (place < self.last) & self.attend

    def replacements(self) -> tuple[np.ndarray, np.ndarray] | None:
        """(tokens, positions) of every token in the shape that its edit gives it; None where it is gone."""
        if self.removes:
            return None
        ids, at = self.row.copy(), np.arange(len(self.row))
        stays = self.new == self.place
        ids[self.place[stays]] = self.mask
        at[self.place] = self.new
        return ids, at

    def steps(self) -> dict[int, tuple[np.ndarray, np.ndarray]]:
        """{-1 or +1: (from, to) int64 [edits]}: tokens from..to-1 step up or down by one; only directions that occur."""
        n = len(self.row)
        if not self.shifts:
            return {}
        if self.removes:
            return {-1: (self.place + 1, np.full(len(self.place), n))}
        here = {-1: (self.place + 1, np.maximum(self.new, self.place) + 1), 1: (np.minimum(self.new, self.place), self.place)}
        return {step: ends for step, ends in here.items() if (ends[1] > ends[0]).any()}


@dataclass(frozen=True)
class Predictors:
    """{score: float64 [edits, predictors]} without and with the shift of the others (the same where nothing shifts)."""

    in_place: dict[str, np.ndarray]
    whole: dict[str, np.ndarray]


def predictors(
    engine: Engine, weights: list[Any], context: Context, *, projections: int, rng: np.random.Generator, at_once: int | None = None
) -> Predictors:
    """The predictors of every plain score of the engine. Those of `cos_` scores are sizes, 1 - cos; none with `projections` 0.

    at_once
        How many functions go back together (None: as many as suit the device).
    """
    at_once = at_once or functions_at_once(engine.encoder.device)
    return _Row(engine, weights, context, projections, rng, at_once).run()


class _Home:
    """Transfer of tensors from a device to the processor: one copy, and one wait, for a whole prediction."""

    def __init__(self):
        self._tensors: list[Any] = []
        self._arrays: list[np.ndarray] = []

    def add(self, x: Any) -> Callable[[], np.ndarray]:
        """Add `x` to the transfer; returns a function that gives it, float64 and of the same shape, after `fetch`."""
        number = len(self._tensors)
        self._tensors.append(x.double())
        return lambda: self._arrays[number]

    def fetch(self) -> None:
        """Transfer all tensors that were added."""
        if not self._tensors:
            return
        numbers = torch.cat([x.reshape(-1) for x in self._tensors]).cpu().numpy()
        ends = np.cumsum([x.numel() for x in self._tensors])
        self._arrays = [part.reshape(x.shape) for part, x in zip(np.split(numbers, ends[:-1]), self._tensors, strict=True)]


_Array = Callable[[], np.ndarray]  # known once the numbers are home
_ArrayPair = Callable[[], tuple[np.ndarray, np.ndarray]]


class _Row:
    def __init__(self, engine: Engine, weights: list[Any], context: Context, projections: int, rng: np.random.Generator, at_once: int):
        self.engine, self.context, self.projections, self._at_once = engine, context, projections, at_once
        self._tensor, self._rng, self._home = engine.encoder.tensor, rng, _Home()
        encoder, n = engine.encoder, len(context.row)
        at = np.arange(n)
        with torch.no_grad():
            attend = None if context.attend.all() else self._tensor(context.attend)
            before = encoder.embedded(context.row, at)
            self.tape = Tape(weights, before, attend=attend)
            self.states = self.tape.states.float()
            self.reference = self.states if context.reference is None else context.reference
            self._is_gene = self._tensor(context.compared)
            self._genes = self._tensor(np.flatnonzero(context.compared))
            self._n_others = max(1, int(context.compared.sum()) - 1)
            self._place = self._tensor(context.place)
            shapes = context.replacements()
            self._new = None if shapes is None else self.tape.replaced(encoder.embedded(*shapes))
            self.steps = {}
            for step_sign, ends in context.steps().items():
                moved = self._moved(step_sign, at)
                step = encoder.embedded(context.row, moved) - before
                self.steps[step_sign] = (step.float(), Tape(weights, before + step, attend=attend), ends)

    def _moved(self, step_sign: int, at: np.ndarray) -> np.ndarray:
        """Positions of all tokens, those that any edit moves shifted by a step."""
        c = self.context
        moved = at.copy()
        if step_sign < 0:
            moved[c.first + 1 : None if c.removes else c.last] -= 1
        else:
            moved[c.first : c.last - 1] += 1
        return moved

    def run(self) -> Predictors:
        movements = {name: self._movement(state, readout) for name, state, readout in self._toward()}
        sizes = {score_name(COS, readout): self._sizes(readout) for readout in (self.engine.scored if self.projections else ())}
        self._home.fetch()
        scores = {name: predictors_of() for name, predictors_of in (movements | sizes).items()}
        return Predictors({name: pair[0] for name, pair in scores.items()}, {name: pair[1] for name, pair in scores.items()})

    def _toward(self) -> Iterator[tuple[str, Any, str]]:
        vectors = self.engine.states.vectors
        for state in self.engine.states.names:
            for readout in STATE_READOUTS:
                if (state, readout) in vectors and readout in self.engine.scored:
                    yield score_name(TOWARD, readout, state), self._tensor(vectors[state, readout]).double(), readout

    def _movement(self, state: Any, readout: str) -> _ArrayPair:
        """Movement toward a state by the exchange, and by the shift: (in place [edits, 1], whole [edits, 2])."""
        effects, slopes = self.tape.adjoint(self._cosine_gradient(self.states, state, readout)[None], self._new)
        changes, already, shifts = self._home.add(effects[:, self._place]), self._already(state, readout), []
        for step, tape, ends in self.steps.values():
            _, after = tape.adjoint(self._cosine_gradient(tape.states.float(), state, readout)[None], effects=False)
            shifts.append(self._summed((slopes + after).float() / 2, step, ends))

        def predictors_of() -> tuple[np.ndarray, np.ndarray]:
            exchange = changes()[0] + already()
            shift = np.zeros(len(exchange))
            for each in shifts:
                shift += each()[0]
            return exchange[:, None], np.stack([exchange, shift], 1)

        return predictors_of

    def _cosine_gradient(self, states: Any, state: Any, readout: str) -> Any:
        """Cotangent of the cosine of a readout with a state."""
        own = self._own(states) if readout == "cell" else states[0].double()
        size, goal = own.norm(), state / state.norm()
        slope = (goal - (own @ goal) / size * own / size) / size
        return self._spread(slope.float(), readout)

    def _spread(self, vector: Any, readout: str) -> Any:
        """[..., width] -> [..., tokens, width]: the function of the mean over genes but one, or of CLS."""
        out = torch.zeros((*vector.shape[:-1], *self.states.shape), dtype=torch.float32, device=vector.device)
        if readout == "cls":
            out[..., 0, :] = vector
        else:
            out[..., self._genes, :] = (vector / self._n_others).unsqueeze(-2)
        return out

    def _already(self, state: Any, readout: str) -> _Array:
        """float64 [edits]: the movement toward a state of the context itself from the reference."""
        n = len(self.context.place)
        if self.context.reference is None:
            return lambda: np.zeros(n)
        goal, ends = state / state.norm(), []
        for states in (self.reference, self.states):
            own = self._without(states) if readout == "cell" else states[:1].double()
            ends.append((own @ goal) / own.norm(dim=-1))
        return self._home.add((ends[1] - ends[0]).expand(n))

    def _summed(self, slopes: Any, step: Any, ends: tuple[np.ndarray, np.ndarray]) -> _Array:
        """float64 [functions, edits]: slope times step of the tokens that each edit moves."""
        products = self._home.add((slopes * step).sum(-1))

        def sums() -> np.ndarray:
            along = products().cumsum(1)  # on the processor: on a GPU its order is not fixed
            along = np.concatenate([np.zeros((len(along), 1)), along], axis=1)
            return np.where(ends[1] > ends[0], along[:, ends[1]] - along[:, np.minimum(ends[0], ends[1])], 0.0)

        return sums

    def _sizes(self, readout: str) -> _ArrayPair:
        """(in place [edits, 1], whole [edits, 3]): half the mean squares of exchange, of shift, and of the two together.

        With them what the context has changed already, and that times what the edit changes, for which no projection is needed.
        """
        trapezoid = readout != "genes"
        parts = [(factor, self._changes(cotangents, trapezoid=trapezoid)) for factor, cotangents in self._projections(readout)]
        moved = None
        if self.context.reference is not None:
            cotangent, already = self._moved_already(readout)
            moved = (already, self._changes(cotangent[None], trapezoid=True))

        def predictors_of() -> tuple[np.ndarray, np.ndarray]:
            squares = np.zeros((3, len(self.context.place)))
            for factor, changes in parts:
                exchange, shift = changes()
                squares += factor / 2 * np.stack([(exchange**2).sum(0), (shift**2).sum(0), 2 * (exchange * shift).sum(0)])
            if moved is not None:
                already, changes = moved
                exchange, shift = changes()
                squares[0] += already() + exchange[0]
                squares[2] += shift[0]
            return squares[:1].T, squares.T

        return predictors_of

    def _changes(self, cotangents: Any, *, trapezoid: bool = False) -> _ArrayPair:
        """float64 [functions, edits], twice: what exchange and shift change of linear functions.

        Without `trapezoid` by the slopes before the shift alone, at half the price: that does for the genes, whose sizes of
        shift differ little from the sum of their parts, and not for a mean of states, in which most of it cancels.
        """
        effects, slopes = self.tape.adjoint(cotangents, self._new)
        exchange, shifts = self._home.add(effects[:, self._place]), []
        for step, tape, ends in self.steps.values():
            mean_slopes = (slopes + tape.adjoint(cotangents, effects=False)[1]).float() / 2 if trapezoid else slopes.float()
            shifts.append(self._summed(mean_slopes, step, ends))

        def changes() -> tuple[np.ndarray, np.ndarray]:
            shift = np.zeros_like(exchange())
            for each in shifts:
                shift += each()
            return exchange(), shift

        return changes

    def _moved_already(self, readout: str) -> tuple[Any, _Array]:
        """How far the context has moved the readout at right angles, by size: as a cotangent, and half its square [edits]."""
        moved = (self.states - self.reference).double()
        if readout == "genes":
            size = self.reference.double().norm(dim=-1, keepdim=True)
            unit = self.reference.double() / size
            away = (moved - (moved * unit).sum(-1, keepdim=True) * unit) / size * self._is_gene[:, None]
            squares = (away**2).sum(-1)
            half = (squares.sum() - squares[self._place]) / (2 * self._n_others)
            return (away / size / self._n_others).float(), self._home.add(half)
        own, mean_change = (self._own(self.reference), self._own(moved.float())) if readout == "cell" else (self.reference[0].double(), moved[0])
        each = self._without(moved) if readout == "cell" else moved[:1]
        size = own.norm()
        unit = own / size
        away = (mean_change - (mean_change @ unit) * unit) / size**2
        squares = ((each - (each @ unit)[:, None] * unit) ** 2).sum(-1) / (2 * size**2)
        return self._spread(away.float(), readout), self._home.add(squares.expand(len(self.context.place)))

    def _own(self, states: Any) -> Any:
        """float64 [width]: the mean over the compared genes."""
        return states[self._genes].double().mean(0)

    def _without(self, states: Any) -> Any:
        """float64 [edits, width]: the mean over the compared genes but each edit's own."""
        wide = states.double()
        return (wide[self._genes].sum(0) - wide[self._place]) / self._n_others

    def _projections(self, readout: str) -> Iterator[tuple[float, Any]]:
        """(factor of each square, cotangents): random functions whose squares sum to the readout's squared sine on the mean.

        Their numbers are drawn where they are used: a GPU's are others than the processor's, the same each time on the same make.
        """
        reference, step = self.reference, self._at_once
        generator = torch.Generator(reference.device).manual_seed(int(self._rng.integers(2**62)))
        if readout == "genes":
            size = reference.norm(dim=-1, keepdim=True)
            unit = reference / size
            for a in range(0, self.projections, step):
                drawn = torch.empty((min(step, self.projections - a), *reference.shape), device=reference.device)
                for each in drawn:  # by itself: what a GPU draws in one call depends on how much that is
                    each.normal_(generator=generator)
                drawn = (drawn - (drawn * unit).sum(-1, keepdim=True) * unit) / size
                yield 1 / (self.projections * self._n_others), drawn * self._is_gene[:, None]
            return
        own = self._own(reference) if readout == "cell" else reference[0].double()
        k = min(self.projections, len(own) - 1)
        drawn = torch.randn((k, len(own)), generator=generator, dtype=torch.float64, device=own.device)
        unit = own / own.norm()
        drawn = torch.linalg.qr((drawn - (drawn @ unit)[:, None] * unit).t())[0].t() / own.norm()
        for part in drawn.float().split(step):
            yield (len(own) - 1) / k, self._spread(part, readout)
