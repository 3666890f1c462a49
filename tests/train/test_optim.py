"""The learning rate is scaled with batch_size, weight decay depends on the kind of parameter, the cosine ends at 0."""

import pytest
import torch

from m2det.loss import MultiBoxLoss
from m2det.model import build_model, prior_boxes
from m2det.train.optim import load_optimizer, make_optimizer, scaled_lr
from m2det.train.schedule import learning_rate
from tests.training import settings


@pytest.mark.parametrize(("images", "rate", "warns"), [(8, 0.001, False), (32, 0.004, False), (56, 0.007, True)])
def test_the_rate_is_in_proportion_and_warns_where_the_original_lost_accuracy(caplog, images, rate, warns):
    """With 56 images instead of 32, the original lost 11 AP."""
    caplog.set_level("INFO")
    found = scaled_lr(settings(batch_size=images, lr=0.004, lr_batch_size=32).train)
    assert found == pytest.approx(rate)
    assert f"for {images} images per step" in caplog.text
    assert ("warning: a step has 1.8 times" in caplog.text) == warns


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_state_of_another_memory_format_and_kernel_goes_on_alike(name):
    """As an NPU saves it, channels first and over lists of tensors; here it is channels last and fused."""
    updates, images = [], torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for saved_as in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        layer = torch.nn.Conv2d(3, 4, 3).to(memory_format=saved_as)
        optimizer = make_optimizer(layer, settings(optimizer=name).train, 0.1)
        layer(images).square().sum().backward()
        optimizer.step()
        state = optimizer.state_dict()
        for group in state["param_groups"]:
            group.update(fused=False, foreach=True)
        layer = layer.to(memory_format=torch.channels_last)
        other = make_optimizer(layer, settings(optimizer=name).train, 0.1)
        load_optimizer(other, state)
        assert all(group["fused"] and not group["foreach"] for group in other.param_groups)
        layer(images).square().sum().backward()
        other.step()
        updates.append(layer.weight.detach().clone())
    assert torch.allclose(*updates, rtol=1e-5)


def test_norms_and_biases_decay_only_when_asked_to():
    model = build_model("m2det-tiny", 3)
    (everything,) = make_optimizer(model, settings().train, 0.1).param_groups
    assert len(everything["params"]) == len(list(model.parameters()))
    decaying, rest = make_optimizer(model, settings(weight_decay_norm_bias=False).train, 0.1).param_groups
    assert (decaying["weight_decay"], rest["weight_decay"]) == (settings().train.weight_decay, 0.0)
    assert {p.ndim for p in decaying["params"]} == {4} and {p.ndim for p in rest["params"]} == {1}


def test_the_cosine_falls_from_the_base_to_nothing():
    def rate(epoch, fraction):
        return learning_rate(epoch, fraction, epochs=10, base=0.4, warmup=0.2, schedule="cosine")

    assert rate(2, 0.0) == pytest.approx(0.4)
    assert rate(6, 0.0) == pytest.approx(0.2)
    assert rate(9, 0.999) < 1e-6
    assert rate(1, 0.0) == pytest.approx(0.2, rel=1e-4), "the warm-up is the steps'"


def test_label_smoothing_spreads_the_share_it_is_given():
    """Equal logits but for one prior's: by the formula, a share s of each label's weight goes to all classes alike."""
    priors = prior_boxes("m2det-tiny")
    logits = torch.zeros(1, len(priors), 4)
    logits[..., 0] = 3.0
    outputs = {"loc": torch.zeros(1, len(priors), 4), "conf": logits}
    boxes, labels = torch.tensor([[[0.1, 0.1, 0.4, 0.4]]]), torch.tensor([[2]])
    log_p = logits[0, 0].log_softmax(-1)

    def wanted(share):  # per positive: itself and three negatives
        return -((1 - share) * (log_p[2] + 3 * log_p[0]) + share * 4 * log_p.mean())

    for share in (0.0, 0.4):
        found = MultiBoxLoss(label_smoothing=share)(outputs, priors, boxes, labels)["conf"]
        assert found.item() == pytest.approx(wanted(share).item(), rel=1e-5)
