"""The loss against the original's way to it, on what a step of M2Det512 has."""

import pytest
import torch

from m2det.loss import MultiBoxLoss
from tests.loss.original_loss import material, original_loss


def loss_and_gradients(loss, arguments):
    losses = loss(*arguments)
    (losses["loc"] + losses["conf"]).backward()
    gradients = [output.grad for output in arguments[0].values()]
    for output in arguments[0].values():
        output.grad = None
    return losses, gradients


def test_numbers_and_gradients_are_those_of_the_originals_way():
    arguments = material("cpu", images=2)
    losses, gradients = loss_and_gradients(MultiBoxLoss(), arguments)
    expected, expected_gradients = loss_and_gradients(original_loss, arguments)
    for name in losses:
        assert losses[name].item() == pytest.approx(expected[name].item(), rel=1e-5)
    for gradient, other in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-8)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_is_never_waited_for():
    arguments = material("cuda")
    loss_and_gradients(MultiBoxLoss(), arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_and_gradients(MultiBoxLoss(), arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
