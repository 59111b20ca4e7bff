"""The command-line reference, made from the help texts: python -m rankcell.cli.reference > tutorials/COMMANDS.md"""

from collections.abc import Iterator


def _commands(command, path: str) -> Iterator[tuple[str, object]]:
    yield path, command
    for name, sub in getattr(command, "commands", {}).items():
        yield from _commands(sub, f"{path} {name}")


def reference() -> str:
    """Markdown: the help of every command, in the order of the command line."""
    import typer

    from rankcell.cli.main import make_app

    top = typer.main.get_command(make_app())
    parts = ["# Command-line reference", "", "Made by `python -m rankcell.cli.reference`; a test fails when it is stale."]
    for path, command in _commands(top, "rankcell"):
        context = command.make_context(path, [], resilient_parsing=True, terminal_width=100, max_content_width=100)
        parts += ["", f"## {path}", "", "```", command.get_help(context).rstrip(), "```"]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
