"""The command of a verb: while it runs, messages name options by its flags."""

from collections.abc import Mapping
from typing import Any

import typer

from rankcell.cli.usage import unquoted
from rankcell.errors import SettingsError
from rankcell.wording import command_line, note


class Verb(typer.core.TyperCommand):
    """A command whose options are how messages spell them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if mistake := unquoted(args, self.params):
            raise SettingsError(f"{ctx.command_path}: {mistake}")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with command_line(self._spelling()):
            return super().invoke(ctx)

    def _spelling(self) -> dict[str, str]:
        """{option: flag} of the command."""
        return {p.name: max(p.opts, key=len) for p in self.params if p.param_type_name == "option" and not p.hidden}


def warn_of_model(facts: Mapping[str, Any]) -> None:
    """Warn of a model's remarks, which all of its results carry (rankcell.model.Checkpoint.remarks)."""
    for key in ("model_note", "vocab_mismatch"):
        if facts.get(key):
            note(facts[key])
