"""Refuse pickles that are cheap to write and costly to load, before torch.load reads them.

torch.load(weights_only=True) executes no code of the file, but a file of a few bytes can take any amount of memory, by
calls (`bytearray(10**10)`, codecs, copies of copies), and quadratic time, by keys of equal hash. So this module first
follows a pickle's opcodes without building its objects, and accepts only tensors and settings as torch.save writes
them.
"""

from __future__ import annotations

import pickletools
import re
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch

from m2det.files.tensors import MAX_TENSORS

MAX_OPCODES = 50 * MAX_TENSORS  # also entries passed to calls; torch.save needs about 35 per tensor
LEGACY_PICKLES = 5  # in a file that is no zip archive: magic number, version, system, content, keys of storages
MAX_INTEGER_BYTES = 8  # any number of larger integers share one hash; only the magic number has 10
ALLOWED_GLOBALS = {
    "collections OrderedDict",
    "collections Counter",  # milestones of MultiStepLR
    "torch Size",
    "torch device",
    "torch._utils _rebuild_tensor",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_tensor_v3",  # of newer types
    "torch._utils _rebuild_parameter",
    "torch.storage TypedStorage",
    "torch.storage UntypedStorage",
}
# never called
ALLOWED_TYPES = re.compile(r"torch (\w+Storage|b?float\w+|u?int\w+|half|double|short|long|bool|complex\w+)")
KEY_TYPES = (str, bytes, int, float, type(None))


class _Global(str):
    """The argument of the opcode GLOBAL: "module name"."""


@dataclass
class _Dict:
    entries: int = 0


class _OrderedDict(_Dict):
    pass


def refuse_costly(path: Path) -> None:
    """Raise ValueError unless a .pth is a pickle of tensors and settings as torch.save writes them."""
    with path.open("rb") as file:
        if not file.read(4).startswith(b"PK\x03\x04"):  # the test of torch.load
            file.seek(0)
            for number in range(LEGACY_PICKLES):
                _Reader(number).read(file)
            return
        file.seek(0)
        record = torch._C.PyTorchFileReader(file).get_record("data.pkl")  # the record that torch.load reads
    _Reader(LEGACY_PICKLES).read(BytesIO(record))


class _Reader:
    """Follows one pickle's stack; keeps only the type of dicts and of calls' results."""

    def __init__(self, number: int) -> None:
        self.magic = number == 0
        self.stack: list[Any] = []
        self.marks: list[int] = []  # lengths of the stack
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def read(self, file: BinaryIO) -> None:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if count > MAX_OPCODES:
                raise ValueError(f"it has more than {MAX_OPCODES} opcodes")
            self._take(opcode.name, argument)

    def _take(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "BINUNICODE" | "SHORT_BINSTRING" | "BININT" | "BININT1" | "BININT2" | "BINFLOAT":
                stack.append(argument)
            case "LONG1":
                if argument.bit_length() >= 8 * MAX_INTEGER_BYTES and not self.magic:
                    raise ValueError(f"it has a number of {argument.bit_length()} bits")
                stack.append(argument)
            case "MARK":
                self.marks.append(len(stack))
            case "NONE" | "NEWFALSE" | "NEWTRUE":
                stack.append({"NONE": None, "NEWFALSE": False, "NEWTRUE": True}[name])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                stack.append(tuple(self._marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "EMPTY_LIST":
                stack.append([])
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS":
                self._extend(self._marked())
            case "EMPTY_DICT":
                stack.append(_Dict())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set([key, value])
            case "SETITEMS":
                self._set(self._marked())
            case "GLOBAL":
                stack.append(_Global(argument))
                if argument not in ALLOWED_GLOBALS and not ALLOWED_TYPES.fullmatch(argument):
                    raise ValueError(f"it names {argument[:80]!r}, which no plain state dict has: save that alone")
            case "REDUCE":
                arguments = stack.pop()
                stack[-1] = self._call(stack[-1], arguments)
            case "BUILD":
                state = stack.pop()
                if not isinstance(state, _Dict) or not isinstance(stack[-1], _OrderedDict):
                    raise ValueError("it sets the state of an object that has none")
                self._count_copies(state)
            case "BINPERSID":
                # torch takes keys that differ only in case for one storage
                if not (isinstance(stack[-1], tuple) and len(stack[-1]) > 2 and _is_key(stack[-1][2])):
                    raise ValueError("a storage's key is no number")
                stack[-1] = None
            case "PROTO" | "STOP":
                pass
            case _:
                raise ValueError(f"it has the opcode {name}")

    def _marked(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("it appends to an object that is no list")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], _Dict):
            raise ValueError("it sets an entry of an object that is no dict")
        self.stack[-1].entries += len(items)
        _check_keys(items[::2])

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Global) or function not in ALLOWED_GLOBALS or not isinstance(arguments, tuple):
            raise ValueError("it calls an object that is no function")
        for argument in arguments:
            self._count_copies(argument)
        if not function.startswith("collections"):
            if function.startswith("torch.storage"):
                raise ValueError("it makes a storage")
            return None
        for argument in arguments:
            if isinstance(argument, list):  # pairs, as Python 2 wrote an OrderedDict
                _check_keys([pair[0] for pair in argument])
            elif not isinstance(argument, _Dict):
                raise ValueError("it makes a dict of an object that is none")
        return _OrderedDict(sum(a.entries if isinstance(a, _Dict) else len(a) for a in arguments))

    def _count_copies(self, argument: Any) -> None:
        """Limit the entries passed to calls, since one long list can be an argument of any number of calls."""
        if isinstance(argument, _Dict):
            self.copied += argument.entries
        elif isinstance(argument, str | bytes | tuple | list):
            self.copied += len(argument)
        if self.copied > MAX_OPCODES:
            raise ValueError("it copies the same values again and again")


def _check_keys(keys: list[Any]) -> None:
    for key in keys:
        if not isinstance(key, KEY_TYPES):
            raise ValueError("a dict has a key that is neither a text nor a number")


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdecimal()
