"""`python -m tasks.preflight STAGE ...`: what would stop these stages, found in seconds before they start.

A process of its own, so that whoever asks needs no torch. The last line on stdout is JSON: `findings`, a list of
sentences; `device`, such as npu, and `processes` of the stages that compute, or null and 0 where none does or a finding
says why.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from m2det.config import Params
from m2det.errors import InputError, explain_missing_cann
from tasks.common import main_root, params
from tasks.inputs import outs_of, path_of, read_stages

MAX_HASHED = 10**9  # bytes of a file whose sha256 takes a second or two
BY_HAND = "get it elsewhere and put it at"


@dataclass
class Preflight:
    """The result.

    findings: sentences that say what is wrong and the remedy.
    device: type of the device that computes, None for none.
    processes: that compute together.
    """

    findings: list[str] = field(default_factory=list)
    device: str | None = None
    processes: int = 0


def preflight(params: Params, stages: Sequence[str]) -> Preflight:
    """Check what the stages need: data, weights, what earlier stages make, devices, and room on the disk.

    Args:
        params: of the run, as ./params.yaml holds them.
        stages: in their order; the last one will run even if it is up to date.
    """
    found = Preflight(missing_outputs(stages))

    def check(look: Callable[[], Any]) -> None:
        try:
            with explain_missing_cann():
                look()
        except InputError as error:
            found.findings.append(str(error))

    running = will_run(stages)
    missing = list(missing_data(params)) if running & {"data", "pack"} else []
    found.findings += missing
    if "weights" in running:
        check(lambda: check_weights(params))
    if running & {"train", "evaluate", "benchmark", "performance"}:
        check(lambda: choose_machine(params, found))
    if found.processes:
        for look in machine_checks(params, running, found.processes):
            check(look)
    check(lambda: check_room(params, running - {"pack"} if missing else running))
    return found


def missing_outputs(stages: Sequence[str]) -> list[str]:
    """Return a sentence for each stage that reads what another one makes and nobody has made yet."""
    entries = read_stages("dvc.yaml")
    maker = {path_of(out): name for name, entry in entries.items() for out in outs_of(entry)}
    sentences = []
    for name in stages:
        made = [dep for dep in entries[name]["deps"] if dep in maker and maker[dep] not in stages]
        if missing := [dep for dep in made if not Path(dep).exists()]:
            makers = ", ".join(dict.fromkeys(maker[dep] for dep in missing))
            sentence = f"{name} needs {', '.join(missing)}, not there yet: run these stages, too: {makers}"
            if by_hand := [dep for dep in missing if (main_root() / dep).exists()]:
                sentence += (
                    f"; {main_root()} has {', '.join(by_hand)}, but a run takes what dvc.lock records and DVC's cache "
                    f"holds: `dvc repro --single-item --force {name}` there takes these files as they are"
                )
            sentences.append(sentence)
    return sentences


def will_run(stages: Sequence[str]) -> set[str]:
    """Return the stages without those that are up to date, by DVC, and will stay so; the last one runs in any case."""
    asked = ("data", "pack", "weights", "train")
    command = [sys.executable, "-m", "dvc", "status", "--json", *asked]
    # where DVC fails it prints no JSON; its own sentence follows once the stages start
    printed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    changed = {*json.loads(printed)} if printed.startswith("{") else {*asked}
    if "data" in changed:
        changed.add("pack")
    if changed:
        changed.add("train")
    return {name for name in stages if name not in asked or name in changed or name == stages[-1]}


def missing_data(params: Params) -> Iterator[str]:
    """Yield a sentence for each file of the source that is not there, or that its server does not have."""
    from m2det.data.sources.coco2014 import absent_archives
    from m2det.data.sources.manifest import roots_of
    from m2det.data.sources.presence import missing_files
    from m2det.download import require_reachable

    yield from missing_files(params.data, main_root(), params.looks_for_test)
    if params.data.source == "coco2014-download":
        _, root = roots_of(params.data, main_root())
        for archive in absent_archives(root)[:1]:
            try:
                require_reachable(f"{params.data.mirror.rstrip('/')}/{archive.path}", f"{BY_HAND} {root}")
            except InputError as error:
                yield str(error)


def check_weights(params: Params) -> None:
    """Raise InputError if what training starts from is not there: a file, a URL or a checkpoint."""
    from m2det.download import require_reachable
    from m2det.model.initial import CORRECT, downloaded_path, initial_address, local_path, require_sha256
    from m2det.model.pretrained import check_sha256
    from m2det.model.published import images_of, remedy

    settings = params.weights
    if settings.source == "random":
        return
    source = initial_address(settings, params.model.name)
    path = downloaded_path(source, main_root()) if "://" in source else local_path(source, main_root())
    images_of(path.name, settings.images)
    if "://" in source:
        require_sha256(source, settings)
    if not path.exists():
        require_reachable(source, remedy(source, path))
    elif path.stat().st_size <= MAX_HASHED:
        check_sha256(path, path.name, settings.sha256, str(path), CORRECT)


def choose_machine(params: Params, found: Preflight) -> None:
    """Fill in device and processes. Raise InputError if the machine does not have them."""
    from m2det.device import choose_device
    from m2det.distributed.launch import count_processes

    found.device = choose_device(params.run.device).type
    found.processes = count_processes(params)


def machine_checks(params: Params, stages: Collection[str], processes: int) -> list[Callable[[], Any]]:
    """Return functions that raise InputError if the device cannot compute as the parameters say."""
    from torch import nn

    from m2det.device import choose_device, compile_model, convert_sync_bn
    from m2det.distributed.cores import check_workers
    from m2det.model import get_config
    from m2det.train.build import make_precision
    from m2det.train.graph import check_graph
    from m2det.train.optim import check_training_batch

    device, run, train = choose_device(params.run.device), params.run, params.train
    if not {"train", "performance"} & {*stages}:
        return [lambda: check_workers(params, 1)] if "benchmark" in stages else []

    def check_microbatch() -> None:
        check_training_batch(
            get_config(params.model.name, **params.model.all_overrides), train.microbatch, "train.microbatch"
        )

    return [
        lambda: check_workers(params, processes),
        lambda: train.accumulation(processes * params.run.nodes),
        check_microbatch,
        lambda: make_precision(params.precision, device),
        *[lambda: check_graph(train, params.precision, run.compile, device, processes * run.nodes)] * run.graph,
        *[lambda: compile_model(nn.Identity(), device)] * run.compile,
        *[lambda: convert_sync_bn(nn.Identity(), device)] * train.sync_bn,
    ]


def check_room(params: Params, stages: Collection[str]) -> None:
    """Raise InputError if a disk is too small for downloaded images, the packed cache and the checkpoints."""
    from tasks.room import cache_room, checkpoint_room, download_room, require_room

    require_room(
        {
            **(download_room(params.data) if "data" in stages else {}),
            **(cache_room(params.data, params.pack) if "pack" in stages else {}),
            **(checkpoint_room(params) if "train" in stages else {}),
        }
    )


if __name__ == "__main__":
    print(json.dumps(asdict(preflight(params(), sys.argv[1:]))))
