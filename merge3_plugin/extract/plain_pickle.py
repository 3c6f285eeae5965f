"""Pickles of numpy arrays and plain containers, read without running anything that they name.

A pickle is a program. Python's own reader, even with a list of allowed names, calls what the program says with the
arguments that it says, and sets attributes on what comes of it: allowed functions become tools. So this is a reader of
its own. `pickletools.genops` splits the file into instructions, which runs none of them, and a stack machine here obeys
those few that containers and arrays are written with. A name is never imported: it must be one of `_NAMES`, and stands
for what we then do with checked arguments: a dtype without objects, an array whose bytes are all in the file, a number.
Whatever else a file asks (a function, a class, an extension, a persistent id) ends the reading at that instruction,
before anything was made of it. What is made of the file's bytes may not exceed twice its size, all else grows with the
number of its instructions, which is limited, and no number has more than 64 bits, lest its products take hours.
"""

from __future__ import annotations

import enum
import hashlib
import io
import math
import os
import pickletools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from merge3_plugin.errors import DataError

MAX_BYTES = 1 << 28
MAX_INSTRUCTIONS = 1 << 22  # one byte of them can make a container of 70


class _Name(enum.Enum):
    """What a name in the file stands for here; nothing is imported for it."""

    RECONSTRUCT = "array"
    FROM_BUFFER = "array of a buffer"
    SCALAR = "scalar"
    NDARRAY = "array type"
    DTYPE = "dtype"
    ENCODE = "encoding"
    BYTES = "bytes"


# numpy 2 calls its inner modules numpy._core. Protocols 0 to 2 have no bytes, and write them as text to be encoded.
_NAMES = {
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _Name.RECONSTRUCT for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): _Name.SCALAR for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Name.FROM_BUFFER for core in ("core", "_core")},
    ("numpy", "ndarray"): _Name.NDARRAY,
    ("numpy", "dtype"): _Name.DTYPE,
    ("_codecs", "encode"): _Name.ENCODE,
    ("__builtin__", "bytes"): _Name.BYTES,
}

_NUMBERS_OR_TEXT = re.compile(r"b1|[iu][1248]|f[248]|[US][1-9][0-9]{0,3}")
_NOT_RUN = "nothing of it was run; take the file from its authors"
_NO_PICKLES = {b"\x1f\x8b": "a gzip file", b"PK\x03\x04": "a zip file", b"version https://git-lfs": "git-lfs's pointer"}


def read_plain_pickle(path: str | os.PathLike[str]) -> tuple[Any, str]:
    """What the pickle in ``path`` holds, and the SHA-256 of the file.

    Only dict (its keys text or numbers), list, tuple, str, bytes, int, float, bool, None, and numpy arrays of numbers
    or text come back; numpy scalars as the numbers that they are. Raises DataError, in one line, for anything else, for
    damaged files and for files of more than 256 MiB, four million instructions, or numbers of more than 64 bits.
    """
    content = _content(Path(path))
    try:
        return _Machine(2 * len(content)).run(content), hashlib.sha256(content).hexdigest()
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise DataError(
            f"{path}: expected a whole pickle of numpy arrays and plain containers, got a damaged one "
            f"({type(error).__name__}: {_shown(error)}); fetch it again"
        ) from None


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: expected a pickle, got: {error.strerror}") from None
    if len(content) > MAX_BYTES:
        raise DataError(f"{path}: expected a pickle of at most {MAX_BYTES:,} bytes, got more")
    for start, kind in _NO_PICKLES.items():
        if content.startswith(start):
            raise DataError(f"{path}: expected a pickle, got {kind}; unpack it, or fetch the file itself")
    return content


class _Dtype:
    """A dtype as the file spells it, in two steps: its code, then its byte order."""

    def __init__(self, code: str) -> None:
        self.dtype = np.dtype(code)


class _Machine:
    """The stack, marks and memo of a pickle that is being read; ``budget`` bytes may be made of the file's."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self, content: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
            if count >= MAX_INSTRUCTIONS:
                raise DataError(f"expected at most {MAX_INSTRUCTIONS:,} instructions, got more; {_NOT_RUN}")
            self.step(opcode.name, argument)
        (value,) = self.stack
        _check_plain(value)
        return value

    def step(self, name: str, argument: Any) -> None:
        if name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > 64:
                raise DataError(f"expected numbers of up to 64 bits, got one of {argument.bit_length():,}; {_NOT_RUN}")
            self.stack.append(argument)
        elif name in _MADE:
            self.stack.append(_MADE[name]())
        elif name in _ACTIONS:
            _ACTIONS[name](self, argument)
        elif name not in ("PROTO", "FRAME", "STOP"):
            raise DataError(f"expected numpy arrays and plain containers, got the instruction {name}; {_NOT_RUN}")

    def mark(self, _: Any) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        found, self.stack = self.stack, self.marks.pop()
        return found

    def dict_since_mark(self, _: Any) -> None:
        flat = self.since_mark()
        self.push({})
        self.store(flat)

    def pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError("an instruction without its arguments")
        found = self.stack[-count:]
        del self.stack[-count:]
        return found

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def remember(self, place: int | None) -> None:
        self.memo[len(self.memo) if place is None else place] = self.stack[-1]

    def name(self, argument: str | None) -> None:
        module, name = self.pop(2) if argument is None else argument.split(" ", 1)
        if not (isinstance(module, str) and isinstance(name, str)):  # hashing nested tuples can take for ever
            raise TypeError("a name that is no text")
        if (module, name) not in _NAMES:
            raise DataError(f"expected numpy arrays and plain containers, got {_shown(f'{module}.{name}')}; {_NOT_RUN}")
        self.push(_NAMES[module, name])

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError("an append to something else than a list")
        target.extend(values)

    def store(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise TypeError("an item for something else than a dict")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            if not isinstance(key, str | int | float):
                raise DataError(f"expected text or numbers as keys, got {_kind(key)}; {_NOT_RUN}")
            target[key] = value

    def reduce(self, _: Any) -> None:
        name, arguments = self.pop(2)
        if not (isinstance(name, _Name) and type(arguments) is tuple):
            raise DataError(f"expected numpy arrays and plain containers, got a call of {_kind(name)}; {_NOT_RUN}")
        self.push(self.made(name, arguments))

    def made(self, name: _Name, arguments: tuple[Any, ...]) -> Any:
        """What stands for ``name(*arguments)``, if that is how numpy writes an array, a dtype or a scalar."""
        match name, arguments:
            case _Name.DTYPE, (str(code), bool() | int(), bool() | int()) if _NUMBERS_OR_TEXT.fullmatch(code):
                return _Dtype(code)
            case _Name.RECONSTRUCT, (_Name(), tuple(), bytes()):
                return np.empty(0, np.int8)
            case _Name.FROM_BUFFER, (bytes() | bytearray() as data, _Dtype() as dtype, tuple(shape), str(order)):
                return self.array(shape, dtype, order == "F", bytes(data))
            case _Name.SCALAR, (_Dtype() as dtype, bytes(data)):
                return self.array((), dtype, False, data).item()
            case _Name.ENCODE, (str(text), "latin1" | "latin-1"):
                self.spend(len(text))
                return text.encode("latin-1")
            case _Name.BYTES, ():
                return b""
        raise DataError(f"expected arrays of numbers as numpy writes them, got another {name.value}; {_NOT_RUN}")

    def build(self, _: Any) -> None:
        target, state = self.pop(2)
        match target, state:
            case _Dtype(), (int(), "<" | ">" | "|" | "=" as order, None, None, None, int(), int(), int()):
                target.dtype = target.dtype if order == "|" else target.dtype.newbyteorder(order)
            case np.ndarray(), (int(), tuple(shape), _Dtype() as dtype, bool() | int() as fortran, bytes(data)):
                made = self.array(shape, dtype, bool(fortran), data)
                # In place, since the memo knows the array already. Its shape, dtype and bytes fit, as was just seen.
                target.__setstate__((1, made.shape, made.dtype, bool(fortran), data))  # type: ignore[arg-type]
            case _:
                raise DataError(f"expected arrays of numbers, got another state of {_kind(target)}; {_NOT_RUN}")
        self.push(target)

    def array(self, shape: tuple[Any, ...], dtype: _Dtype, fortran: bool, data: bytes) -> np.ndarray:
        """The array of these bytes, which must be as many as shape and dtype ask for."""
        if len(shape) > 8 or not all(type(size) is int and size >= 0 for size in shape):
            raise DataError("expected arrays of up to 8 dimensions, got another shape; fetch the file again")
        if math.prod(shape) * dtype.dtype.itemsize != len(data):
            raise DataError(f"expected the bytes of an array of shape {_shown(shape)}, got {len(data)}; fetch it again")
        self.spend(len(data))
        if dtype.dtype.kind == "U" and (np.frombuffer(data, f"{dtype.dtype.str[0]}u4") > sys.maxunicode).any():
            raise DataError("expected text, got numbers that are no characters; fetch the file again")
        return np.frombuffer(data, dtype.dtype).reshape(shape, order="F" if fortran else "C")

    def spend(self, n_bytes: int) -> None:
        self.budget -= n_bytes
        if self.budget < 0:
            raise DataError(f"expected arrays that fit into the file, got larger ones; {_NOT_RUN}")


# The instructions that are obeyed. Those that push a value: one that they bring along, or a new one ...
_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_MADE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
# ... and those that work on the stack.
_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "DICT": _Machine.dict_since_mark,
    "APPEND": lambda machine, _: machine.extend(machine.pop(1)),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.store(machine.pop(2)),
    "SETITEMS": lambda machine, _: machine.store(machine.since_mark()),
    "GET": lambda machine, place: machine.push(machine.memo[place]),
    "BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "LONG_BINGET": lambda machine, place: machine.push(machine.memo[place]),
    "PUT": _Machine.remember,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.name,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


def _check_plain(value: Any) -> None:
    """DataError where a piece of an unfinished array or dtype is left in what was read."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if id(one) in seen:
            continue
        if isinstance(one, dict | list | tuple):
            seen.add(id(one))
            waiting.extend(one.values() if isinstance(one, dict) else one)
        elif not isinstance(one, str | bytes | bytearray | int | float | np.ndarray | None):
            raise DataError(f"expected numpy arrays and plain containers, got {_kind(one)}; {_NOT_RUN}")


def _kind(value: Any) -> str:
    return value.value if isinstance(value, _Name) else type(value).__name__.strip("_").lower()


def _shown(value: object) -> str:
    """``value`` for a message: one line without control characters, and not long."""
    text = ascii(str(value))[1:-1]
    return text if len(text) <= 80 else f"{text[:80]}..."
