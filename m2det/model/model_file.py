"""A finished model's file: weights and card."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from m2det.errors import InputError
from m2det.files.tensors import Layout, get_again, load_tensors, save_tensors
from m2det.model import M2Det, build_model, first_names, get_config
from m2det.model.card import check_card

log = logging.getLogger(__name__)


def save_trained(path: Path, model: M2Det, card: dict[str, Any]) -> None:
    """Weights and card as safetensors; equal runs give equal bytes. Leaves the model on the CPU.

    Raises InputError for a full disk, and for a card that load_trained would refuse, or of another network.
    """
    where = f"{path}, not written,"
    card = check_card(card, where)
    model.to("cpu").to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    state = model.state_dict()
    unique = {key: state[key] for key, first in first_names(model).items() if key == first}
    layouts = {key: (tuple(tensor.shape), tensor.dtype) for key, tensor in unique.items()}
    _check_fits(card, layouts, where, "give the card of this network")
    save_tensors(path, unique, card)


def load_trained(path: str | Path) -> tuple[M2Det, dict[str, Any]]:
    """A finished model in eval mode on the CPU, and its card.

    Everything is checked before the network takes memory: the card, each tensor's name, shape and type before the
    tensors are read, then the checksum and the values.
    Raises InputError for a file that is missing, damaged, or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; train a model first (`dvc repro`), or name another")

    def check(card: dict[str, Any], found: Mapping[str, Layout]) -> None:
        if "model" not in card:
            raise InputError(f"{path} is no model written by m2det (safetensors with a card inside)")
        _check_fits(check_card(card, str(path)), found, str(path), get_again(path))

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


def _check_fits(card: dict[str, Any], found: Mapping[str, Layout], where: str, advice: str) -> None:
    """Raises InputError where these are not the names, shapes and types of the card's network."""
    try:
        config = get_config(card["model"], **card["overrides"])
    except InputError as error:
        raise InputError(f"{where} has a card of no network: {error}") from error
    with torch.device("meta"):
        twin = build_model(config, len(card["classes"]))
    first, state = first_names(twin), twin.state_dict()
    wanted = {key: (tuple(state[key].shape), state[key].dtype) for key in state if first[key] == key}
    if wanted != found:
        key = min(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        raise InputError(
            f"{where}: its card and its tensors are of different networks: {key[:200]!r} is {_say(wanted.get(key))} by "
            f"the card and {_say(found.get(key))} in the file; {advice}"
        )


def _say(layout: Layout | None) -> str:
    return f"{layout[0]} {str(layout[1]).removeprefix('torch.')}" if layout else "absent"
