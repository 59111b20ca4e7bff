"""Edits of token rows and what they do to the states: plan (no torch), shifts, the screen, and its tables."""

from rankcell.perturb.edits import Edit, EditPlan
from rankcell.perturb.estimate import Estimate
from rankcell.perturb.job import PartDone
from rankcell.perturb.kinds import KINDS
from rankcell.perturb.merge import merge
from rankcell.perturb.results import Screen, read_screen
from rankcell.perturb.screen import Perturber
from rankcell.perturb.states import StateEmbeddings, read_states
from rankcell.perturb.units import run_unit

__all__ = [
    "KINDS",
    "Edit",
    "EditPlan",
    "Estimate",
    "PartDone",
    "Perturber",
    "Screen",
    "StateEmbeddings",
    "merge",
    "read_screen",
    "read_states",
    "run_unit",
]
