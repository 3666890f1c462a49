"""Where a loss that is not finite comes from."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


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
