"""What a score column measures: its family, readout, state and part. The one place that makes score names and takes them apart.

    cos_<readout>, cos_<readout>_in_place               cosine of a readout before and after
    shift_<readout>_position, shift_<readout>_refill    the parts of its shift, 1 - cosine
    toward_<state>_<readout>                            movement toward a state, with every part
    euclidean_<readout>, euclidean_toward_<state>_<readout>    the same by distance

A state may have any name: the readout and the part are read from the end, where only one reading is possible.
"""

import difflib
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rankcell.errors import SettingsError
from rankcell.wording import shorten, shortened

COS, TOWARD, EUCLIDEAN = "cos", "toward", "euclidean"
READOUTS = ("genes", "cell", "cls")
STATE_READOUTS = ("cell", "cls")  # those that a state has
IN_PLACE, POSITION, REFILL = "_in_place", "_position", "_refill"
UNFILLED = "_unfilled"  # the deletion without refill, which is only run to take the two apart
_SHIFT = "shift"  # what the parts of a cosine are called by: they add up to 1 - cosine
READOUT_LABELS = {"genes": "other genes", "cell": "cell mean", "cls": "CLS"}
PART_LABELS = {"": "", IN_PLACE: ", in place", POSITION: ", due to positions", REFILL: ", due to refill", UNFILLED: ", without refill"}
_LONGEST_STATE = 30  # characters of a state's name in a label
_OF_STATE = "|".join(STATE_READOUTS)
_ALL, _PARTS = "|".join(READOUTS), f"{IN_PLACE}|{POSITION}|{REFILL}|{UNFILLED}"
_GRAMMAR = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        rf"(?P<family>{COS})_(?P<readout>{_ALL})(?P<part>|{IN_PLACE}|{UNFILLED})",
        rf"(?P<family>{_SHIFT})_(?P<readout>{_ALL})(?P<part>{POSITION}|{REFILL})",
        rf"(?P<family>{EUCLIDEAN})_(?P<readout>{_ALL})(?P<part>|{_PARTS})",
        rf"(?P<family>{TOWARD}|{EUCLIDEAN}_{TOWARD})_(?P<state>.*)_(?P<readout>{_OF_STATE})(?P<part>|{_PARTS})",
    )
)
_EXAMPLES = (
    *(f"{family}_{readout}{part}" for family in (COS, EUCLIDEAN) for readout in READOUTS for part in ("", IN_PLACE)),
    *(f"{_SHIFT}_{readout}{part}" for readout in READOUTS for part in (POSITION, REFILL)),
)


@dataclass(frozen=True)
class Score:
    """Measured quantity of a score column: its family, readout, state and part.

    Parameters
    ----------
    family
        "cos" (cosine of the readout before and after), "toward" (change of the cosine with a state) or "euclidean" (distances: moved,
        or with a state how much nearer to it).
    readout
        "genes", "cell" or "cls".
    state
        The state of a movement; None for the change of the readout itself.
    part
        "" (the edit as made), "_in_place", what the effect owes to "_position" and "_refill", and "_unfilled" (without refill).
    """

    family: str
    readout: str
    state: str | None = None
    part: str = ""

    @classmethod
    def parse(cls, name: str) -> "Score":
        """Parse the name of a score column.

        Parameters
        ----------
        name
            The name of the column, such as `cos_genes_in_place`.

        Returns
        -------
        Score
            The score of the column.

        Raises
        ------
        SettingsError
            When the name is not that of a score.
        """
        score = cls.known(name)
        if score is None:
            near = difflib.get_close_matches(str(name).lower(), _EXAMPLES, n=1, cutoff=0.75)
            meant = f"did you mean '{near[0]}'? " if near else ""
            raise SettingsError(f"{shortened(name)} is not the name of a score; {meant}expected such as cos_genes_in_place or toward_<state>_cell")
        return score

    @classmethod
    def known(cls, name: Any) -> "Score | None":
        """Parse the name of a column that may be no score.

        Parameters
        ----------
        name
            The name of the column.

        Returns
        -------
        Score or None
            The score of the column; None when the name is not that of a score.
        """
        return _parsed(name) if isinstance(name, str) else None

    def __str__(self) -> str:
        return self._name

    @functools.cached_property
    def _name(self) -> str:
        return score_name(self.family, self.readout, self.state, self.part)

    @property
    def is_cosine(self) -> bool:
        """Whether the column holds cosines, whose effect is 1 - cosine."""
        return self.family == COS and not self.is_part

    @property
    def is_toward(self) -> bool:
        """Whether it is a movement toward a state, by cosine or distance."""
        return self.state is not None

    @property
    def is_in_place(self) -> bool:
        """Whether it is measured in place: by attention-masked deletion."""
        return self.part == IN_PLACE

    @property
    def is_part(self) -> bool:
        """Whether it is what an effect owes to positions or to refill, a difference of two scores."""
        return self.part in (POSITION, REFILL)

    @property
    def is_size(self) -> bool:
        """Whether the effect is a size (0: nothing happened) and not a movement with a sign: shifts and distances."""
        return self.state is None and self.family in (COS, EUCLIDEAN) and not self.is_part

    @property
    def plain(self) -> "Score":
        """The score of the edit as made, for a score in place; any other as it is."""
        return self.with_part("") if self.is_in_place else self

    def with_part(self, part: str) -> "Score":
        """Replace the part of the score.

        Parameters
        ----------
        part
            The new part; "" is the edit as made.

        Returns
        -------
        Score
            The same family, readout and state with that part.
        """
        return _score(self.family, self.readout, self.state, part)

    def effect(self, values: Any) -> Any:
        """Convert values of the column into effects.

        Parameters
        ----------
        values
            Values of the column: a number, an array or a Series.

        Returns
        -------
        number or array
            In the same shape: 1 - cosine of cosines, else the value itself. Its own inverse.
        """
        return 1 - values if self.is_cosine else values

    def label(self) -> str:
        """Describe the score in plain language, as an axis is labelled.

        Returns
        -------
        str
            Such as "shift of the cell mean (1 - cosine)".
        """
        readout, part, by_distance = READOUT_LABELS[self.readout], PART_LABELS[self.part], self.family == EUCLIDEAN
        if self.state is not None:
            return f"{'distance closed' if by_distance else 'movement'} toward {shorten(self.state, _LONGEST_STATE)}, {readout}{part}"
        return f"distance moved by the {readout}{part}" if by_distance else f"shift of the {readout}{part} (1 - cosine)"


@functools.cache
def score_name(family: str, readout: str, state: str | None = None, part: str = "") -> str:
    """The name of the column of a score; see Score."""
    stem = _SHIFT if family == COS and part in (POSITION, REFILL) else family
    if state is None:
        return f"{stem}_{readout}{part}"
    return f"{stem if family == TOWARD else f'{stem}_{TOWARD}'}_{state}_{readout}{part}"


_score = functools.cache(Score)


@functools.cache
def _parsed(name: str) -> Score | None:
    match = next(filter(None, (pattern.fullmatch(name) for pattern in _GRAMMAR)), None)
    if match is None:
        return None
    groups = match.groupdict()
    family = {_SHIFT: COS, f"{EUCLIDEAN}_{TOWARD}": EUCLIDEAN}.get(groups["family"], groups["family"])
    return _score(family, groups["readout"], groups.get("state"), groups["part"])


def scores_in(columns: Iterable[Any], *, parts: bool = True) -> list[str]:
    """The names among `columns` that are names of scores, in their order; without `parts` not those of what is due to positions and
    refill."""
    return [c for c in columns if (score := Score.known(c)) is not None and (parts or not score.is_part)]


def in_place_of(name: str, columns: Any) -> str | None:
    """The name of the same score in place where `columns` have it; None of a score that is in place or a part itself."""
    score = Score.known(name)
    wanted = str(score.with_part(IN_PLACE)) if score is not None and score.part == "" else None
    return wanted if wanted is not None and wanted in columns else None
