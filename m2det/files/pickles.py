"""Which pickles may be handed to torch.load: those of tensors and settings, read in no more than their size takes.

torch.load(weights_only=True) executes nothing of a file's own, but it lets a file of a few bytes make any number of
others, by calls (`bytearray(10**10)`, codecs, copies of copies) and by keys of one hash, which take quadratic time.
So a pickle is first read here, without making anything of what it describes.
"""

from __future__ import annotations

import pickletools
import re
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import torch

from m2det.files.tensors import MOST_TENSORS

MOST_STEPS = 50 * MOST_TENSORS  # opcodes, and entries that are handed to calls; torch.save takes about 35 for a tensor
LEGACY = 5  # pickles of a file that is no zip archive: magic number, version, system, content, keys of storages
MOST_BYTES_OF_NUMBER = 8  # of larger ones any number have one hash; only the magic number has 10
NAMED = {
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
TYPES = re.compile(r"torch (\w+Storage|b?float\w+|u?int\w+|half|double|short|long|bool|complex\w+)")  # calls of none
ATOMS = (str, bytes, int, float, type(None))


class _Named(str):
    """What GLOBAL names."""


class _Dict:
    def __init__(self) -> None:
        self.entries = 0


class _OrderedDict(_Dict):
    pass


def refuse_costly(path: Path) -> None:
    """Raises ValueError for a .pth that is no pickle of tensors and settings as torch.save writes them."""
    with path.open("rb") as file:
        if not file.read(4).startswith(b"PK\x03\x04"):  # by which torch.load decides
            file.seek(0)
            for number in range(LEGACY):
                _Reader(number).read(file)
            return
        file.seek(0)
        record = torch._C.PyTorchFileReader(file).get_record("data.pkl")  # as torch.load finds the record
    _Reader(LEGACY).read(BytesIO(record))


class _Reader:
    """Follows one pickle's stack; of dicts and of results of calls only the kind is kept."""

    def __init__(self, number: int) -> None:
        self.magic = number == 0
        self.stack: list[Any] = []
        self.marks: list[int] = []  # lengths of the stack
        self.memo: dict[int, Any] = {}
        self.handed = 0

    def read(self, file: BinaryIO) -> None:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
            if step > MOST_STEPS:
                raise ValueError(f"it has more than {MOST_STEPS} steps")
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
                if argument.bit_length() >= 8 * MOST_BYTES_OF_NUMBER and not self.magic:
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
                stack.append(_Named(argument))
                if argument not in NAMED and not TYPES.fullmatch(argument):
                    raise ValueError(f"it names {argument[:80]!r}, which no plain state dict has: save that alone")
            case "REDUCE":
                arguments = stack.pop()
                stack[-1] = self._call(stack[-1], arguments)
            case "BUILD":
                state = stack.pop()
                if not isinstance(state, _Dict) or not isinstance(stack[-1], _OrderedDict):
                    raise ValueError("it sets the state of what has none")
                self._hand(state)
            case "BINPERSID":
                if not (isinstance(stack[-1], tuple) and len(stack[-1]) > 2 and _is_key(stack[-1][2])):
                    raise ValueError("it names a storage by no number")  # names differ only in case: one storage, twice
                stack[-1] = None
            case "PROTO" | "STOP":
                pass
            case _:
                raise ValueError(f"it has the opcode {name}")

    def _marked(self) -> list[Any]:
        begins = self.marks.pop()
        items = self.stack[begins:]
        del self.stack[begins:]
        return items

    def _extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("it appends to what is no list")
        self.stack[-1].extend(items)

    def _set(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], _Dict):
            raise ValueError("it sets an entry of what is no dict")
        self.stack[-1].entries += len(items)
        _check_keys(items[::2])

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, _Named) or function not in NAMED or not isinstance(arguments, tuple):
            raise ValueError("it calls what is no function")
        for argument in arguments:
            self._hand(argument)
        if not function.startswith("collections"):
            if function.startswith("torch.storage"):
                raise ValueError("it makes a storage")
            return None
        for argument in arguments:
            if isinstance(argument, list):  # pairs, as Python 2 wrote an OrderedDict
                _check_keys([pair[0] for pair in argument])
            elif not isinstance(argument, _Dict):
                raise ValueError("it makes a dict of what is none")
        made = _OrderedDict()
        made.entries = sum(a.entries if isinstance(a, _Dict) else len(a) for a in arguments)
        return made

    def _hand(self, argument: Any) -> None:
        """Count what is copied, for one long list can be handed to any number of calls."""
        if isinstance(argument, _Dict):
            self.handed += argument.entries
        elif isinstance(argument, str | bytes | tuple | list):
            self.handed += len(argument)
        if self.handed > MOST_STEPS:
            raise ValueError("it copies the same values again and again")


def _check_keys(keys: list[Any]) -> None:
    for key in keys:
        if not isinstance(key, ATOMS):
            raise ValueError("a dict has a key that is neither a text nor a number")


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and key.isascii() and key.isdecimal()
