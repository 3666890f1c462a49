"""The name of a run in Prefect: what it does, with which recipe, of which commit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prefect import get_client
from prefect.runtime import flow_run


def run_name(recipe: str | None, settings: Mapping[str, Any], stages: Sequence[str], commit: str) -> str:
    """Return a name such as `coco512-8p 160 epochs, 3f2a1c`.

    Args:
        recipe: of the run, None for params.yaml as it is.
        settings: of the run.
        stages: that the run was asked for; empty for all.
        commit: of the working copy.
    """
    steps = settings["train"]["max_steps"]
    count, unit = (steps, "step") if steps else (settings["epochs"], "epoch")
    training = f"{count} {unit}{'s'[: count > 1]}"
    what = training if "train" in (stages or ["train"]) else stages[-1]
    return f"{recipe or 'params.yaml'} {what}, {commit[:6]}"


def early_name() -> str:
    """Return the name of a run whose settings are not known yet, or never will be: its recipe and its last stage."""
    given = flow_run.parameters
    return " ".join([given.get("recipe") or "params.yaml", *given.get("stages", [])[-1:]])


def rename_run(name: str) -> None:
    """Give the run of this process a name."""
    with get_client(sync_client=True) as client:
        client.update_flow_run(flow_run.id, name=name)
