"""Gradients are averaged while the backward pass goes on."""

from contextlib import nullcontext

import pytest
import torch

from m2det.distributed.group import Group
from m2det.model import build_model

MEGABYTE = 2**20


def late_megabytes(model, ordered: bool) -> tuple[float, float]:
    """MB of gradients whose averaging begins when the last gradient is there, and MB of all."""
    with model.in_forward_order() if ordered else nullcontext():
        network = Group(0, 2, 0).wrap(model, torch.device("cpu"))
    ready, sizes = [], []  # parameters whose gradient is there; (parameters ready, bytes) of each bucket
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(lambda _: ready.append(1))

    def note(_, bucket):
        sizes.append((len(ready), bucket.buffer().nbytes))
        future = torch.futures.Future()
        future.set_result(bucket.buffer())
        return future

    network.register_comm_hook(None, note)
    outputs = network(torch.randn(2, 3, model.config.size, model.config.size))
    (outputs["loc"].sum() + outputs["conf"].sum()).backward()
    total = len(list(model.parameters()))
    assert len(ready) == total
    late = sum(size for count, size in sizes if count >= total - 1)  # the last one's own hook may run before or after
    return late / MEGABYTE, sum(size for _, size in sizes) / MEGABYTE


@pytest.mark.slow
@pytest.mark.usefixtures("group_of_one")
def test_few_gradients_wait_for_the_end_of_the_backward_pass():
    """In the order of the original's registration, 40 % of them do."""
    late, total = late_megabytes(build_model("m2det320-vgg16", 80), ordered=True)
    assert total > 500 and late < 0.05 * total
    late, total = late_megabytes(build_model("m2det320-vgg16", 80), ordered=False)
    assert late > 0.3 * total


def test_the_order_inside_is_gone_outside_and_changes_no_key():
    model = build_model("m2det-tiny", 3)
    keys, parameters = list(model.state_dict()), [name for name, _ in model.named_parameters()]
    with model.in_forward_order():
        inside = [name for name, _ in model.named_children()]
        assert sorted(model.state_dict()) == sorted(keys)
    assert inside[:4] == ["base", "reduce", "up_reduce", "leach"] and inside[4].startswith("unet")
    assert list(model.state_dict()) == keys and [name for name, _ in model.named_parameters()] == parameters
