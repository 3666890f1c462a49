"""Section `run`: how the processes work, whatever the training is."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from m2det.config.values import Section, Steps, rendezvous_address, setting


class RunParams(Section):
    """How a training is run: in no dependency of a stage but the measurements of speed."""

    device: Literal["auto", "cpu", "cuda", "npu"] = setting(
        "auto", "auto (an accelerator if there is one), cpu, cuda or npu"
    )
    processes: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = setting(
        1,
        "training processes of each machine, one per device; auto takes all devices, or a CPU's cores, that "
        "share a step's microbatches evenly",
    )
    nodes: Annotated[int, Field(ge=1, le=1024)] = setting(
        1, "machines that compute together, with run.processes each; on the others run `m2det join`"
    )
    rendezvous: Annotated[str, AfterValidator(rendezvous_address)] = setting(
        "", "HOST:PORT of this machine for the other nodes, in a network that you trust; the next port is used, too"
    )
    join_timeout: Annotated[int, Field(ge=1, le=7 * 24 * 3600)] = setting(
        600, "seconds to wait for the other nodes", "seconds"
    )
    oversubscribe: bool = setting(
        False, "on a CPU, allow more than 4 processes or 2 workers per core (8 of each are always allowed)"
    )
    workers: Annotated[int, Field(ge=0, le=256)] = setting(
        8, "data-loading processes of each training process; 0 loads in the training process"
    )
    compile: bool = setting(
        False, "compile the network with torch.compile (cpu and cuda): minutes of preparation, then faster steps"
    )
    graph: bool = setting(
        False,
        "capture the backbone and the TUMs as graphs (cuda; npu from Atlas A2 on): few launches from the host, more "
        "memory",
    )
    deterministic: bool = setting(
        False, "equal bits from equal runs on cuda and npu, too, at some speed; a CPU's runs have them anyway"
    )
    log_every: Steps = setting(100, "steps between log lines", "steps")
    save_every: Steps = setting(
        500, "steps between checkpoints within an epoch; the end of an epoch always writes one", "steps"
    )
    stop_grace: Annotated[int, Field(ge=1, le=3600)] = setting(
        60, "seconds from a signal to stop until processes are killed", "seconds"
    )

    @model_validator(mode="after")
    def _nodes_can_meet(self) -> RunParams:
        if self.nodes > 1 and not self.rendezvous:
            raise ValueError(
                f"run.nodes is {self.nodes}: set run.rendezvous to HOST:PORT, by which the others reach this machine"
            )
        return self
