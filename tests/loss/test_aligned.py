"""The aligned objective equals its plain, slow twin, on targets as bad as can be."""

import pytest
import torch

from m2det.boxes import encode_xyxy_to_offsets
from m2det.loss import AlignedLoss, aligned
from m2det.model import prior_boxes
from tests.loss.largest_tensor import LargestTensor
from tests.loss.original_loss import material
from tests.loss.slow_aligned import slow_aligned

PRIORS = prior_boxes("m2det-tiny")
CLASSES = 10


def predictions(images, seed=0, near=None):
    """Random outputs; with `near`, boxes [N,4], predicted boxes lie near these, as in a trained network."""
    generator = torch.Generator().manual_seed(seed)
    loc = torch.randn(images, len(PRIORS), 4, generator=generator)
    if near is not None:
        chosen = near[torch.randint(len(near), (images, len(PRIORS)), generator=generator)]
        chosen = chosen + 0.02 * torch.randn(chosen.shape, generator=generator)
        loc = 0.5 * loc + 0.5 * encode_xyxy_to_offsets(chosen, PRIORS)
    conf = 2 * torch.randn(images, len(PRIORS), CLASSES + 1, generator=generator)
    return {"loc": loc.requires_grad_(), "conf": conf.requires_grad_()}


def random_boxes(count, seed=1, side=0.6):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * (1 - side)
    return torch.cat([low, low + 0.02 + torch.rand(count, 2, generator=generator) * (side - 0.02)], 1)


def padded(rows, size):
    """Boxes [B,G,4] and labels [B,G] of a list of boxes [N,4]; classes go round."""
    boxes, labels = torch.zeros(len(rows), size, 4), torch.zeros(len(rows), size, dtype=torch.int64)
    for i, image in enumerate(rows):
        boxes[i, : len(image)] = image
        labels[i, : len(image)] = torch.arange(len(image)) % CLASSES + 1
    return boxes, labels


NONE = torch.zeros(0, 4)
ONE_PIXEL = torch.tensor([[0.5, 0.5, 0.5 + 1 / 96, 0.5 + 1 / 96]])
EVERYTHING = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
LINES = torch.tensor([[0.0, 0.3, 1.0, 0.31], [0.7, 0.0, 0.71, 1.0]])
TARGETS = {
    "random": [random_boxes(5), random_boxes(12, seed=2)],
    "no object": [NONE, NONE],
    "none in one image": [random_boxes(3), NONE],
    "one pixel": [ONE_PIXEL, torch.tensor([[0.0, 0.0, 1 / 96, 1 / 96]])],
    "the whole image": [EVERYTHING, torch.cat([EVERYTHING, random_boxes(4)])],
    "lines": [LINES, LINES[:1]],
    "500 objects": [random_boxes(500, side=0.3)],
    "all overlapping": [torch.tensor([[0.3, 0.3, 0.7, 0.7]]) + 0.02 * random_boxes(14)],
    "duplicates": [random_boxes(3).repeat(3, 1), ONE_PIXEL.repeat(4, 1)],
    "an empty box": [torch.tensor([[0.4, 0.4, 0.4, 0.4]]), random_boxes(2)],
}


@pytest.mark.parametrize("trained", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", TARGETS)
def test_losses_and_gradients_equal_the_slow_twins(name, trained):
    rows = TARGETS[name]
    boxes, labels = padded(rows, 512 if name == "500 objects" else 16)
    near = torch.cat(rows) if trained and sum(map(len, rows)) else None
    results = []
    for objective in (AlignedLoss(), slow_aligned):
        outputs = predictions(len(rows), near=near)
        losses = objective(outputs, PRIORS, boxes, labels)
        loss = losses["loc"] + losses["conf"]
        if loss.requires_grad:
            loss.backward()
        gradients = [torch.zeros_like(x) if x.grad is None else x.grad for x in outputs.values()]
        results.append([losses["loc"].detach(), losses["conf"].detach(), *gradients])
    for found, wanted in zip(*results, strict=True):
        assert found.isfinite().all()
        torch.testing.assert_close(found, wanted, rtol=2e-4, atol=1e-7)


def test_the_normalizer_divides_both_losses():
    boxes, labels = padded(TARGETS["random"], 16)
    outputs, objective = predictions(2), AlignedLoss()
    targets = objective.targets(PRIORS, boxes, labels)
    own = objective(outputs, PRIORS, boxes, labels)
    count = targets.num_positives
    assert 17 < count <= 17 * aligned.POSITIVES  # of 17 objects
    doubled = objective.compute(outputs, targets, 2 * count)
    for name in own:
        torch.testing.assert_close(doubled[name], own[name] / 2)
        assert own[name] > 0.1


def test_padding_does_not_matter():
    outputs, rows = predictions(1), TARGETS["random"][:1]
    few, many = (AlignedLoss()(outputs, PRIORS, *padded(rows, size)) for size in (16, 64))
    assert few["loc"].item() == many["loc"].item() and few["conf"].item() == many["conf"].item()


def test_a_small_object_that_no_prior_fits_has_positives_all_the_same():
    """MultiBox gives it one prior, whatever the IoU; a minimum of 0.2 alone would give it none."""
    boxes, labels = padded([ONE_PIXEL], 16)
    targets = AlignedLoss().targets(PRIORS, boxes, labels)
    assert targets.num_positives == aligned.POSITIVES


def test_a_prior_belongs_to_the_box_that_it_overlaps_most():
    index = torch.tensor([[[4, 7], [7, 9], [7, 4]]])
    iou = torch.tensor([[[0.5, 0.6], [0.8, 0.1], [0.8, 0.5]]])
    chosen = torch.tensor([[[True, True], [True, False], [True, True]]])
    kept = aligned.keep_best_of_each_prior(index, iou, chosen)
    assert kept.tolist() == [[[True, False], [True, False], [False, False]]]  # of equals the first


def test_memory_is_bounded_and_portions_change_nothing(monkeypatch):
    """500 objects an image with all priors at once would be 584,000 elements, and their positives against each other
    26 millions."""
    boxes, labels = padded([random_boxes(500, side=0.3)], 512)
    outputs, objective = predictions(1), AlignedLoss()
    with torch.no_grad():
        whole = objective(outputs, PRIORS, boxes, labels)
        monkeypatch.setattr(aligned, "MAX_ELEMENTS", 100_000)
        with LargestTensor() as largest:
            portions = objective(outputs, PRIORS, boxes, labels)
    assert portions["loc"] == whole["loc"] and portions["conf"] == whole["conf"]
    assert largest.most <= 4 * 512 * aligned.MAX_CANDIDATES  # the candidates' boxes


@pytest.mark.parametrize("name", ["loc", "conf"])
@pytest.mark.parametrize("where", ["a candidate", "everywhere"])
def test_a_nan_reaches_the_loss(name, where):
    boxes, labels = padded(TARGETS["random"], 16)
    prior = AlignedLoss().targets(PRIORS, boxes, labels).index[1, 3, 0]
    outputs = {key: value.detach() for key, value in predictions(2).items()}
    outputs[name][1, prior if where == "a candidate" else slice(None)] = float("nan")
    losses = AlignedLoss()(outputs, PRIORS, boxes, labels)
    assert (losses["loc"] + losses["conf"]).isnan()


def test_huge_predictions_have_a_finite_loss_and_gradient():
    """Also at priors that are not positive, which are decoded, too, and left out of the loss."""
    boxes, labels = padded([random_boxes(2), NONE], 16)
    outputs = {key: value.detach() for key, value in predictions(2).items()}
    outputs["loc"][..., 2:] = 300.0
    outputs = {key: value.requires_grad_() for key, value in outputs.items()}
    losses = AlignedLoss()(outputs, PRIORS, boxes, labels)
    (losses["loc"] + losses["conf"]).backward()
    assert losses["loc"].isfinite() and all(output.grad.isfinite().all() for output in outputs.values())


def test_a_batch_of_no_boxes_at_all_has_no_loss():
    losses = AlignedLoss()(predictions(2), PRIORS, torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.int64))
    assert losses["loc"].item() == losses["conf"].item() == 0.0


def test_targets_have_no_gradient_and_predictions_do():
    boxes, labels = padded(TARGETS["random"], 16)
    outputs = predictions(2)
    losses = AlignedLoss()(outputs, PRIORS, boxes, labels)
    losses["loc"].backward(retain_graph=True)
    assert outputs["loc"].grad.any() and outputs["conf"].grad is None, "the assignment is no part of the loss"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
def test_a_gpu_is_never_waited_for():
    arguments = material("cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = AlignedLoss()(*arguments)
        (losses["loc"] + losses["conf"]).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
