"""What torchrun starts for test_together.py: -m tests.train.one_of_several CASE PARAMS CACHE BACKBONE FOLDER."""

import sys
from pathlib import Path

import torch

from m2det.config import load_params
from m2det.data.loader import training_loader
from m2det.device import normalise
from m2det.train.__main__ import main
from m2det.train.group import Group
from m2det.train.run import Run


def gradients(params_file: str, cache: str, backbone: str, folder: str) -> None:
    """Leave the gradients of the first step in FOLDER/gradients.pt; in float64, which says what float32 blurs."""
    group = Group.from_environment()
    run = Run(load_params(params_file), Path(cache), Path(backbone), Path(folder), group)
    batch = next(iter(training_loader(run.samples, run.order, 0, False)))
    network = group.wrap(run.model.double(), run.device)
    out = network(normalise(batch.images, run.device).double())
    losses = run.loss(out, run.priors, batch.boxes, batch.labels)
    (losses["loc"] + losses["conf"]).backward()
    if group.leads:
        torch.save({name: p.grad for name, p in run.model.named_parameters()}, Path(folder) / "gradients.pt")


def poisoned(*arguments: str) -> None:
    """Train; in process 1 the loss of step 3 is not finite."""
    note = Run.note

    def poison(self: Run, losses: dict[str, torch.Tensor]) -> None:
        bad = self.step == 2 and self.group.rank == 1
        note(self, {**losses, "loc": losses["loc"] * (float("nan") if bad else 1)})

    Run.note = poison  # type: ignore[method-assign]
    main(*arguments)


if __name__ == "__main__":
    {"gradients": gradients, "poisoned": poisoned, "train": main}[sys.argv[1]](*sys.argv[2:])
