"""Messages for a wrong command line: one line that names the verb, the mistake and the way out."""

import errno
import os
import shlex
from collections.abc import Sequence
from typing import Any

_REASONS = {
    errno.ENOSPC: "no room is left on its device",
    errno.EDQUOT: "the quota of disk space is used up",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "its file system is read-only",
    errno.EISDIR: "it is a folder, not a file",
    errno.ENOTDIR: "a part of its path is a file, not a folder",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ENOENT: "there is no such file or folder",
    errno.EMFILE: "too many files are open (see ulimit -n)",
    errno.EIO: "the device fails to read or write",
}


def usage_error(error: Any) -> str:
    """A usage error of the parser as a line: `rankcell embed: --out is missing: ...; see rankcell embed --help`"""
    verb = error.ctx.command_path if getattr(error, "ctx", None) else "rankcell"
    param, kind = getattr(error, "param", None), type(error).__name__
    if kind == "MissingParameter" and param is not None:
        name = param.metavar or param.name.upper() if param.param_type_name == "argument" else max(param.opts, key=len)
        fact = f"{name} is missing" + (f" ({param.help.rstrip('.')})" if getattr(param, "help", None) else "")
    elif kind == "NoSuchOption":
        near = error.possibilities or []
        fact = f"there is no option {error.option_name}" + (f"; did you mean {' or '.join(near)}?" if near else "")
    else:
        fact = error.format_message().rstrip(".") + _input_layer(error, param)
    return f"{verb}: {fact} (see {verb} --help)"


def _input_layer(error: Any, param: Any) -> str:
    """Advice where --layer, of the model, is given a name and the verb also takes a layer of the input."""
    flags = [flag for p in error.ctx.command.params for flag in p.opts] if getattr(error, "ctx", None) else []
    is_layer = param is not None and "--layer" in getattr(param, "opts", ()) and "--counts-layer" in flags
    return "; --layer is a layer of the model, --counts-layer NAME a layer of the input" if is_layer else ""


def unquoted(args: Sequence[str], params: Sequence[Any]) -> str | None:
    """The mistake when an option's value with blanks stands without quotes: `--start cell_type=CD4 T cells`; None when it doesn't.

    The words after the value are then taken for inputs. They are seen as a part of the value when an input stands before
    them and none of them is, or looks like, a file.
    """
    takes_value = {o for p in params if p.param_type_name == "option" and not getattr(p, "is_flag", False) for o in p.opts}
    value_is_next = has_input = False
    option = value = ""
    for i, arg in enumerate(args):
        if value_is_next:
            value_is_next, value = False, arg
        elif arg == "--":
            return None
        elif arg.startswith("-") and len(arg) > 1:
            name, is_joined, value = arg.partition("=") if arg.startswith("--") else (arg, "", "")
            option = name if name in takes_value else ""
            value_is_next = bool(option) and not is_joined
        elif option and has_input and _is_word(arg):
            words = [arg, *_until(args[i + 1 :])]
            if all(map(_is_word, words)):
                quoted = shlex.quote(" ".join([value, *words]))
                return f"{' '.join(words)} after {option} {value} is no input; a value with blanks needs quotes: {option} {quoted}"
            option = ""
        else:
            option, has_input = "", True
    return None


def _until(args: Sequence[str]) -> list[str]:
    """The words before the next option."""
    end = next((i for i, arg in enumerate(args) if arg.startswith("-")), len(args))
    return list(args[:end])


def _is_word(arg: str) -> bool:
    """Whether it neither is nor looks like a file, a folder or a pattern."""
    return not any(c in arg for c in "/\\*?[") and not os.path.splitext(arg)[1] and not os.path.lexists(arg)


def failed_call(error: OSError) -> str:
    """The message for a call that the operating system refused."""
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes, os.PathLike))]
    reason = _REASONS.get(error.errno) or error.strerror or str(error) or type(error).__name__
    return f"{names[-1]}: {reason}" if names else f"a file or folder cannot be read or written: {reason}"
