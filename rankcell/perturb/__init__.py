"""Edits of token rows and what they do to the states: plan (no torch), shifts, the screen, and its tables."""

from rankcell.lazy import door

_PLACES = {
    "KINDS": "rankcell.perturb.edits.kinds",
    "Edit": "rankcell.perturb.edits.plan",
    "EditPlan": "rankcell.perturb.edits.plan",
    "Estimate": "rankcell.perturb.run.estimate",
    "PartDone": "rankcell.store.parts",
    "Perturber": "rankcell.perturb.run.perturber",
    "Screen": "rankcell.perturb.results.screen_tables",
    "StateEmbeddings": "rankcell.perturb.exact.states",
    "merge": "rankcell.perturb.run.merge",
    "read_screen": "rankcell.perturb.results.screen_tables",
    "read_states": "rankcell.perturb.exact.states",
    "run_unit": "rankcell.perturb.run.worker",
}
__getattr__, __dir__ = door(__name__, _PLACES)
