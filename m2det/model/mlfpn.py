"""The multi-level feature pyramid network (Zhao et al. 2019, section 3, figures 2 to 5).

FFMv1 fuses two backbone maps into the base feature; each TUM makes a pyramid of its input; FFMv2 concatenates the
largest map of one TUM and the thinned base feature as the next TUM's input; SFAM weighs the channels of the maps of
all levels, concatenated per scale. FFMv1 and FFMv2 are the methods `ffm_v1` and `ffm_v2` of `M2Det`, since their layers
have the original's names.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BasicConv(nn.Module):
    """Convolution, batch normalization, ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)

    def set_momentum(self, momentum: float) -> None:
        """Set the momentum of the running statistics, for one call per training step."""
        self.bn.momentum = momentum

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.bn(self.conv(x)))
        return out


def upsample_nearest_to(x: Tensor, size: torch.Size) -> Tensor:
    """Upsample [B,C,h,w] to [B,C,*size], keeping the dtype on every device.

    CUDA's autocast would compute in float32 and NPU's would not; copying values needs no precision.
    """
    with nullcontext() if x.is_meta else torch.autocast(x.device.type, enabled=False):  # meta has no autocast
        return F.interpolate(x, size=[int(side) for side in size], mode="nearest")


def repeat(times: int, shared: bool, make: Callable[[], nn.Module]) -> nn.ModuleList:
    """Return a list of modules; if shared, one module under several names, as in the original's state dicts."""
    return nn.ModuleList([make()] * times) if shared else nn.ModuleList(make() for _ in range(times))


class SharedConv(BasicConv):
    """A BasicConv computed once for several uses of its output, instead of once per use.

    Outputs and batch statistics of further calls with the same input would be equal, so only the running statistics
    remember the number of calls: they end as after `calls` of them.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, calls: int) -> None:
        super().__init__(inputs, outputs, kernel)
        self.calls = calls

    def set_momentum(self, momentum: float) -> None:
        self.bn.momentum = 1 - (1 - momentum) ** self.calls

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if self.bn.training:
            assert self.bn.num_batches_tracked is not None
            self.bn.num_batches_tracked.add_(self.calls - 1)  # batch normalization has counted the first
        return out


class TUM(nn.Module):
    """Thinned U-shape module (section 3.2, figure 4c): an encoder of strided convolutions, a top-down decoder.

    Args:
        inputs: Channels of the input.
        planes: Channels of each output map.
        scales: Number of output maps.
        smooth: Whether a 1x1 convolution follows each decoded map.
    """

    def __init__(self, inputs: int, planes: int, scales: int, smooth: bool) -> None:
        super().__init__()
        down = [BasicConv(inputs, planes, 3, 2, 1)]
        down += [BasicConv(planes, planes, 3, 2, 1) for _ in range(scales - 3)]
        down += [BasicConv(planes, planes, 3, 1, 0)]
        self.layers = nn.Sequential(*down)
        self.toplayer = nn.Sequential(BasicConv(planes, planes, 1))
        lateral = [BasicConv(planes, planes, 3, 1, 1) for _ in range(scales - 2)]
        self.latlayer = nn.Sequential(*lateral, BasicConv(inputs, planes, 3, 1, 1))
        self.smooth = nn.Sequential(
            *(BasicConv(planes, planes, 1) if smooth else nn.Identity() for _ in range(scales - 1))
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map [B,inputs,H,H] to maps [B,planes,h,h], smallest first; the last has the input's size."""
        encoded = [x]
        for layer in self.layers:
            encoded.append(layer(encoded[-1]))
        decoded = [self.toplayer(encoded.pop())]
        for lateral in self.latlayer:
            side = lateral(encoded.pop())
            decoded.append(upsample_nearest_to(decoded[-1], side.shape[2:]) + side)
        return [decoded[0], *(smooth(x) for smooth, x in zip(self.smooth, decoded[1:], strict=True))]


class SFAM(nn.Module):
    """Scale-wise feature aggregation (section 3.3, figure 5): channel attention as in squeeze-and-excitation.

    Args:
        channels: Channels of each map.
        scales: Number of maps.
        shared: One pair of layers for all scales, as in the original's code; the paper's figure has one per scale.
        compress: Channels over those of the hidden layer.
    """

    def __init__(self, channels: int, scales: int, shared: bool, compress: int = 16) -> None:
        super().__init__()
        inner = max(1, channels // compress)
        self.fc1 = repeat(scales, shared, lambda: nn.Conv2d(channels, inner, 1))
        self.fc2 = repeat(scales, shared, lambda: nn.Conv2d(inner, channels, 1))

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the maps [B,C,h,h], each multiplied by weights [B,C,1,1] of its channels."""
        out = []
        for x, fc1, fc2 in zip(maps, self.fc1, self.fc2, strict=True):
            weight = torch.sigmoid(fc2(F.relu(fc1(F.adaptive_avg_pool2d(x, 1)))))
            out.append(x * weight)
        return out
