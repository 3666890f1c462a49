"""The network as other runtimes get it: pixels in, boxes and scores out."""

from __future__ import annotations

from torch import Tensor, nn

from m2det.boxes import decode_offsets_to_xyxy
from m2det.model.m2det import M2Det
from m2det.model.preprocess import mean_bgr
from m2det.model.priors import prior_boxes


class ExportedDetector(nn.Module):
    """Mean subtraction, network, box decoding and softmax; each runtime has its own non-maximum suppression."""

    mean: Tensor
    priors: Tensor

    def __init__(self, model: M2Det) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", mean_bgr())
        self.register_buffer("priors", prior_boxes(model.config))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes float32 [B,P,4] xyxy in [0,1] and scores float32 [B,P,C+1], background first.

        Args:
            images: float32 [B,3,S,S] BGR from 0 to 255.
        """
        outputs = self.model(images - self.mean)
        return decode_offsets_to_xyxy(outputs["loc"], self.priors), outputs["conf"].softmax(-1)
