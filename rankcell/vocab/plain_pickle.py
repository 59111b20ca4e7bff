"""One dictionary of plain values out of a pickle, without an unpickler.

A pickle is a program. Here it is not run: `pickletools.genops` of the standard library spells out its instructions, and
the few of them that a dictionary of strings and numbers needs are followed on values only. A global is a name in a table
of four and never looked up; numbers of numpy are read from their bytes. Values do not nest (a dictionary of scalars, and
flat tuples on the way to a scalar), so nothing can be shared into something huge, and the file, the instructions, the
stack and the memory of the program are bounded: so are the time and the memory that a hostile file can take.
"""

import io
import pickletools
import re
import warnings
from typing import Any, NoReturn

import numpy as np

LARGEST = 32 * 2**20  # eight times Geneformer's largest dictionary
_MOST_STEPS = 8_000_000
_MAX_ITEMS = 2_000_000  # values that the pickle keeps for later
_DEEPEST = 100_000  # values on the stack: pickle writes batches of 1,000 entries
_MOST_BITS = 128

_MARK = object()
_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|U[0-9]{1,4})")
_PLAIN = (str, int, float, bool, bytes, type(None))
_NAMES = {
    "numpy dtype": "dtype",
    "numpy.core.multiarray scalar": "scalar",
    "numpy._core.multiarray scalar": "scalar",
    "_codecs encode": "encode",  # by which old protocols spell the bytes of a scalar
    "collections OrderedDict": "dict",
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "SHORT_BINBYTES", "BINBYTES"),
}
_NO_EFFECT = {"PROTO", "FRAME"}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_PUT, _GET = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}, {"GET", "BINGET", "LONG_BINGET"}


class RefusedError(Exception):
    """The pickle holds something that no dictionary of plain values does."""


class _Global:
    """A name that the pickle asks for, one of _NAMES."""

    def __init__(self, name: str):
        self.name = name


class _Dtype:
    """A numpy dtype of numbers or strings: its code, and the byte order that its state gives."""

    def __init__(self, code: Any):
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise RefusedError(f"a numpy dtype {short(code)}")
        self.code, self.order = code.lstrip("<>|="), "<" if code[0] not in "<>" else code[0]

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise RefusedError("a numpy dtype in an unknown state")
        self.order = ">" if state[1] == ">" else "<"

    def value(self, raw: Any) -> Any:
        """The plain Python number or string that these bytes are."""
        dtype = np.dtype(self.order + self.code)
        if not isinstance(raw, bytes) or len(raw) != dtype.itemsize or not raw:
            raise RefusedError("a numpy scalar whose bytes do not fit its type")
        if dtype.kind == "U":  # numpy itself would build a string of code points that are none
            return raw.decode("utf-32-le" if self.order == "<" else "utf-32-be").rstrip("\0")
        return np.frombuffer(raw, dtype)[0].item()


def read_plain_dict(raw: bytes) -> dict[Any, Any]:
    """The dictionary of strings, bytes, numbers and None that the pickle `raw` is.

    RefusedError when it is a pickle of anything else, ValueError when it is none.
    """
    if not raw:
        raise ValueError("it is empty")
    machine = _Machine()
    stream = io.BytesIO(raw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of unknown escapes in text of protocol 0
        for step, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if step > _MOST_STEPS:
                raise RefusedError(f"more than {_MOST_STEPS:,} instructions")
            machine.follow(opcode.name, argument)
    if stream.tell() != len(raw):
        raise RefusedError(f"{len(raw) - stream.tell():,} bytes after its end")
    return machine.result()


class _Machine:
    """The stack and the memory of a pickle, and the instructions that are followed."""

    def __init__(self) -> None:
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self._push(_checked(argument))
        elif name in _PUT:
            self._memoize(len(self._memo) if name == "MEMOIZE" else argument)
        elif name in _GET:
            if argument not in self._memo:
                raise RefusedError("a reference to nothing")
            self._push(self._memo[argument])
        elif name == "SETITEMS":
            self._set(self._pop_to_mark())
        elif name == "SETITEM":
            self._set(self._pop(2))
        elif name in _TUPLES:
            self._push(_flat(self._pop(_TUPLES[name])))
        elif name == "REDUCE":
            self._push(_called(*self._pop(2)))
        elif name not in _NO_EFFECT and name != "STOP":
            self._rare(name, argument)

    def _rare(self, name: str, argument: Any) -> None:
        if name in _CONSTANTS:
            self._push(_CONSTANTS[name])
        elif name == "MARK":
            self._push(_MARK)
        elif name == "TUPLE":
            self._push(_flat(self._pop_to_mark()))
        elif name == "EMPTY_DICT":
            self._push({})
        elif name == "DICT":
            items = self._pop_to_mark()
            self._push({})
            self._set(items)
        elif name == "GLOBAL":
            self._push(_known(argument))
        elif name == "STACK_GLOBAL":
            module, attribute = self._pop(2)
            self._push(_known(f"{module} {attribute}" if isinstance(module, str) and isinstance(attribute, str) else ""))
        elif name == "BUILD":
            target, state = self._pop(2)
            if not isinstance(target, _Dtype):
                raise RefusedError("an object with a state")
            target.set_state(state)
            self._push(target)
        else:
            _refuse_instruction(name)

    def result(self) -> dict[Any, Any]:
        if len(self._stack) != 1:
            raise RefusedError(f"{len(self._stack)} values instead of one")
        (content,) = self._stack
        if not isinstance(content, dict):
            raise RefusedError(f"a {_kind(content)} instead of a dict")
        return content

    def _push(self, value: Any) -> None:
        if len(self._stack) >= _DEEPEST:
            raise RefusedError("it is nested too deeply")
        self._stack.append(value)

    def _pop(self, n: int) -> list[Any]:
        if n > len(self._stack):
            raise RefusedError("instructions without values")
        taken = self._stack[len(self._stack) - n :]
        del self._stack[len(self._stack) - n :]
        return taken

    def _pop_to_mark(self) -> list[Any]:
        for at in range(len(self._stack) - 1, -1, -1):
            if self._stack[at] is _MARK:
                taken = self._stack[at + 1 :]
                del self._stack[at:]
                return taken
        raise RefusedError("instructions without values")

    def _memoize(self, key: int) -> None:
        if not self._stack:
            raise RefusedError("instructions without values")
        if not 0 <= key < _MAX_ITEMS:  # pickle counts them from zero
            raise RefusedError(f"more than {_MAX_ITEMS:,} values held for later")
        self._memo[key] = self._stack[-1]

    def _set(self, items: list[Any]) -> None:
        target = self._stack[-1] if self._stack else None
        if not isinstance(target, dict) or len(items) % 2:
            raise RefusedError("entries outside a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _PLAIN) or not isinstance(value, _PLAIN):
                raise RefusedError(f"an entry {short(key)}: {short(value)}")
            target[key] = value


def _checked(value: Any) -> Any:
    """A number or string that later code can print and write; others are refused here, where they come in."""
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        raise RefusedError(f"a number of {value.bit_length():,} bits")
    if isinstance(value, str) and not value.isascii():
        value.encode()  # half of a surrogate pair is a ValueError
    return value


def _flat(items: list[Any]) -> tuple:
    for item in items:
        if not isinstance(item, (*_PLAIN, _Dtype)):
            raise RefusedError(f"a {_kind(item)} in a tuple")
    return tuple(items)


def _known(name: str) -> _Global:
    if name not in _NAMES:
        raise RefusedError(f"it asks for {short(name.replace(' ', '.'))}")
    return _Global(_NAMES[name])


def _called(function: Any, arguments: Any) -> Any:
    """Evaluate a call of a known name (REDUCE)."""
    if not isinstance(function, _Global) or not isinstance(arguments, tuple):
        raise RefusedError("a call of something that is no function")
    if function.name == "dict" and arguments == ():
        return {}
    if function.name == "dtype" and arguments:
        return _Dtype(arguments[0])
    if function.name == "scalar" and len(arguments) == 2 and isinstance(arguments[0], _Dtype):
        return arguments[0].value(arguments[1])
    if function.name == "encode" and len(arguments) == 2 and isinstance(arguments[0], str) and arguments[1] == "latin1":
        return arguments[0].encode("latin1")
    raise RefusedError(f"a call of {function.name} that no plain value needs")


def _refuse_instruction(name: str) -> NoReturn:
    lists = {"EMPTY_LIST", "LIST", "APPEND", "APPENDS"}
    sets = {"EMPTY_SET", "FROZENSET", "ADDITEMS"}
    outside = {"PERSID": "a reference to something outside itself", "BINPERSID": "a reference to something outside itself"}
    if name in lists | sets:
        raise RefusedError("a list where a dict of plain values is expected" if name in lists else "a set")
    raise RefusedError(outside.get(name, f"the instruction {name}"))


def _kind(value: Any) -> str:
    return "function" if isinstance(value, _Global) else "dtype" if isinstance(value, _Dtype) else type(value).__name__


def short(value: Any) -> str:
    """A value for a message: never more than a few words, whatever it is."""
    if not isinstance(value, _PLAIN):
        return f"a {_kind(value)}"
    text = repr(value[:40] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= 60 else text[:57] + "..."
