"""Read a pickle of weights without running any of its code.

A pickle is a program for a stack machine. Python's own machine calls the functions that the program names. This machine
knows only the instructions of ``torch.save``, like torch's weights-only loading. It builds plain descriptions: it
imports nothing, and calls only the functions below.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from io import BytesIO
from typing import Any

from imagegen_core.models.pickled import DamagedPickleError, Global, Opaque, Storage, call, named, stored
from imagegen_core.models.tensors import quoted


def unpickle(data: BytesIO, storages: dict[str, Storage]) -> object:
    """Read one pickle, and leave `data` at its end.

    Args:
        data: The pickle, and the bytes after it.
        storages: Receives the storages that the pickle refers to, by their keys.

    Returns:
        Dicts with texts as keys, lists, tuples, numbers, texts, `View`, `Storage`, and `Opaque` for the rest.

    Raises:
        RefusedPickleError: It names something that weights do not need.
        DamagedPickleError: It is no whole pickle, or none of ``torch.save``'s.
    """
    try:
        return _Machine(data, storages).run()
    except (ValueError, TypeError, LookupError, AttributeError, struct.error) as error:
        raise DamagedPickleError("its pickle is damaged") from error


class _Machine:
    """The stack machine.

    Attributes:
        stack: The values under construction.
        foreign: Whether the pickle has an instruction that torch's weights-only loading does not read.
    """

    def __init__(self, data: BytesIO, storages: dict[str, Storage]) -> None:
        self.stack: list[Any] = []
        self.foreign = False
        self._data = data
        self._storages = storages
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> object:
        while (code := self.take(1)) != pickle.STOP:
            if code not in _INSTRUCTIONS:
                raise DamagedPickleError(f"its pickle has an instruction ({code!r}) that torch.save never writes")
            self.foreign |= code in _FOREIGN
            _INSTRUCTIONS[code](self)
        if self.foreign:
            raise DamagedPickleError("its pickle is of another protocol than the 2 that torch.save writes")
        return self.stack.pop()

    def take(self, length: int) -> bytes:
        """Return the next bytes of the program."""
        taken = self._data.read(length)
        if len(taken) < length:
            raise DamagedPickleError("its pickle is cut short")
        return taken

    def number(self, form: str) -> Any:
        """Read the next bytes as a number in a `struct` format."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        line = self._data.readline()
        if not line.endswith(b"\n"):
            raise DamagedPickleError("its pickle is cut short")
        return line[:-1].decode("utf-8")

    def mark(self) -> None:
        self._below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self._below.pop()
        return items

    def remember(self, index: int) -> None:
        self._memo[index] = self.stack[-1]

    def memoize(self) -> None:
        self.remember(len(self._memo))

    def recall(self, index: int) -> None:
        self.stack.append(self._memo[index])

    def bundle(self, count: int) -> None:
        """Replace the topmost values by a tuple of them."""
        if len(self.stack) < count:
            raise DamagedPickleError("its pickle is damaged")
        self.stack[-count:] = [tuple(self.stack[-count:])]

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise DamagedPickleError("its pickle appends to a value that is not a list")
        target.extend(items)

    def set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise DamagedPickleError("its pickle sets an item of a value that is not a dict")
        # State dicts have texts as keys. Other keys are left out: hashing a deeply nested tuple would crash the
        # process.
        pairs = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in pairs if isinstance(key, str))

    def item(self) -> None:
        value = self.stack.pop()
        key = self.stack.pop()
        self.set([key, value])

    def name(self) -> None:
        self.stack.append(named(self.line(), self.line()))

    def name_from_stack(self) -> None:
        name = self.stack.pop()
        module = self.stack.pop()
        if not isinstance(module, str) or not isinstance(name, str):
            raise DamagedPickleError("its pickle uses a name that is not text")
        self.stack.append(named(module, name))

    def reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise DamagedPickleError("its pickle calls a value that is not a function")
        self.stack.append(call(function, arguments))

    def build(self) -> None:
        """Drop the attributes of an object, since none matters here."""
        self.stack.pop()
        if not isinstance(self.stack[-1], dict | Opaque):
            raise DamagedPickleError("its pickle changes a forbidden value")

    def storage(self) -> None:
        storage = stored(self.stack.pop())
        if self._storages.setdefault(storage.key, storage) != storage:
            raise DamagedPickleError(f"its pickle describes the storage {quoted(storage.key)} in two ways")
        self.stack.append(storage)


def _pushing(value: Callable[[_Machine], object]) -> Callable[[_Machine], None]:
    def push(machine: _Machine) -> None:
        made = value(machine)  # may restore the stack from before a mark
        machine.stack.append(made)

    return push


def _text(form: str) -> Callable[[_Machine], None]:
    return _pushing(lambda machine: machine.take(machine.number(form)).decode("utf-8", "surrogatepass"))


def _bytes(form: str) -> Callable[[_Machine], None]:
    def skip(machine: _Machine) -> None:
        machine.take(machine.number(form))
        machine.stack.append(Opaque("bytes"))

    return skip


# Instructions of protocol 0 and of 3 and later. They are read so that an error can name the objects of such a pickle;
# then the pickle is refused.
_FOREIGN: dict[bytes, Callable[[_Machine], None]] = {
    pickle.FRAME: lambda machine: machine.number("<Q"),
    pickle.MEMOIZE: _Machine.memoize,
    pickle.SHORT_BINUNICODE: _text("<B"),
    pickle.STACK_GLOBAL: _Machine.name_from_stack,
    pickle.STRING: _pushing(_Machine.line),
    pickle.UNICODE: _pushing(_Machine.line),
    pickle.INST: _Machine.name,
    pickle.BINBYTES: _bytes("<I"),
    pickle.SHORT_BINBYTES: _bytes("<B"),
}

_INSTRUCTIONS: dict[bytes, Callable[[_Machine], None]] = {
    pickle.PROTO: lambda machine: machine.number("<B"),
    pickle.NONE: _pushing(lambda _: None),
    pickle.NEWTRUE: _pushing(lambda _: True),
    pickle.NEWFALSE: _pushing(lambda _: False),
    pickle.EMPTY_DICT: _pushing(lambda _: {}),
    pickle.EMPTY_LIST: _pushing(lambda _: []),
    pickle.EMPTY_TUPLE: _pushing(lambda _: ()),
    pickle.EMPTY_SET: _pushing(lambda _: Opaque("builtins.set")),
    pickle.BININT: _pushing(lambda machine: machine.number("<i")),
    pickle.BININT1: _pushing(lambda machine: machine.number("<B")),
    pickle.BININT2: _pushing(lambda machine: machine.number("<H")),
    pickle.BINFLOAT: _pushing(lambda machine: machine.number(">d")),
    pickle.LONG1: _pushing(lambda machine: int.from_bytes(machine.take(machine.number("<B")), "little", signed=True)),
    pickle.BINUNICODE: _text("<I"),
    pickle.SHORT_BINSTRING: _pushing(lambda machine: machine.take(machine.number("<B")).decode("latin-1")),
    pickle.MARK: _Machine.mark,
    pickle.TUPLE: _pushing(lambda machine: tuple(machine.since_mark())),
    pickle.TUPLE1: lambda machine: machine.bundle(1),
    pickle.TUPLE2: lambda machine: machine.bundle(2),
    pickle.TUPLE3: lambda machine: machine.bundle(3),
    pickle.APPEND: lambda machine: machine.append([machine.stack.pop()]),
    pickle.APPENDS: lambda machine: machine.append(machine.since_mark()),
    pickle.SETITEM: _Machine.item,
    pickle.SETITEMS: lambda machine: machine.set(machine.since_mark()),
    pickle.BINPUT: lambda machine: machine.remember(machine.number("<B")),
    pickle.LONG_BINPUT: lambda machine: machine.remember(machine.number("<I")),
    pickle.BINGET: lambda machine: machine.recall(machine.number("<B")),
    pickle.LONG_BINGET: lambda machine: machine.recall(machine.number("<I")),
    pickle.GLOBAL: _Machine.name,
    pickle.REDUCE: _Machine.reduce,
    pickle.NEWOBJ: _Machine.reduce,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.storage,
    **_FOREIGN,
}
