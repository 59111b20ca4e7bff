"""Lines for the terminal on a part of a screen."""

import shlex

from rankcell.store.parts import PartDone


def part_lines(done: PartDone) -> list[str]:
    """The closing line of a part: what is done, and the command that puts all parts together.

    Units beyond its own show that the parts share its folder; without them, the others may lie in folders of their own.
    """
    folder = shlex.quote(str(done.folder))
    fact = f"{done.folder}: part {done.part} is done, {done.done:,} of {done.n_units:,} units are there"
    merge = f"rankcell perturb {folder} -o {folder} --merge"
    if done.done == done.n_units:
        return [f"{fact}; put them together: {merge}"]
    if done.done > done.part.n_units(done.n_units):
        return [f"{fact}; when all parts are done: {merge}"]
    apart = f"rankcell perturb {folder} OTHERS... -o {folder} --merge"
    return [f"{fact}; when all parts are done: {merge} (parts in folders of their own: {apart})"]
