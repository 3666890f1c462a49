"""The loss has the original's numbers, and shapes that do not depend on values."""

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from m2det.boxes import cxcywh_to_xyxy, decode_offsets_to_xyxy, encode_xyxy_to_offsets, iou_xyxy
from m2det.loss import MultiBoxLoss, match, multibox
from m2det.model import prior_boxes
from tests.golden.reference import arrays
from tests.loss.largest_tensor import LargestTensor


def padded(targets: list[np.ndarray], size: int) -> tuple[torch.Tensor, torch.Tensor]:
    boxes, labels = torch.zeros(len(targets), size, 4), torch.zeros(len(targets), size, dtype=torch.int64)
    for i, rows in enumerate(targets):
        boxes[i, : len(rows)] = torch.from_numpy(rows[:, :4]).float()
        labels[i, : len(rows)] = torch.from_numpy(rows[:, 4]).long()
    return boxes, labels


def golden_case(data, rng, case: int):
    counts = data[f"{case}_seed3_counts"]
    classes = int(data[f"{case}_classes"])
    for n in counts:  # the draws of the targets come first from the same generator
        if n:
            (
                rng.uniform(0.1, 0.9, (n, 2)),
                rng.uniform(np.log(0.03), np.log(0.9), (n, 2)),
                rng.integers(1, classes, (n, 1)),
            )
    boxes, labels = padded([data[f"{case}_t{j}"] for j in range(len(counts))], 32)
    loc = torch.from_numpy(rng.normal(0, 1.5, (len(counts), 12810, 4)).astype(np.float32))
    conf = torch.from_numpy(rng.normal(0, 2, (len(counts), 12810, classes)).astype(np.float32))
    return loc.requires_grad_(), conf.requires_grad_(), boxes, labels


def test_loss_and_gradients_equal_the_original():
    data = arrays("loss_320")
    priors = prior_boxes("m2det320-vgg16")
    rng = np.random.default_rng(3)
    for case in range(4):
        loc, conf, boxes, labels = golden_case(data, rng, case)
        losses = MultiBoxLoss()({"loc": loc, "conf": conf}, priors, boxes, labels)
        assert [losses["loc"].item(), losses["conf"].item()] == pytest.approx(data[f"{case}_loss"].tolist(), rel=1e-5)
        (losses["loc"] + losses["conf"]).backward()
        assert [loc.grad.norm().item(), conf.grad.norm().item()] == pytest.approx(
            data[f"{case}_gradnorm"].tolist(), rel=1e-5
        )
        nonzero = [int((g.abs().sum(-1) > 0).sum()) for g in (loc.grad, conf.grad)]
        assert nonzero == data[f"{case}_nz"].tolist()
        matched, matched_labels = match(cxcywh_to_xyxy(priors), boxes, labels, 0.5)
        image, prior = (matched_labels > 0).nonzero().T
        assert torch.stack([image, prior], 1).tolist() == data[f"{case}_pos"].tolist()
        assert matched_labels[image, prior].tolist() == data[f"{case}_pos_label"].tolist()
        encoded = encode_xyxy_to_offsets(matched, priors)[image, prior]
        np.testing.assert_allclose(encoded.numpy(), data[f"{case}_pos_loc"], atol=1e-5)


class NoDynamicShapes(TorchDispatchMode):
    """Refuses operators whose result's shape, or whose answer, only the device knows."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("nonzero", "masked_select", "_local_scalar_dense", "unique", "argsort"), name
        if name in ("index", "index_put", "index_put_"):
            assert all(i is None or i.dtype != torch.bool for i in args[1]), f"{name} with a boolean mask"
        return func(*args, **(kwargs or {}))


def test_no_operator_waits_for_the_device():
    priors = prior_boxes("m2det-tiny")
    outputs = {"loc": torch.randn(2, len(priors), 4), "conf": torch.randn(2, len(priors), 11)}
    outputs = {key: value.requires_grad_() for key, value in outputs.items()}
    boxes, labels = padded([np.array([[0.1, 0.1, 0.4, 0.5, 3]]), np.zeros((0, 5))], 16)
    with NoDynamicShapes():
        losses = MultiBoxLoss()(outputs, priors, boxes, labels)
        (losses["loc"] + losses["conf"]).backward()


def test_images_without_objects_are_finite_and_give_no_gradient():
    priors = prior_boxes("m2det-tiny")
    outputs = {"loc": torch.randn(2, len(priors), 4), "conf": torch.randn(2, len(priors), 11)}
    outputs = {key: value.requires_grad_() for key, value in outputs.items()}
    boxes, labels = padded([np.zeros((0, 5))] * 2, 16)
    losses = MultiBoxLoss()(outputs, priors, boxes, labels)
    (losses["loc"] + losses["conf"]).backward()
    assert losses["loc"].item() == losses["conf"].item() == 0.0
    assert not outputs["loc"].grad.any() and not outputs["conf"].grad.any()


def test_padding_does_not_matter():
    priors = prior_boxes("m2det-tiny")
    outputs = {"loc": torch.randn(1, len(priors), 4), "conf": torch.randn(1, len(priors), 11)}
    rows = [np.array([[0.1, 0.1, 0.4, 0.5, 3], [0.3, 0.2, 0.9, 0.8, 1]])]
    few, many = (MultiBoxLoss()(outputs, priors, *padded(rows, size)) for size in (16, 64))
    assert few["loc"].item() == many["loc"].item() and few["conf"].item() == many["conf"].item()


def match_at_once(priors, boxes, labels, threshold):
    """As match, for one image without padding, with all boxes against all priors, and loops."""
    iou = iou_xyxy(boxes, priors)
    best_iou, truth = iou.max(0)
    for number, prior in enumerate(iou.argmax(1).tolist()):
        best_iou[prior], truth[prior] = 2.0, number
    return boxes[truth], labels[truth] * (best_iou >= threshold)


@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_crowded_images_are_matched_in_portions_with_equal_results(monkeypatch, size):
    """500 boxes with all priors at once would be 570,000 elements an image, and with each other 250,000."""
    priors = cxcywh_to_xyxy(prior_boxes("m2det-tiny"))
    monkeypatch.setattr(multibox, "MAX_ELEMENTS", 2 * len(priors) * size)
    low = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 0.9
    crowd = torch.cat([low, low + 0.03 + low.flip(0) * 0.1], 1)
    crowd[400:] = crowd[100:200]  # equal boxes in other portions claim the same priors
    few = torch.tensor([[0.1, 0.1, 0.2, 0.2], [0.0, 0.0, 1e-3, 1e-3]])  # the last claims a prior; so does no padding
    boxes, labels = torch.zeros(2, 512, 4), torch.zeros(2, 512, dtype=torch.int64)
    for i, rows in enumerate((crowd, few)):
        boxes[i, : len(rows)], labels[i, : len(rows)] = rows, torch.arange(len(rows)) % 80 + 1
    with LargestTensor() as largest:
        matched = match(priors, boxes, labels, 0.5)
    for i, rows in enumerate((crowd, few)):
        expected = match_at_once(priors, rows, labels[i, : len(rows)], 0.5)
        for found, wanted in zip(matched, expected, strict=True):
            assert torch.equal(found[i], wanted)
    assert largest.most <= 2 * len(priors) * max(size, 4)  # 4: coordinates of a prior's box


def test_encoding_is_undone_by_decoding():
    priors = prior_boxes("m2det-tiny")
    low = torch.rand(len(priors), 2) * 0.5
    boxes = torch.cat([low, low + 0.01 + torch.rand(len(priors), 2) * 0.4], 1)
    back = decode_offsets_to_xyxy(encode_xyxy_to_offsets(boxes, priors), priors)
    torch.testing.assert_close(back, boxes, atol=1e-5, rtol=0)


def test_iou_of_known_boxes():
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 3.0, 3.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(iou_xyxy(boxes, boxes), torch.tensor([[1, 1 / 7, 0], [1 / 7, 1, 0], [0, 0, 0]]))
