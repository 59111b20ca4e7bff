"""Edits of token rows and what they do to the states: plan (no torch), shifts, the screen, and its tables."""

from rankcell.perturb.edits import KINDS, Edit, EditPlan
from rankcell.perturb.results import Screen, read_screen
from rankcell.perturb.screen import Perturber
from rankcell.perturb.states import StateEmbeddings, read_states

__all__ = ["KINDS", "Edit", "EditPlan", "Perturber", "Screen", "StateEmbeddings", "read_screen", "read_states"]
