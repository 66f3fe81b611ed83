"""A pickle reader that executes nothing: its globals are a fixed table, every other global becomes an inert
:class:`cpm_gen.checkpoints.formats.known_globals.Dropped`.

A pickle is a program. This reader lets it build plain containers, numbers, strings and numpy arrays of numbers, and passes
tensors to the caller's function. It never imports a name from the file.

Costs. A pickle of N bytes takes time linear in N, at most ``300 * N`` bytes of memory, and never more than about 1 GB beside
``8 * N``. What bounds them:

- a length is compared with what is left of the file before memory is allocated; a pickle has at most
  :data:`cpm_gen.checkpoints.formats.pickle_source.PICKLE_BYTES`;
- a pickle has at most :data:`OPCODES` opcodes, and what calls copy is bounded by the number of bytes read;
- a whole number has at most 256 bytes;
- keys of dictionaries and elements of sets are strings, numbers, None, or short tuples of these: hashing and comparing
  them is cheap. Python does not randomize the hashes of numbers and tuples, so that a file can make them collide:
  their number is bounded;
- containers are nested at most 64 deep. Shared ones are counted in each place where they stand.
"""

from __future__ import annotations

import codecs
import pickle
import struct
from collections.abc import Callable
from typing import IO, Any

from cpm_gen.checkpoints.formats.known_globals import (
    STORAGE_DTYPES,
    Array,
    Budget,
    Dropped,
    MakeTensor,
    NumberType,
    known,
)
from cpm_gen.checkpoints.formats.pickle_source import PickleSource
from cpm_gen.checkpoints.formats.plain_containers import Containers, check_nesting

OPCODES = 3_000_000
_INT_BYTES, _LINE, _MEMO = 256, 4096, 1 << 32
_ARGUMENTS = 16  # of a call


class Unpickler:
    """Reads one pickle from where ``file`` stands."""

    def __init__(
        self,
        file: IO[bytes],
        left: int,
        persistent: Callable[[Any], Any],
        tensor: MakeTensor,
        note: Callable[[str], None],
    ) -> None:
        """left: bytes of the file from here to its end. persistent: turns a storage's description into a storage.

        tensor: makes a tensor over a storage. note: is given the name of every global that is dropped.
        """
        self._source = PickleSource(file, left)
        self._persistent = persistent
        self._note = note
        budget = Budget(10_000 + 4 * self._source.size)
        self._containers = containers = Containers(budget)
        self._table = known(tensor, note, budget, containers)
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object; raises UnpicklingError (or any other Exception) if the pickle is damaged or exceeds a bound."""
        source, stop, operations = self._source, pickle.STOP[0], _OPERATIONS
        for _ in range(OPCODES):
            if source.at < len(source.data):  # as source.byte(), without a call for each opcode
                code = source.data[source.at]
                source.at += 1
            else:
                code = source.byte()
            if operation := operations.get(code):
                operation(self)
            elif code == stop:
                source.close()
                content = self._stack.pop()
                check_nesting(content, 10_000 + 16 * (source.size - source.left))
                return content
            else:
                raise pickle.UnpicklingError(f"byte {source.size - source.left - 1}: unknown opcode {code:#04x}")
        raise pickle.UnpicklingError(f"more than {OPCODES:,} opcodes")

    def _protocol(self) -> None:
        if (protocol := self._source.byte()) > pickle.HIGHEST_PROTOCOL:
            raise pickle.UnpicklingError(f"unsupported pickle protocol {protocol}")

    def _frame(self) -> None:  # opcodes lie inside frames as they do without
        if (length := self._source.number("u8")) > self._source.left:
            raise pickle.UnpicklingError(f"a frame of {length:,} bytes, {self._source.left:,} are left")

    # the stack

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_mark(self) -> list[Any]:
        at = self._marks.pop()
        items = self._stack[at:]
        del self._stack[at:]
        return items

    def _pop(self) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def _give_top(self, give: Callable[[Any, list[Any]], None]) -> None:
        items = self._pop_mark()
        give(self._stack[-1], items)

    def _replace(self, count: int, value: Any) -> None:
        if len(self._stack) < count:
            raise pickle.UnpicklingError("the stack is empty")
        del self._stack[len(self._stack) - count :]
        self._stack.append(value)

    # values

    def _integer(self) -> None:  # of protocol 0: also writes booleans
        line = self._source.line(_LINE)
        self._push({b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line.rstrip(b"L")))

    def _long(self, form: str) -> None:
        count = self._source.number(form)
        if count > _INT_BYTES:
            raise pickle.UnpicklingError(f"a whole number of {count:,} bytes")
        self._push(int.from_bytes(self._source.read(count), "little", signed=True))

    def _string(self) -> None:  # of protocol 0
        line = self._source.line()
        if len(line) < 2 or line[0] != line[-1] or line[0] not in b"'\"":
            raise pickle.UnpicklingError("a string without quotes")
        self._push(codecs.escape_decode(line[1:-1])[0].decode("latin1"))

    def _text(self, form: str) -> None:
        self._push(str(self._source.sized(form), "utf-8", "surrogatepass"))

    def _dictionary(self) -> None:
        items, result = self._pop_mark(), dict[Any, Any]()
        self._containers.fill(result, items)
        self._push(result)

    def _one_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._containers.fill(self._stack[-1], [key, value])

    # globals and calls

    def _global(self, module: Any, name: Any) -> Any:
        if type(module) is not str or type(name) is not str:
            raise pickle.UnpicklingError("a global whose name is no string")
        if (module, name) in self._table:
            return self._table[module, name]
        if module in ("torch", "torch.storage") and name in STORAGE_DTYPES:
            return STORAGE_DTYPES[name]
        return self._drop(f"{module[:200]}.{name[:200]}")

    def _drop(self, origin: str) -> Dropped:
        self._note(origin)
        return Dropped(origin)

    def _named(self) -> Any:
        return self._global(self._source.line().decode("utf-8"), self._source.line().decode("utf-8"))

    def _call(self, function: Any, arguments: Any, keywords: Any = None) -> Any:
        if isinstance(function, Dropped):
            return function
        if type(arguments) not in (tuple, list) or len(arguments) > _ARGUMENTS or keywords or not callable(function):
            raise pickle.UnpicklingError("a call that no checkpoint makes")
        return function(*arguments)

    def _instance(self) -> None:
        function = self._named()
        self._push(self._call(function, self._pop_mark()))

    def _object(self) -> None:
        function, *arguments = self._pop_mark()
        self._push(self._call(function, arguments))

    def _extension(self, form: str) -> None:
        """A number that stands for a global registered in this process: not looked up."""
        self._push(self._drop(f"copyreg extension {self._source.number(form)}"))

    def _reduce(self, count: int) -> None:
        function, arguments, *keywords = self._stack[-count:]
        self._replace(count, self._call(function, arguments, *keywords))

    def _build(self) -> None:
        """Functions, dictionaries and TensorRefs keep what they are; a state given to them is ignored."""
        state = self._stack.pop()
        if isinstance(self._stack[-1], (Array, NumberType)):
            self._stack[-1].set_state(state)

    # memo

    def _put(self, number: int) -> None:
        if not 0 <= number < _MEMO:
            raise pickle.UnpicklingError("a memo number out of range")
        self._memo[number] = self._stack[-1]

    def _get(self, number: int) -> None:
        if number not in self._memo:
            raise pickle.UnpicklingError(f"nothing was stored as number {number}")
        self._push(self._memo[number])


_OPERATIONS: dict[int, Callable[[Unpickler], Any]] = {
    code[0]: operation
    for code, operation in {
        pickle.PROTO: Unpickler._protocol,
        pickle.FRAME: Unpickler._frame,
        # values
        pickle.NONE: lambda m: m._stack.append(None),
        pickle.NEWTRUE: lambda m: m._stack.append(True),
        pickle.NEWFALSE: lambda m: m._stack.append(False),
        pickle.INT: Unpickler._integer,
        pickle.LONG: Unpickler._integer,
        pickle.BININT: lambda m: m._stack.append(struct.unpack("<i", m._source.read(4))[0]),
        pickle.BININT1: lambda m: m._stack.append(m._source.byte()),
        pickle.BININT2: lambda m: m._stack.append(m._source.number("u2")),
        pickle.LONG1: lambda m: m._long("u1"),
        pickle.LONG4: lambda m: m._long("i4"),
        pickle.FLOAT: lambda m: m._stack.append(float(m._source.line(_LINE))),
        pickle.BINFLOAT: lambda m: m._stack.append(struct.unpack(">d", m._source.read(8))[0]),
        pickle.STRING: Unpickler._string,
        pickle.BINSTRING: lambda m: m._stack.append(m._source.sized("i4").decode("latin1")),
        pickle.SHORT_BINSTRING: lambda m: m._stack.append(m._source.sized("u1").decode("latin1")),
        pickle.UNICODE: lambda m: m._stack.append(str(m._source.line(), "raw-unicode-escape")),
        pickle.BINUNICODE: lambda m: m._text("u4"),
        pickle.BINUNICODE8: lambda m: m._text("u8"),
        pickle.SHORT_BINUNICODE: lambda m: m._text("u1"),
        pickle.BINBYTES: lambda m: m._stack.append(m._source.sized("u4")),
        pickle.BINBYTES8: lambda m: m._stack.append(m._source.sized("u8")),
        pickle.SHORT_BINBYTES: lambda m: m._stack.append(m._source.sized("u1")),
        pickle.BYTEARRAY8: lambda m: m._stack.append(bytearray(m._source.sized("u8"))),
        # containers
        pickle.EMPTY_TUPLE: lambda m: m._stack.append(()),
        pickle.TUPLE1: lambda m: m._replace(1, tuple(m._stack[-1:])),
        pickle.TUPLE2: lambda m: m._replace(2, tuple(m._stack[-2:])),
        pickle.TUPLE3: lambda m: m._replace(3, tuple(m._stack[-3:])),
        pickle.TUPLE: lambda m: m._stack.append(tuple(m._pop_mark())),
        pickle.EMPTY_LIST: lambda m: m._stack.append([]),
        pickle.LIST: lambda m: m._stack.append(m._pop_mark()),
        pickle.APPEND: lambda m: m._containers.extend(m._stack[-2], [m._stack.pop()]),
        pickle.APPENDS: lambda m: m._give_top(m._containers.extend),
        pickle.EMPTY_DICT: lambda m: m._stack.append({}),
        pickle.DICT: Unpickler._dictionary,
        pickle.SETITEM: Unpickler._one_item,
        pickle.SETITEMS: lambda m: m._give_top(m._containers.fill),
        pickle.EMPTY_SET: lambda m: m._stack.append(set()),
        pickle.ADDITEMS: lambda m: m._give_top(m._containers.add),
        pickle.FROZENSET: lambda m: m._stack.append(frozenset(m._containers.key(item) for item in m._pop_mark())),
        # the stack and the memo
        pickle.MARK: lambda m: m._marks.append(len(m._stack)),
        pickle.POP: Unpickler._pop,
        pickle.POP_MARK: Unpickler._pop_mark,
        pickle.DUP: lambda m: m._stack.append(m._stack[-1]),
        pickle.PUT: lambda m: m._put(int(m._source.line(_LINE))),
        pickle.BINPUT: lambda m: m._put(m._source.byte()),
        pickle.LONG_BINPUT: lambda m: m._put(m._source.number("u4")),
        pickle.MEMOIZE: lambda m: m._put(len(m._memo)),
        pickle.GET: lambda m: m._get(int(m._source.line(_LINE))),
        pickle.BINGET: lambda m: m._get(m._source.byte()),
        pickle.LONG_BINGET: lambda m: m._get(m._source.number("u4")),
        # globals and calls
        pickle.GLOBAL: lambda m: m._stack.append(m._named()),
        pickle.STACK_GLOBAL: lambda m: m._replace(2, m._global(*m._stack[-2:])),
        pickle.EXT1: lambda m: m._extension("u1"),
        pickle.EXT2: lambda m: m._extension("u2"),
        pickle.EXT4: lambda m: m._extension("i4"),
        pickle.PERSID: lambda m: m._stack.append(m._persistent(m._source.line(_LINE))),
        pickle.BINPERSID: lambda m: m._stack.append(m._persistent(m._stack.pop())),
        pickle.REDUCE: lambda m: m._reduce(2),
        pickle.NEWOBJ: lambda m: m._reduce(2),
        pickle.NEWOBJ_EX: lambda m: m._reduce(3),
        pickle.INST: Unpickler._instance,
        pickle.OBJ: Unpickler._object,
        pickle.BUILD: Unpickler._build,
    }.items()
}
