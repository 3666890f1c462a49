"""Write and load model files: safetensors with the weights and a card."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from m2det.errors import InputError
from m2det.files.tensors import TensorSpec, load_tensors, restore_advice, save_tensors
from m2det.model import M2Det, build_model, first_names, get_config
from m2det.model.card import check_card

log = logging.getLogger(__name__)

RELEASED = "model.safetensors"  # in a folder that `m2det release` has made


def save_trained(path: Path, model: M2Det, card: dict[str, Any]) -> None:
    """Write a model file; equal runs give equal bytes. Leaves the model on the CPU.

    Args:
        path: The file to write.
        model: The trained network.
        card: As `m2det.model.card.Card`.

    Raises:
        InputError: The disk is full, or the card is not valid or another network's.
    """
    where = f"{path}, not written,"
    card = check_card(card, where)
    model.to("cpu").to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    state = model.state_dict()
    unique = {key: state[key] for key, first in first_names(model).items() if key == first}
    specs = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in unique.items()}
    _check_fits(card, specs, where, "give the card of this network")
    save_tensors(path, unique, card)


def load_trained(path: str | Path) -> tuple[M2Det, dict[str, Any]]:
    """Return a model file's network, in eval mode on the CPU, and its card.

    All checks come before the network takes memory: the card and each tensor's name, shape and dtype before the tensors
    are read, then the checksum and the values.

    Args:
        path: A model file, or a folder that `m2det release` has made.

    Raises:
        InputError: The file is missing, damaged, or not a model written by m2det.
    """
    path = find_model(Path(path))
    if not path.is_file():
        raise InputError(f"{path}: no such file; train a model first (`dvc repro`), or name another")

    def check(card: dict[str, Any], specs: Mapping[str, TensorSpec]) -> None:
        if "model" not in card:
            raise InputError(f"{path} is no model written by m2det (safetensors with a card inside)")
        _check_fits(check_card(card, str(path)), specs, str(path), restore_advice(path))

    tensors, card, checked = load_tensors(path, check)
    card = check_card(card, str(path))
    for key, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise InputError(f"{path}: its weights {key} are not all finite: it detects nothing; train or get it again")
    if not checked:
        log.warning("warning: %s has no checksum (of an earlier version of m2det): damage would not be seen", path)
    model = build_model(card["model"], len(card["classes"]), **card["overrides"])
    model.load_state_dict({key: tensors[name] for key, name in first_names(model).items()})
    return model.eval(), card


def find_model(path: Path) -> Path:
    """Return the model file: the path itself, or the one in a folder that `m2det release` has made."""
    return path / RELEASED if path.is_dir() else path


def _check_fits(card: dict[str, Any], specs: Mapping[str, TensorSpec], where: str, advice: str) -> None:
    """Raise InputError unless these are the names, shapes and dtypes of the card's network."""
    try:
        config = get_config(card["model"], **card["overrides"])
    except InputError as error:
        raise InputError(f"{where} has a card of no network: {error}") from error
    with torch.device("meta"):
        meta_model = build_model(config, len(card["classes"]))
    first, state = first_names(meta_model), meta_model.state_dict()
    expected = {key: (tuple(state[key].shape), state[key].dtype) for key in state if first[key] == key}
    if expected != specs:
        key = min(key for key in expected.keys() | specs.keys() if expected.get(key) != specs.get(key))
        raise InputError(
            f"{where}: its card and its tensors are of different networks: {key[:200]!r} is "
            f"{_describe(expected.get(key))} by the card and {_describe(specs.get(key))} in the file; {advice}"
        )


def _describe(spec: TensorSpec | None) -> str:
    return f"{spec[0]} {str(spec[1]).removeprefix('torch.')}" if spec else "absent"
