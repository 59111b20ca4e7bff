"""Edits of token rows and what they do to the states: plan (no torch), shifts, the screen, and its tables."""

from rankcell.lazy import door

_PLACES = {
    "Activate": "rankcell.perturb.edits.options",
    "Delete": "rankcell.perturb.edits.options",
    "Edit": "rankcell.perturb.edits.plan",
    "EditPlan": "rankcell.perturb.edits.plan",
    "Estimate": "rankcell.perturb.run.estimate",
    "Exact": "rankcell.perturb.exact.options",
    "Fast": "rankcell.perturb.fast.options",
    "Inhibit": "rankcell.perturb.edits.options",
    "KINDS": "rankcell.perturb.edits.kinds",
    "Mask": "rankcell.perturb.edits.options",
    "Measure": "rankcell.perturb.exact.options",
    "merge": "rankcell.perturb.run.merge",
    "Move": "rankcell.perturb.edits.options",
    "Overexpress": "rankcell.perturb.edits.options",
    "PartDone": "rankcell.store.parts",
    "Perturber": "rankcell.perturb.run.perturber",
    "read_screen": "rankcell.perturb.results.screen_folder",
    "read_states": "rankcell.perturb.exact.states",
    "run_unit": "rankcell.perturb.run.worker",
    "ScreenConfig": "rankcell.perturb.run.screen_config",
    "ScreenFolder": "rankcell.perturb.results.screen_folder",
    "StateEmbeddings": "rankcell.perturb.exact.states",
    "Subset": "rankcell.perturb.run.screen_config",
}
__getattr__, __dir__ = door(__name__, _PLACES)
