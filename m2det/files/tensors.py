"""safetensors files with a card (a JSON object of metadata) that contains the file's sha256."""

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

from m2det.errors import RECHECK_DVC_CACHE, InputError
from m2det.files.whole import replacing, require_utf8

CARD, SHA256 = "card", "sha256"  # one entry of metadata: safetensors writes several in random order
MAX_TENSORS = 20_000  # ten times the largest network's
MAX_CARD = 4 << 20  # characters
MAX_HEADER = 8 << 20  # bytes of card, names and shapes
OVERHEAD = 1 << 20  # bytes, ample for the header without the card
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64, "I64": torch.int64}

TensorSpec = tuple[tuple[int, ...], torch.dtype | str]  # shape and dtype
Check = Callable[[dict[str, Any], dict[str, TensorSpec]], None]


def save_tensors(path: Path, tensors: dict[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write tensors, a card and their checksum; equal tensors and cards give equal bytes.

    Args:
        path: The file to write.
        tensors: By name; no two may share memory.
        card: Values that JSON can hold.

    Raises:
        InputError: The disk is full (with the size of the file), or load_tensors would refuse the file.
    """
    require_utf8(path)
    text = json.dumps({**card, SHA256: checksum(tensors, card)}, sort_keys=True, allow_nan=False)
    if len(text) > MAX_CARD:
        raise InputError(f"{path}, not written: its card has {len(text)} characters; {MAX_CARD} are the most")
    if len(tensors) > MAX_TENSORS:
        raise InputError(f"{path}, not written: it has {len(tensors)} tensors; {MAX_TENSORS} are the most")
    needed = sum(tensor.nbytes for tensor in tensors.values()) + len(text) + OVERHEAD
    with replacing(path, needed) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # by the umask; safetensors' own is 0600
        try:
            save_file(tensors, str(temporary), metadata={CARD: text})
        except SafetensorError as error:
            if number := re.search(r"os error (\d+)", str(error)):  # the disk's own error, as text only
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise
        temporary.chmod(mode)
        _check_header(temporary, f"{path}, not written")


def load_tensors(path: Path, check: Check | None = None) -> tuple[dict[str, Tensor], dict[str, Any], bool]:
    """Read a safetensors file, and compare its checksum if it has one.

    Args:
        path: The file.
        check: Called with the card and each tensor's shape and dtype before the tensors are read; raises InputError
            to refuse the file.

    Returns:
        (tensors by name, card, whether the file has a checksum); other programs' files have an empty card.

    Raises:
        InputError: The file is missing, damaged, or no safetensors file.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    require_utf8(path)
    _check_header(path, str(path))
    try:
        with safe_open(str(path), "pt") as file:
            if len(file.keys()) > MAX_TENSORS:
                raise InputError(f"{path} holds {len(file.keys())} tensors; no network has more than {MAX_TENSORS}")
            text = (file.metadata() or {}).get(CARD, "{}")
            card = _parse(text, path)
            checked, expected = SHA256 in card, card.pop(SHA256, None)
            if check:
                check(card, {key: _spec(file.get_slice(key)) for key in file.keys()})  # noqa: SIM118
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:  # KeyError: a dtype that torch lacks
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise InputError(f"{path} is damaged or no safetensors file ({reason}); get it again") from error
    if not checked:
        return tensors, card, False
    if checksum(tensors, card) != expected:
        raise InputError(f"{path} is damaged: its sha256 is another than when it was written; {restore_advice(path)}")
    return tensors, card, True


def restore_advice(path: Path) -> str:
    """Return the advice for a damaged file that m2det wrote."""
    return (
        f"get it again, or, where DVC made it, have DVC check its own copy first (`{RECHECK_DVC_CACHE}`), then "
        f"`dvc checkout {path}` or `dvc repro`"
    )


def checksum(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> str:
    """Return the hexadecimal sha256 over the card and each tensor's name, dtype, shape and bytes, in order of names."""
    sha256 = hashlib.sha256()

    def add(text: str) -> None:
        sha256.update(len(text.encode()).to_bytes(8, "big") + text.encode())

    add(json.dumps(card, sort_keys=True))
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        add(f"{tensor.dtype} {tuple(tensor.shape)} {name}")
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha256.hexdigest()


def _spec(part: Any) -> TensorSpec:
    return tuple(part.get_shape()), DTYPES.get(part.get_dtype(), part.get_dtype())


def _check_header(path: Path, where: str) -> None:
    """Refuse a huge header, whose parsing would take many times its size; its length is the first 8 bytes."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if MAX_HEADER < length <= path.stat().st_size:  # a header longer than the file is refused by safetensors
        raise InputError(f"{where}: its header has {length:,} bytes; {MAX_HEADER:,} are the most")


def _parse(text: str, path: Path) -> dict[str, Any]:
    """Return the card's JSON object. Raises InputError for repeated keys, infinite numbers, and other JSON."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no number")

    if len(text) > MAX_CARD:
        raise InputError(f"{path}: its card has {len(text)} characters; {MAX_CARD} are the most")
    try:
        card = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
        json.dumps(card, allow_nan=False).encode()  # refuses 1e999, which is infinite, and half of a surrogate pair
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: its card is no valid JSON ({str(error)[:200]!r}); get or make the file again"
        ) from error
    if not isinstance(card, dict):
        raise InputError(f"{path}: its card is no JSON object; get or make the file again")
    return card
