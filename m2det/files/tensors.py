"""safetensors files with a card, in which their own sha256 stands."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from m2det.errors import CHECK_COPIES, InputError
from m2det.files.whole import replacing, require_utf8

CARD, SHA256 = "card", "sha256"  # one entry of metadata, since safetensors writes several in any order
MOST_TENSORS = 20_000  # ten times those of the largest network
LONGEST_CARD = 4 << 20  # characters
LONGEST_HEADER = 8 << 20  # bytes, of card, names and shapes
BESIDE_TENSORS = 1 << 20  # bytes of a header with room to spare
TYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}

Layout = tuple[tuple[int, ...], torch.dtype | str]  # shape and type
Check = Callable[[dict[str, Any], dict[str, Layout]], None]


def save_tensors(path: Path, tensors: dict[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write tensors, which share no memory, with their checksum; equal ones with equal cards are equal bytes.

    Raises InputError for a full disk, with the bytes that the file takes, and for what load_tensors would refuse.
    """
    require_utf8(path)
    text = json.dumps({**card, SHA256: checksum(tensors, card)}, sort_keys=True, allow_nan=False)
    if len(text) > LONGEST_CARD:
        raise InputError(f"{path}, not written: its card has {len(text)} characters; {LONGEST_CARD} are the most")
    if len(tensors) > MOST_TENSORS:
        raise InputError(f"{path}, not written: it has {len(tensors)} tensors; {MOST_TENSORS} are the most")
    needed = sum(tensor.nbytes for tensor in tensors.values()) + len(text) + BESIDE_TENSORS
    with replacing(path, needed) as temporary:
        try:
            save_file(tensors, str(temporary), metadata={CARD: text})
        except SafetensorError as error:
            if number := re.search(r"os error (\d+)", str(error)):  # the disk's own error, as text only
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise
        _check_header(temporary, f"{path}, not written")


def load_tensors(path: Path, check: Check | None = None) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Tensors by name, the card, and whether a checksum was there and right; a file of others' has an empty card.

    check: raises InputError where card, shapes and types are not those wanted, before the tensors are read.
    Raises InputError for a file that is missing, damaged, or no safetensors file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    require_utf8(path)
    _check_header(path, str(path))
    try:
        with safe_open(str(path), "pt") as file:
            if len(file.keys()) > MOST_TENSORS:
                raise InputError(f"{path} holds {len(file.keys())} tensors; no network has more than {MOST_TENSORS}")
            text = (file.metadata() or {}).get(CARD, "{}")
            card = _parse(text, path)
            checked, written = SHA256 in card, card.pop(SHA256, None)
            if check:
                check(card, {key: _layout(file.get_slice(key)) for key in file.keys()})  # noqa: SIM118
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:  # KeyError: of a type that torch has not
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{path} is damaged or no safetensors file ({reason}); get it again") from error
    if not checked:
        return tensors, card, False
    if checksum(tensors, card) != written:
        raise InputError(f"{path} is damaged: its sha256 is another than when it was written; {get_again(path)}")
    return tensors, card, True


def get_again(path: Path) -> str:
    """The advice for a file of ours that is damaged."""
    return (
        f"get it again, or, where DVC made it, have DVC check its own copy first (`{CHECK_COPIES}`), then "
        f"`dvc checkout {path}` or `dvc repro`"
    )


def checksum(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> str:
    """sha256 over the card and each tensor's name, type, shape and bytes, in the order of names; hexadecimal."""
    total = hashlib.sha256()

    def add(text: str) -> None:
        total.update(len(text.encode()).to_bytes(8, "big") + text.encode())

    add(json.dumps(card, sort_keys=True))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        add(f"{tensor.dtype} {tuple(tensor.shape)} {name}")
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()


def _layout(part: Any) -> Layout:
    return tuple(part.get_shape()), TYPES.get(part.get_dtype(), part.get_dtype())


def _check_header(path: Path, where: str) -> None:
    """The format's first 8 bytes are its header's length; what parsing one takes is many times that."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if LONGEST_HEADER < length <= path.stat().st_size:  # a longer one is no safetensors file
        raise InputError(f"{where}: its header has {length:,} bytes; {LONGEST_HEADER:,} are the most")


def _parse(text: str, path: Path) -> dict[str, Any]:
    """The card's JSON object: each key once, and numbers that are finite. Raises InputError for anything else."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    if len(text) > LONGEST_CARD:
        raise InputError(f"{path}: its card has {len(text)} characters; {LONGEST_CARD} are the most")
    try:
        card = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(card, allow_nan=False).encode()  # 1e999 is infinite, and half of a surrogate pair no text
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: its card is no valid JSON ({str(error)[:200]!r}); get or make the file again"
        ) from error
    if not isinstance(card, dict):
        raise InputError(f"{path}: its card is no JSON object; get or make the file again")
    return card
