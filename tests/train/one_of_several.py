"""What torchrun starts for test_together.py: -m tests.train.one_of_several CASE PARAMS CACHE BACKBONE FOLDER."""

import atexit
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from m2det.config import load_params
from m2det.data.batch import collate
from m2det.distributed.group import Group
from m2det.distributed.launch import run_worker
from m2det.train.ema import Average
from m2det.train.rank import main
from m2det.train.state import Run
from m2det.train.trainer import ALONE, train_step


def first_gradients(params, cache, backbone, folder, group=ALONE):
    """The gradients of the first step, as the loop makes them, but in float64, which says what float32 blurs."""
    run = Run(params, cache, backbone, folder, group)
    run.model.double().register_forward_pre_hook(lambda _, images: (images[0].double(),))
    run.average = Average(run.model, 0.0)
    run.optimizer.state.clear()  # momentum in float32
    run.network = group.wrap(run.model, run.device)
    train_step(run, [collate([run.samples[key] for key in part]) for part in run.order.parts(0)])
    return {name: p.grad for name, p in run.model.named_parameters()}


def assert_close(found, wanted):
    """To 1e-5 of each tensor's largest value."""
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        assert torch.allclose(found[name], gradient, rtol=1e-5, atol=1e-5 * gradient.abs().max().item()), name


def run_case(case: str):
    """Return a replacement of run_child whose processes run a case of this module instead of m2det.train.rank."""

    def run(command, **options):
        module = [part.replace("m2det.train.rank", "tests.train.one_of_several") for part in command[:-4]]
        run_child([*module, case, *command[-4:]], **options)

    return run


def gradients(params_file: str, cache: str, backbone: str, folder: str) -> None:
    """Leave first_gradients in FOLDER/gradients.pt."""
    group = Group.from_environment()
    found = first_gradients(load_params(params_file), Path(cache), Path(backbone), Path(folder), group)
    if group.is_main_process:
        torch.save(found, Path(folder) / "gradients.pt")


def poisoned(*arguments: str) -> None:
    """Train; in process 1 the loss of step 3 is not finite."""
    note = Run.note

    def poison(self: Run, part: int, losses: dict[str, torch.Tensor]) -> None:
        bad = self.step == 2 and self.group.rank == 1
        note(self, part, {**losses, "loc": losses["loc"] * (float("nan") if bad else 1)})

    Run.note = poison  # type: ignore[method-assign]
    main(*arguments)


def crashing(*arguments: str) -> None:
    """Train; process 1 has a mistake in step 3."""
    did_step = Run.did_step

    def crash(self: Run) -> None:
        did_step(self)
        if self.step == 3 and self.group.rank == 1:
            raise KeyError("a mistake in step 3")

    Run.did_step = crash  # type: ignore[method-assign]
    main(*arguments)


def stuck(*arguments: str) -> None:
    """Train; in step 3 process 1 waits for ever, whatever signal comes."""
    did_step = Run.did_step

    def wait(self: Run) -> None:
        did_step(self)
        if self.step == 3 and self.group.rank == 1:
            (self.unfinished / "stuck").touch()
            while True:
                time.sleep(1)

    Run.did_step = wait  # type: ignore[method-assign]
    main(*arguments)


def leaving(folder: str) -> None:
    """Meet the others; print at the end of the process whether they were left before."""
    atexit.register(lambda: print(f"connected: {dist.is_initialized()}", flush=True))

    def meet(group: Group) -> None:
        group.init(torch.device("cpu"))
        group.barrier()

    run_worker(meet, Path(folder), 5.0)


if __name__ == "__main__":
    cases = {"leaving": leaving}
    cases |= {"gradients": gradients, "poisoned": poisoned, "crashing": crashing, "stuck": stuck, "train": main}
    cases[sys.argv[1]](*sys.argv[2:])
