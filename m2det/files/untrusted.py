"""Read weights from files that m2det did not write: a .safetensors, or a .pth of plain tensors by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch
from torch import Tensor

from m2det.errors import InputError
from m2det.files.pickles import refuse_costly
from m2det.files.tensors import MAX_TENSORS, load_tensors

FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGER = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)  # dtypes of counters
MAX_EXPANSION = 4  # size of all tensors over the file's: a shared layer has several names


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a .safetensors or .pth file by name, without DataParallel's prefix `module.`.

    A .pth may have them under `state_dict`, as training scripts save them. No code in the file is executed. A
    .safetensors file's checksum is compared if it has one.

    Raises:
        InputError: The file is missing, or holds anything but plain tensors of finite numbers.
    """
    tensors: dict[Any, Tensor] = load_tensors(path)[0] if path.suffix == ".safetensors" else _load_pth(path)
    if not tensors:
        raise InputError(f"{path} holds no tensors by name; it takes a state dict")
    if len(tensors) > MAX_TENSORS:
        raise InputError(f"{path} holds {len(tensors)} tensors; no network has more than {MAX_TENSORS}")
    named: dict[str, Tensor] = {}
    for key, value in tensors.items():
        if fault := _fault(value):
            raise InputError(f"{path}: {str(key)[:200]!r} is {fault}; it takes plain numbers on the CPU")
        name = key.removeprefix("module.") if isinstance(key, str) else ""
        if not name or name in named:
            raise InputError(f"{path}: {str(key)[:200]!r} is no name of a tensor, or occurs twice")
        named[name] = value
    size = path.stat().st_size  # expand() makes a tensor of any size from one number
    if sum(value.nbytes for value in named.values()) > MAX_EXPANSION * size:
        raise InputError(f"{path} has {size:,} bytes, but its tensors would take over {MAX_EXPANSION} times as many")
    for name, value in named.items():
        if not value.isfinite().all():
            raise InputError(f"{path}: its tensor {name[:200]!r} holds values that are not finite; get it again")
    return {name: value.contiguous() for name, value in named.items()}


def _load_pth(path: Path) -> dict[Any, Tensor]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        if is_zipfile(path):
            _refuse_bomb(path)
        refuse_costly(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen types, all for files that are not plain tensors
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        advice = "delete it and get it again"
        raise InputError(f"{path} cannot be loaded as plain tensors ({reason}); {advice}") from error
    state = content.get("state_dict", content) if isinstance(content, dict) else {}
    items = state.items() if isinstance(state, dict) else ()
    return {key: value.detach() for key, value in items if isinstance(value, Tensor)}


def _refuse_bomb(path: Path) -> None:
    """Raise ValueError for a compressed archive: torch.save never compresses."""
    with ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != ZIP_STORED for member in members):
        raise ValueError("its archive is compressed")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("the archive's members are longer than the archive")


def _fault(tensor: Tensor) -> str:
    """Return why the tensor cannot be a state dict's, or an empty text."""
    if tensor.device.type != "cpu":
        return f"on the device {tensor.device}"
    if tensor.layout != torch.strided or tensor.is_nested:
        return "sparse or nested"
    if tensor.dtype in FLOATING or (tensor.dtype in INTEGER and tensor.dim() == 0):
        return ""
    return f"of type {str(tensor.dtype)[6:]}"  # quantized, too
