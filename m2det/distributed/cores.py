"""How many processes the cores of a machine can run where no accelerator does the work."""

from __future__ import annotations

from m2det.config import Params
from m2det.device import choose_device
from m2det.distributed.lifetime import usable_cores
from m2det.errors import InputError


def check_processes(params: Params, processes: int) -> None:
    """Raise InputError for more than max(8, 4 x cores) processes on a CPU, unless run.oversubscribe is true."""
    cores = usable_cores()
    if processes > max(8, 4 * cores):
        _refuse(params, f"run.processes is {processes}", max(8, 4 * cores), cores)


def check_workers(params: Params, processes: int) -> None:
    """Raise InputError for more than max(8, 2 x cores) workers of all processes together, with the same exception."""
    workers, cores = params.run.workers, usable_cores()
    if processes * workers > max(8, 2 * cores):
        each = f", in each of {processes} processes" if processes > 1 else ""
        _refuse(params, f"run.workers is {workers}{each}", max(8, 2 * cores), cores)


def _refuse(params: Params, setting: str, limit: int, cores: int) -> None:
    if choose_device(params.run.device).type == "cpu" and not params.run.oversubscribe:
        raise InputError(
            f"{setting}, but on a CPU with {cores} usable cores more than {limit} together would starve the machine; "
            "lower it, or set run.oversubscribe to true in params.yaml if you mean it"
        )
