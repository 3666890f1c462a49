"""The state of an unfinished training, and the finished model's file."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from m2det.errors import InputError
from m2det.model import M2Det, build_model, first_names

log = logging.getLogger(__name__)

VERSION = 2
KEPT = 2  # the last one may be what a failing disk spoils


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write {version, **state} as the checkpoint of state["step"]; the last two are kept.

    state holds tensors and plain types only, so that it loads with weights_only=True.
    """
    _write(folder / f"step-{state['step']:09d}.pt", {"version": VERSION, **state})
    for path in checkpoints(folder)[:-KEPT]:
        path.unlink()


def save_best(folder: Path, epoch: int, model: nn.Module) -> None:
    """Keep the model's weights as those of `epoch`; the checkpoint that names it comes later, so two are kept."""
    _write(_best(folder, epoch), {"model": model.state_dict()})
    for path in sorted(folder.glob("best-*.pt"))[:-KEPT]:
        path.unlink()


def load_best(folder: Path, epoch: int, model: nn.Module) -> None:
    """Put what save_best has kept into the model."""
    model.load_state_dict(torch.load(_best(folder, epoch), map_location="cpu", weights_only=True)["model"])


def _best(folder: Path, epoch: int) -> Path:
    return folder / f"best-{epoch:06d}.pt"


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write under a temporary name, then rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def checkpoints(folder: Path) -> list[Path]:
    """Those of an unfinished run, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))


def load_state(folder: Path) -> dict[str, Any] | None:
    """The last saved state, on the CPU, or None where this run has not saved any.

    One that cannot be read is passed over with a warning. Raises InputError where none of them can.
    """
    damaged = None
    for path in reversed(checkpoints(folder)):
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        except (RuntimeError, EOFError, UnpicklingError) as error:
            log.warning("warning: %s is damaged (%r)", path, error)
            damaged = path
            continue
        if state["version"] != VERSION:
            raise InputError(
                f"{path} has version {state['version']}, this code reads {VERSION}; delete it to start anew"
            )
        return state
    if damaged:
        raise InputError(f"no checkpoint in {folder} can be read; delete the folder to start anew")
    return None


def save_trained(path: Path, model: M2Det, card: dict[str, Any]) -> None:
    """Weights and card as safetensors; equal runs give equal bytes. Leaves the model on the CPU."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    model.to("cpu").to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    state = model.state_dict()
    unique = {key: state[key] for key, first in first_names(model).items() if key == first}
    save_file(unique, str(temporary), metadata={"card": json.dumps(card, sort_keys=True)})
    os.replace(temporary, path)


def load_trained(path: str | Path) -> tuple[M2Det, dict[str, Any]]:
    """A finished model in eval mode on the CPU, and its card.

    Raises InputError for a file that is missing or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; train a model first (`dvc repro`), or name another")
    try:
        with safe_open(str(path), "pt") as file:
            card = json.loads((file.metadata() or {})["card"])
        model = build_model(card["model"], len(card["classes"]), **card["overrides"])
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is no model written by m2det (safetensors with a card inside)") from error
    state = load_file(str(path))
    model.load_state_dict({key: state[first] for key, first in first_names(model).items()})
    return model.eval(), card
