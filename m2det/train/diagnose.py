"""Where numbers that are not finite come from."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from m2det.data.batch import collate
from m2det.errors import InputError
from m2det.model.preprocess import subtract_mean

if TYPE_CHECKING:
    from m2det.train.state import Run


def explain(run: Run, bad_batch: int) -> str:
    """A sentence on a loss that was not finite. The weights are still those of then: no update came after it."""
    step, part = divmod(bad_batch, run.order.accumulation)
    keys = run.order.microbatches(step)[part]
    images = subtract_mean(collate([run.samples[key] for key in keys]).to(run.device).images, run.device)
    with run.precision.autocast():
        source = first_nonfinite(run.model, images)
    ids = [int(run.split.image_ids[i]) for _, i in keys]
    where = f" in process {run.group.rank}" if run.group.size > 1 else ""
    return (
        f"the loss of step {step + 1}{where} is not finite; first: {source}; images {ids}; lower train.lr or set "
        "train.max_grad_norm, or look at these images"
    )


def refuse_infinite_weights(model: nn.Module, step: int) -> None:
    """Raises InputError naming the first: a finite loss may have an infinite gradient."""
    floating = {k: v for k, v in model.state_dict().items() if v.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in floating.values()]).tolist()
    for name, sound in zip(floating, finite, strict=True):
        if not sound:
            raise InputError(
                f"after step {step} the weights {name} are not finite, by the gradient of a loss that was; "
                "lower train.lr or set train.max_grad_norm"
            )


@torch.no_grad()
def first_nonfinite(model: nn.Module, images: Tensor) -> str:
    """The first thing that is not finite when the model, as it is, sees these images; a phrase for a sentence.

    images float32 [B,3,S,S]. Call it under the autocast of the training and with the weights of the bad step.
    """
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            return f"the weights {name}, by the update of an earlier step"
    if not images.isfinite().all():
        return "the images"
    found: list[str] = []

    def look(name: str, module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ARG001
        if isinstance(output, Tensor) and not found and not output.isfinite().all():
            found.append(f"the output of layer {name} ({type(module).__name__})")

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    hooks = [module.register_forward_hook(partial(look, name)) for name, module in leaves]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else "the loss itself, since all layers' outputs are finite: look at the boxes"
