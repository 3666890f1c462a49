"""ResNet (He et al. 2016) with the original's change: layer3 has stride 1.

Parameters have torchvision's names, with the unused classifier `fc`, so that ImageNet weights and the original's
checkpoints load.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from m2det.model.config import ResNetConfig


class Block(nn.Module):
    """A residual block: two 3x3 convolutions (basic), or 1x1, 3x3 and 1x1 with four times the channels (bottleneck)."""

    def __init__(self, inputs: int, width: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        outputs = width * 4 if bottleneck else width
        kernels = (1, 3, 1) if bottleneck else (3, 3)
        strides = (1, stride, 1) if bottleneck else (stride, 1)
        channels = (inputs, width, width, outputs) if bottleneck else (inputs, width, width)
        self.convolutions = len(kernels)
        for i, kernel in enumerate(kernels):
            conv = nn.Conv2d(channels[i], channels[i + 1], kernel, strides[i], kernel // 2, bias=False)
            self.add_module(f"conv{i + 1}", conv)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(channels[i + 1]))
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.downsample(x)
        for i in range(1, self.convolutions + 1):
            x = self.get_submodule(f"bn{i}")(self.get_submodule(f"conv{i}")(x))
            if i < self.convolutions:
                x = F.relu(x, inplace=True)
        return F.relu(x + shortcut, inplace=True)


class ResNet(nn.Module):
    """The backbone of `m2det{size}-resnet...`."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        expansion = 4 if config.bottleneck else 1
        channels = 64
        for i, blocks in enumerate(config.layers):
            width, stride = 64 * 2**i, (1, 2, 1, 2)[i]
            layer = nn.Sequential()
            for j in range(blocks):
                layer.append(Block(channels, width, stride if j == 0 else 1, config.bottleneck))
                channels = width * expansion
            self.add_module(f"layer{i + 1}", layer)
        self.fc = nn.Linear(channels, 1000).requires_grad_(False)  # unused: without a gradient that DDP would wait for
        self.shallow_channels, self.deep_channels = 128 * expansion, channels

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map [B,3,S,S] to layer2 [B,512,S/8,S/8] and layer4 [B,2048,S/16,S/16]; basic blocks: 128 and 512 channels."""
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.layer1(F.max_pool2d(x, 3, 2, 1))
        shallow = self.layer2(x)
        return shallow, self.layer4(self.layer3(shallow))
